"""Calls whose heads are routed, and what is wrong with the lists that the kernels choose for them.

Run as a program it looks at the cases under Triton's interpreter and prints the faults as JSON: whether Triton
interprets is decided when it is imported. The interpreter multiplies no bfloat16.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"

import torch

from hcompile.codegen.triton_gpu.heads import HeadOrders
from hcompile.codegen.triton_gpu.inputs import masked
from hcompile.codegen.triton_gpu.route import Router
from hcompile.lists import listed_blocks, lists_of
from hcompile.patterns.blocks import EVERY_KEY, WHOLE
from hcompile.reference import attention_reference
from hcompile.routing import block_shares, choose_blocks, route

ALL = 2**31 - 1
PARAMS = ((0, 0), (ALL, 0), (0, 300), (0, 1000), (40, 5), (0, 850))
"""Two KV heads; a routed head that wants nothing, and one that wants everything, whose group has a window between."""
ROUTED_HEADS = [head for head, (window, _) in enumerate(PARAMS) if window == 0]
KV_HEADS = 2


@dataclass(frozen=True)
class Case:
    """One call of a batch of two: the last query stands at the last key.

    Attributes:
        mask: "" for none, "padding" for left and right padding, "holes" for a row with holes and one without a key.
    """

    name: str
    q_len: int
    kv_len: int
    head_dim: int = 16
    causal: bool = True
    mask: str = ""


CASES = (
    Case("ragged", 300, 300),
    Case("bidirectional", 130, 333, causal=False),
    Case("after-a-cache", 70, 590, head_dim=24),
    Case("one-query", 1, 345),
    Case("half-a-tile", 64, 64),
    Case("shorter-than-a-sample", 3, 3),
    Case("one-key-into-a-block", 257, 257),
    Case("padding", 140, 400, mask="padding"),
    Case("padding-bidirectional", 140, 140, mask="padding", causal=False),
    Case("holes", 140, 390, mask="holes"),
)


def relative_tolerance(dtype: torch.dtype) -> float:
    """Return what shares may be wrong by, of themselves.

    In float32 as test_interpreted.py derives it. Of 16 bits, weights are rounded to float16, by 2 ** -11, and with
    heads of 128 tensor cores leave scores wrong by (D + 2) 2 ** -22 sum|q k| scale = 2.2e-4, which counts twice.
    """
    return 2.6e-5 if dtype == torch.float32 else 2**-10


def absolute_tolerance(dtype: torch.dtype) -> float:
    """Return what the share of a block may be wrong by besides: eight weights of a row by 2 ** -25 of its largest."""
    return 1e-9 if dtype == torch.float32 else 2**-22


def faults(case: Case, seed: int, dtype: torch.dtype, device: str, scale: int = 1) -> list[str]:
    """Return what is wrong with the shares and the lists of a call with fresh random inputs.

    `scale` multiplies lengths and head sizes: the interpreter is slow.
    """
    generator = torch.Generator().manual_seed(seed)
    q_len, kv_len, head_dim = (scale * size for size in (case.q_len, case.kv_len, case.head_dim))
    q = torch.randn(2, q_len, len(PARAMS), head_dim, generator=generator).to(dtype).transpose(1, 2)
    k, v = (
        torch.randn(2, kv_len, KV_HEADS, head_dim, generator=generator).to(dtype).transpose(1, 2)
        for _ in range(2)
    )
    params = torch.tensor(PARAMS, dtype=torch.int32)
    mask = mask_of(case.mask, kv_len)
    offset, softmax_scale = kv_len - q_len, head_dim**-0.5
    rest = offset, softmax_scale, case.causal
    there = params.to(device)
    order = HeadOrders().of(there)
    valid, valid_keys = masked(there, None if mask is None else mask.to(device))
    router, given = Router(), (q.to(device), k.to(device), valid, valid_keys, order, *rest)
    found = router.shares("facts", *given).cpu().double()
    count, index = (each.cpu() for each in router("facts", *given))

    heads = ROUTED_HEADS
    keys = [head // (len(PARAMS) // KV_HEADS) for head in heads]
    shares = block_shares(q[:, heads].double(), k[:, keys].double(), mask, *rest, every_key=EVERY_KEY)
    query_blocks, key_blocks = shares.shape[2:]
    # What no query of a tile sees may stay as it is.
    found = torch.where(shares > 0, found[:, :, :query_blocks], 0.0)
    relative, absolute = relative_tolerance(dtype), absolute_tolerance(dtype)
    wrong = []
    error = ((found - shares).abs() - absolute).clamp(min=0.0) / shares.clamp(min=1e-30)
    if not bool((error <= relative).all()):
        wrong.append(f"shares are wrong by {float(error.max()):.1e}")

    read = listed_blocks((count, index), kv_len)
    chosen, beyond = read[:, :, :query_blocks], read[:, :, query_blocks:]
    normal = lists_of(chosen)
    listed = torch.arange(key_blocks) < count[..., None]
    if beyond.any() or not (torch.equal(count, normal[0]) and torch.equal(index[listed], normal[1][listed])):
        wrong.append("lists are not of each block once, in order, for queries that are there")
    limits = (mask, offset, q_len, kv_len, case.causal)
    always = choose_blocks(torch.zeros_like(shares), 0.0, *limits)
    if not torch.equal(chosen[:, 0], always[:, 0]):
        wrong.append("a head that wants nothing reads other blocks than those that are always read")
    most = choose_blocks(torch.ones_like(shares), 1.0, *limits)
    if bool((always & ~chosen).any()) or bool((chosen & ~most).any()):
        wrong.append("blocks that are always read are not, or hidden ones are")
    wanted = torch.tensor([PARAMS[head][1] / WHOLE for head in heads], dtype=torch.float64)[:, None]
    slack = 2 * (relative + key_blocks * absolute)
    total = shares.sum(-1)
    if bool(((shares * chosen).sum(-1) < (wanted - slack) * total - 1e-12).any()):
        wrong.append("too few blocks")
    ordered = shares.sort(dim=-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    needed = (before < ((wanted + slack) * total)[..., None]).sum(-1)
    if bool(((chosen & ~always).sum(-1) > needed)[:, 1:].any()):
        wrong.append("too many blocks")
    if dtype == torch.float32:
        call = (q.double(), k.double(), v.double(), mask, params, *rest)
        out = attention_reference(*call, count, index)
        if out.isnan().any() or not torch.equal(out, attention_reference(*call, *normal)):
            wrong.append("the reference reads other blocks of the lists")
    return wrong


def faults_of_ties(device: str) -> list[str]:
    """Return what is wrong with the lists where all blocks have equally much: the first ones are to be taken."""
    q, k = torch.zeros(1, 2, 128, 16), torch.zeros(1, 1, 512, 16)
    params = torch.tensor([[0, 500], [0, 625]], dtype=torch.int32)
    there = params.to(device)
    given = there, there, HeadOrders().of(there), 384, 1.0, False
    lists = Router()("ties", q.to(device), k.to(device), *given)
    wanted = route(q, k, None, params, 384, 1.0, False)
    assert wanted is not None
    same = torch.equal(listed_blocks(lists, 512).cpu(), listed_blocks(wanted, 512))
    return [] if same else [f"entries {lists[1].tolist()} of {lists[0].tolist()}"]


def mask_of(kind: str, kv_len: int) -> torch.Tensor | None:
    """Return a mask of two rows."""
    if not kind:
        return None
    mask = torch.ones(2, kv_len, dtype=torch.bool)
    mask[0, : kv_len // 5] = False
    mask[1, kv_len - kv_len // 15 :] = False
    if kind == "holes":
        mask[0, kv_len // 4 : kv_len // 3] = False
        mask[1] = False
    return mask


def main(seed: int) -> None:
    answers = {
        f"{case.name} {dtype}": faults(case, seed, dtype, "cpu")
        for dtype, cases in ((torch.float32, CASES), (torch.float16, CASES[:3]))
        for case in cases
    }
    answers["ties"] = faults_of_ties("cpu")
    print(json.dumps(answers))  # noqa: T201  this is how a child answers


if __name__ == "__main__":
    main(int(sys.argv[1]))
