"""Running a program with another attention in the place of its own, site by site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.fx import Interpreter, Node

from hcompile.passes.sites import K, Q, V, arguments
from hcompile.program import SITE_META, Program
from hcompile.site import Site


class Attending(Interpreter, ABC):
    """Runs a program's graph; what a site returns, `attend` says."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.graph)
        self._sites = {site.name: site for site in program.sites}

    @abstractmethod
    def attend(self, site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return `[B, Hq, S, D]` for q `[B, Hq, S, D]`, k and v `[B, Hkv, S, D]`."""

    def run_node(self, n: Node) -> Any:
        if SITE_META not in n.meta:
            return super().run_node(n)
        q, k, v = (self.env[arguments(n)[place]] for place in (Q, K, V))
        return self.attend(self._sites[n.meta[SITE_META]], q, k, v)
