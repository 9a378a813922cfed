"""What raising found, site by site, as `inspect` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch.fx import Node

from hcompile.passes.mask_meaning import MaskMeaning
from hcompile.passes.sites import KEY_MASK, MATCH_META
from hcompile.program import Program


@dataclass(frozen=True, slots=True)
class Finding:
    """One attention that was raised.

    Attributes:
        site: its name.
        match: how it was found: "interface" (the attention interface of transformers), "sdpa" or "eager".
        mask: what its mask means, in words.
        guard: the input that is checked in every call for zeros and ones, or None.
    """

    site: str
    match: str
    q_heads: int
    kv_heads: int
    head_dim: int
    mask: str
    guard: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def findings(program: Program) -> tuple[Finding, ...]:
    """Return what is known of each site of a program that was raised in this process."""
    guarded = {guard.input for guard in program.guards}
    found = []
    for site, node in program.attention_nodes():
        key_mask = node.args[KEY_MASK]
        mask = MaskMeaning(site.causal, site.window).describe()
        guard = None
        if isinstance(key_mask, Node):
            mask += ", key padding"
            guard = next((used.name for used in key_mask.all_input_nodes if used.name in guarded), None)
        match = node.meta.get(MATCH_META, "interface")
        found.append(Finding(site.name, match, site.q_heads, site.kv_heads, site.head_dim, mask, guard))
    return tuple(found)
