"""The attention operator: registered as torch wants it, traced as one node, dispatched by its binding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from hcompile import operator
from hcompile.errors import KernelError
from hcompile.lists import lists_of
from hcompile.operator import attention, bind, bound_attention
from hcompile.patterns import UNBOUNDED
from hcompile.reference import attention_reference

PARAMS = torch.tensor([(UNBOUNDED, 0), (2, 1), (3, 0), (1, 2)], dtype=torch.int32)


def arguments(
    *,
    dtype: torch.dtype = torch.float32,
    grad: bool = False,
    padded: bool = False,
    by_token: bool = False,
    causal: bool = True,
    q_len: int = 5,
    kv_len: int = 5,
    binding: str = "",
) -> tuple[Any, ...]:
    """Return arguments of a call; `by_token` lays Q, K and V out as `[B, S, H, D]`."""
    generator = torch.Generator().manual_seed(0)

    def make(heads: int, length: int) -> torch.Tensor:
        shape = (2, length, heads, 8) if by_token else (2, heads, length, 8)
        made = torch.randn(shape, generator=generator).to(dtype)
        return (made.transpose(1, 2) if by_token else made).requires_grad_(grad)

    key_mask = torch.ones(2, kv_len, dtype=torch.bool)
    key_mask[0, :2] = False
    q, k, v = make(4, q_len), make(2, kv_len), make(2, kv_len)
    mask = key_mask if padded else None
    return q, k, v, mask, PARAMS, None, None, kv_len - q_len, 8**-0.5, causal, binding


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: tuple[Any, ...]) -> torch.Tensor:
    _, _, _, key_mask, params, _, _, q_offset, scale, causal, _ = call
    return attention_reference(q, k, v, key_mask, params, q_offset, scale, causal)


CASES: dict[str, dict[str, Any]] = {
    "training": {"grad": True},
    "padding, training": {"grad": True, "padded": True},
    "memory by token": {"grad": True, "padded": True, "by_token": True},
    "decode": {"q_len": 1},
    "bidirectional": {"grad": True, "causal": False},
}


# Each takes seconds: these two cover gradients, padding, both layouts, and queries that are fewer than keys.
@pytest.mark.parametrize("case", ["memory by token", "decode"])
def test_torch_accepts_the_registration(case: str) -> None:
    torch.library.opcheck(attention, arguments(**CASES[case]))


def test_torch_accepts_the_operator_of_lowered_graphs() -> None:
    torch.library.opcheck(bound_attention, arguments(padded=True, by_token=True))


def test_lowered_graphs_call_no_python_but_the_kernel() -> None:
    """A gradient in Python would be called first, in graphs that never want one."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has_kernel("hcompile::attention", "Autograd")
    assert not has_kernel("hcompile::bound_attention", "Autograd")


@pytest.fixture
def listed() -> tuple[tuple[Any, ...], torch.Tensor]:
    """Return a call over 200 tokens whose first and third head read lists, and which pairs those see."""
    call = list(arguments(grad=True, padded=True, q_len=200, kv_len=200))
    blocks = torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    blocks[0, 0, 1] = False  # Rows that see nothing.
    params = torch.tensor([(0, 0), (20, 3), (0, 0), (UNBOUNDED, 0)], dtype=torch.int32)
    call[4:7] = params, *lists_of(blocks[:, [0, 2]])
    return tuple(call), blocks.repeat_interleave(64, 2).repeat_interleave(64, 3)[:, :, :200, :200]


def test_a_head_that_reads_lists_sees_those_blocks_alone(
    listed: tuple[tuple[Any, ...], torch.Tensor],
) -> None:
    call, blocks = listed
    q, k, v, key_mask = (each.detach() for each in call[:4])
    with torch.no_grad():
        out = attention(*call)
    position = torch.arange(200)
    seen = blocks & key_mask[:, None, None, :] & (position <= position[:, None])
    for head in (0, 2):
        scores = q[:, head] @ k[:, head // 2].transpose(1, 2) * call[8]
        weights = scores.masked_fill(~seen[:, head], float("-inf")).softmax(-1).nan_to_num(0.0)
        torch.testing.assert_close(out[:, head], weights @ v[:, head // 2])
    without = attention_reference(q, k, v, key_mask, call[4], 0, call[8], True)
    torch.testing.assert_close(out[:, [1, 3]], without[:, [1, 3]])


def test_gradients_through_lists_equal_autograd_through_the_reference(
    listed: tuple[tuple[Any, ...], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "_GRADIENT_ROWS", 48)
    call, _ = listed
    grad = torch.randn(call[0].shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(attention(*call), call[:3], grad)
    q, k, v, key_mask, params, count, index, offset, scale, causal, _ = call
    out = attention_reference(q, k, v, key_mask, params, offset, scale, causal, count, index)
    for one, other in zip(found, torch.autograd.grad(out, call[:3], grad), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("q_len", [1, 5])
def test_fake_output_has_the_layout_of_the_real_one(by_token: bool, q_len: int) -> None:
    call = arguments(by_token=by_token, q_len=q_len, padded=True)
    real = attention(*call)
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for value in call]
    with mode:
        fake = attention(*fakes)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
    assert real.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("case", ["training", "padding, training", "memory by token", "bidirectional"])
def test_gradients_equal_autograd_through_the_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "_GRADIENT_ROWS", 2)
    call = arguments(**CASES[case])
    inputs = call[:3]
    grad = torch.randn(call[0].shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(attention(*call), inputs, grad)
    wanted = torch.autograd.grad(reference(call[0], call[1], call[2], call), inputs, grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_gradients_add_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "_GRADIENT_ROWS", 4)
    call = arguments(dtype=torch.bfloat16, grad=True, q_len=128, kv_len=128)
    q, k, v = exact = [tensor.detach().double().requires_grad_() for tensor in call[:3]]
    grad = torch.randn(call[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = torch.autograd.grad(attention(*call), call[:3], grad)
    wanted = torch.autograd.grad(reference(q, k, v, call), exact, grad.double())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        # Slices that add up in bfloat16 are off by 32 roundings.
        assert float((one - other).norm() / other.norm()) < 2 * torch.finfo(torch.bfloat16).eps


class Layer(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = attention(q + 1, k, v, None, PARAMS, None, None, 0, 0.5, True, "")
        return out * 2


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_export_keeps_one_node_for_every_length() -> None:
    call = arguments(q_len=6, kv_len=6)
    length = torch.export.Dim("length", min=1)
    exported = torch.export.export(Layer(), call[:3], dynamic_shapes=[{2: length}] * 3)
    targets = [node.target for node in exported.run_decompositions({}).graph.nodes]
    assert targets.count(attention) == 1
    for other in (1, 9):
        inputs = arguments(q_len=other, kv_len=other)[:3]
        torch.testing.assert_close(exported.module()(*inputs), Layer()(*inputs))


def test_compile_keeps_one_node_and_compiles_once_for_all_lengths() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(Layer(), backend=backend, dynamic=True, fullgraph=True)
    for length in (5, 9, 33, 130):
        inputs = arguments(q_len=length, kv_len=length)[:3]
        torch.testing.assert_close(compiled(*inputs), Layer()(*inputs))
    assert len(graphs) == 1
    assert [node.target for node in graphs[0].graph.nodes].count(attention) == 1


def test_a_bound_kernel_serves_its_binding_and_the_first_one_stays() -> None:
    calls: list[str] = []

    def kernel(name: str) -> operator.Kernel:
        def run(q: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            calls.append(name)
            return q.transpose(1, 2).contiguous().transpose(1, 2)

        return run

    bind("test_operator", kernel("first"))
    bind("test_operator", kernel("second"))
    attention(*arguments(binding="test_operator"))
    assert calls == ["first"]


def test_a_binding_that_nothing_is_bound_to_says_what_to_do() -> None:
    with pytest.raises(
        KernelError, match=r"no kernel is bound as 'nothing' in this process: load the artifact"
    ):
        attention(*arguments(binding="nothing"))


def test_the_reference_cannot_be_replaced() -> None:
    def wrong(*arguments: Any, **named: Any) -> torch.Tensor:
        raise AssertionError

    bind("", wrong)
    call = arguments()
    torch.testing.assert_close(attention(*call), reference(call[0], call[1], call[2], call))


WRONG: dict[str, tuple[int, torch.Tensor, str]] = {
    "rank": (0, torch.zeros(2, 4, 5), "four dimensions"),
    "dtype": (1, torch.zeros(2, 2, 5, 8).bfloat16(), r"q, k, v are torch.float32, torch.bfloat16"),
    "length of V": (2, torch.zeros(2, 2, 4, 8), r"k \(2, 2, 5, 8\) and v \(2, 2, 4, 8\) do not fit"),
    "head size": (0, torch.zeros(2, 4, 5, 16), r"do not fit q \(2, 4, 5, 16\)"),
    "batch": (0, torch.zeros(3, 4, 5, 8), r"do not fit q \(3, 4, 5, 8\)"),
    "heads": (0, torch.zeros(2, 3, 5, 8), "3 query heads are no multiple of 2 KV heads"),
    "dtype of the mask": (3, torch.ones(2, 5), r"key_mask is torch.float32 \(2, 5\), wanted bool \[2, 5\]"),
    "length of the mask": (3, torch.ones(2, 4, dtype=torch.bool), r"\(2, 4\), wanted bool \[2, 5\]"),
    "dtype of the parameters": (
        4,
        PARAMS.long(),
        r"head_params is torch.int64 \(4, 2\), wanted int32 \[4, 2\]",
    ),
    "one of two lists": (5, torch.zeros(9, dtype=torch.int32), "give both of block_count and block_index"),
    "rows of the parameters": (4, PARAMS[:3], r"torch.int32 \(3, 2\), wanted int32 \[4, 2\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_graph_with_wrong_arguments_is_refused_when_it_is_traced(case: str) -> None:
    """Kernels read pointers: what they rely on is checked before any runs."""
    place, wrong, message = WRONG[case]
    call = list(arguments(padded=True))
    call[place] = wrong
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for value in call]
    with mode, pytest.raises(RuntimeError, match=message):
        attention(*fakes)
