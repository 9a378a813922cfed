"""Pattern families. A new one is a file here and a line below."""

from hcompile.patterns.base import (
    UNBOUNDED,
    WIDENING_KEYS,
    Pattern,
    default_families,
    families,
    menu_of,
    parse_pattern,
    pattern_of_label,
    widening_keys,
)
from hcompile.patterns.dense import Dense
from hcompile.patterns.global_tokens import GlobalTokens
from hcompile.patterns.linear import Linear
from hcompile.patterns.local import Local
from hcompile.patterns.routed import Routed

__all__ = [
    "UNBOUNDED",
    "WIDENING_KEYS",
    "Dense",
    "GlobalTokens",
    "Linear",
    "Local",
    "Pattern",
    "Routed",
    "default_families",
    "families",
    "menu_of",
    "parse_pattern",
    "pattern_of_label",
    "widening_keys",
]
