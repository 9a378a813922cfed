"""`hcompile optimize`: the path of a model through the house, from top to bottom."""
