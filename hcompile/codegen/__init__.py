"""Code generators: from a schedule to a callable kernel, behind one small interface, each loaded on first use."""

from hcompile.codegen.registry import get_backend

__all__ = ["get_backend"]
