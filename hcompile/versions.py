"""Versions of the libraries that decide what a kernel is and how fast it runs."""

from __future__ import annotations

from importlib import metadata

_LIBRARIES = {
    "hcompile": "hcompile",
    "torch": "torch",
    "triton": "triton",
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
}


def library_versions() -> dict[str, str]:
    """Return the installed version of each library, "none" where it is missing. Imports none of them."""
    found = {}
    for name, distribution in _LIBRARIES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found
