"""A run as one HTML page that needs nothing else: what was decided, the figures it rests on, and how each was got.

`page.py` has the parts that any page is made of, and `place.py` writes one; `optimize_page.py` is the page of
`hcompile optimize`. Another command's page is a `Page` with sections of its own.
"""
