"""The sizes that patterns of blocks are defined in: kernel tiles divide or multiply them, tuning changes no result."""

LIST_BLOCK = 64
"""Queries, and keys, of a block."""
LIST_QUERIES = 2 * LIST_BLOCK
"""Queries that share a list of key blocks (`hcompile.lists`): an entry says which halves of them see its block."""
LIST_WINDOW = 0
"""The window, in a head's parameters, that says that it reads a list."""
EVERY_KEY = 8
"""The estimate of a routed head looks at every 8th key: it takes a sixteenth of its pairs, as no value is read."""
WHOLE = 1000
"""What the share in a routed head's parameters is a part of."""
