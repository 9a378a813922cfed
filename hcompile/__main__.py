"""`python -m hcompile` is the command `hcompile`."""

from __future__ import annotations

from hcompile.cli.main import main

main()
