"""What heads that read lists of key blocks read of one document, with all heads of a site under one pattern."""

from __future__ import annotations

import torch

from hcompile.lists import Lists, listed_blocks, lists_of
from hcompile.patterns import Dense, Pattern
from hcompile.patterns.blocks import EVERY_KEY, LIST_BLOCK, WHOLE
from hcompile.routing import block_shares, choose_blocks, pairs_read
from hcompile.site import Site


class SiteLists:
    """The lists of one site for q `[B, Hq, S, D]` and k `[B, Hkv, S, D]` without padding; the estimate is made once."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, site: Site) -> None:
        self._q, self._k, self._site = q, k, site
        self._shares: torch.Tensor | None = None

    def of(self, pattern: Pattern) -> tuple[Lists | tuple[()], torch.Tensor]:
        """Return the lists of all heads under a pattern, and the share of the dense pairs that each reads `[Hq]`.

        No lists, and shares of 1, for a pattern that reads none.
        """
        heads, length = self._q.shape[1:3]
        if not pattern.reads_lists:
            return (), torch.ones(heads, dtype=torch.float64, device=self._q.device)
        chosen = self.chosen(pattern.params()[1])
        read = pairs_read(chosen, 0, length, length, self._site.causal).double().mean(0)
        return lists_of(chosen), read / Dense().visited_pairs(length, length, causal=self._site.causal)

    def chosen(self, share: int) -> torch.Tensor:
        """Return the blocks that heads routed for `share` thousandths read: bool `[B, Hq, blocks, blocks]`."""
        site, length = self._site, self._q.shape[2]
        if self._shares is None:
            self._shares = block_shares(
                self._q, self._k, None, 0, site.scale, site.causal, every_key=EVERY_KEY
            )
        return choose_blocks(self._shares, share / WHOLE, None, 0, length, length, site.causal)


def visible_to(lists: Lists, length: int, causal: bool) -> torch.Tensor:
    """Return which keys of a sequence the queries see by their lists: bool `[B, R, S, S]`."""
    position = torch.arange(length, device=lists[0].device)
    block = position // LIST_BLOCK
    seen = listed_blocks(lists, length)[:, :, block][..., block]
    return seen & (position <= position[:, None]) if causal else seen
