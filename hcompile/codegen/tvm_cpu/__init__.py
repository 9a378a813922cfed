"""The CPU backend: one tile function generated with TVM, run by a small C launcher on torch's own threads."""
