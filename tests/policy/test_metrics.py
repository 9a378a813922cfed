"""Metrics: their values against formulas, padding, and outputs that are not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from hcompile.errors import UsageError
from hcompile.policy.batches import Batch, make_batch
from hcompile.policy.documents import Document
from hcompile.policy.interface import Interface
from hcompile.policy.metrics import metric_of
from hcompile.policy.metrics.base import Metric, TokenMetric
from hcompile.policy.metrics.score import degradation
from hcompile.site import Site
from tests.policy.tiny_programs import tiny_text

TEXT = Interface.of(tiny_text())
VECTORS = Interface.of(tiny_text(logits=False))
CAUSAL = Site("a", 0, 4, 2, 8, 0.35, causal=True)


def padded_batch() -> Batch:
    documents = [Document(str(i), {"input_ids": torch.arange(64) + i}) for i in range(2)]
    return make_batch(documents, TEXT, padded=True)


def logits_pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(2, 64, 256, generator=generator)
    return dense, dense + 0.1 * torch.randn(2, 64, 256, generator=generator)


def score(metric: Metric, dense: torch.Tensor, hybrid: torch.Tensor, batch: Batch) -> float:
    return degradation(metric.score((dense,), (hybrid,), batch, TEXT))


@pytest.mark.parametrize("name", ["kl", "cosine", "top1"])
def test_equal_outputs_lose_nothing(name: str) -> None:
    dense, _ = logits_pair()
    assert score(metric_of(name), dense, dense.clone(), padded_batch()) == 0.0


def test_kl_is_the_divergence_of_valid_tokens() -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    assert batch.valid is not None
    p, q = dense[batch.valid].double().log_softmax(-1), hybrid[batch.valid].double().log_softmax(-1)
    assert score(metric_of("kl"), dense, hybrid, batch) == pytest.approx(
        float((p.exp() * (p - q)).sum(-1).mean())
    )


@pytest.mark.parametrize("name", ["kl", "nll", "cosine", "top1"])
def test_padding_plays_no_part(name: str) -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    assert batch.valid is not None
    spoilt = hybrid.masked_fill(~batch.valid[..., None], math.nan)
    assert score(metric_of(name), dense, spoilt, batch) == score(metric_of(name), dense, hybrid, batch)


def test_large_vocabularies_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, hybrid = logits_pair()
    whole = score(metric_of("kl"), dense, hybrid, padded_batch())
    monkeypatch.setattr("hcompile.policy.metrics.base.CHUNK_ELEMENTS", 1000)
    assert score(metric_of("kl"), dense, hybrid, padded_batch()) == pytest.approx(whole, rel=1e-12)


def test_nll_is_the_relative_increase() -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    assert batch.valid is not None and batch.tokens is not None
    sums = []
    for logits in (dense, hybrid):
        rows = [
            torch.nn.functional.cross_entropy(
                logits[row, batch.valid[row]][:-1].double(),
                batch.tokens[row, batch.valid[row]][1:],
                reduction="sum",
            )
            for row in range(2)
        ]
        sums.append(float(sum(rows)))
    expected = (sums[1] - sums[0]) / sums[0]
    assert score(metric_of("nll"), dense, hybrid, batch) == pytest.approx(expected)


def test_cosine_is_one_minus_the_similarity() -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    assert batch.valid is not None
    similarity = torch.cosine_similarity(dense[batch.valid].double(), hybrid[batch.valid].double(), dim=-1)
    assert score(metric_of("cosine"), dense, hybrid, batch) == pytest.approx(float(1 - similarity.mean()))


def test_top1_is_the_share_of_other_likeliest_tokens() -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    assert batch.valid is not None
    differ = (dense.argmax(-1) != hybrid.argmax(-1))[batch.valid].double().mean()
    assert 0 < differ < 1
    assert score(metric_of("top1"), dense, hybrid, batch) == pytest.approx(float(differ))
    assert metric_of("top1").limit(0.99) == pytest.approx(0.01)
    with pytest.raises(UsageError, match=r"write the least share of tokens that agree, such as top1=0\.99"):
        metric_of("top1").limit(99)


def test_cosine_of_one_vector_a_row() -> None:
    batch = padded_batch()
    dense = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    hybrid = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    scores = metric_of("cosine").score((dense,), (hybrid,), batch, VECTORS)
    assert [(s.total, s.tokens) for s in scores] == [(0.0, 1), (1.0, 1)]


@pytest.mark.parametrize("name", ["kl", "nll", "cosine", "top1"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["dense", "hybrid"])
def test_outputs_that_are_not_finite_are_refused(name: str, value: float, side: str) -> None:
    dense, hybrid = logits_pair()
    {"dense": dense, "hybrid": hybrid}[side][1, 40, 3] = value
    with pytest.raises(UsageError, match=f"the {side} model's output is not finite on 1"):
        score(metric_of(name), dense, hybrid, padded_batch())


@pytest.mark.parametrize("name", ["kl", "nll", "cosine"])
def test_a_percentile_is_that_of_the_values_of_valid_tokens(name: str) -> None:
    dense, hybrid = logits_pair()
    batch = padded_batch()
    inner, tail = metric_of(name), metric_of(f"{name}.p90")
    assert isinstance(inner, TokenMetric)
    rows = inner.values((dense,), (hybrid,), batch, TEXT)
    scores = tail.score((dense,), (hybrid,), batch, TEXT)
    assert [score.tokens for score in scores] == [len(row) for row in rows]
    values = torch.cat(rows)
    exact = float(values.sort().values[-int(0.1 * len(values)) - 1])
    assert exact <= tail.statistic.estimate(scores) <= max(exact, 1e-9) * 1.022
    assert (
        tail.label() == f"{name}.p90" and tail.source() == metric_of(f"{name}.p99").source() != inner.source()
    )


@pytest.mark.parametrize("name", ["kl", "cosine"])
def test_the_mean_of_the_values_is_the_metric(name: str) -> None:
    dense, hybrid = logits_pair()
    metric = metric_of(name)
    assert isinstance(metric, TokenMetric)
    values = torch.cat(metric.values((dense,), (hybrid,), padded_batch(), TEXT))
    assert score(metric, dense, hybrid, padded_batch()) == pytest.approx(float(values.mean()))


def test_equal_outputs_have_no_tail() -> None:
    dense, _ = logits_pair()
    for name in ("kl.p99", "nll.p99", "cosine.p50"):
        tail = metric_of(name)
        assert tail.statistic.estimate(tail.score((dense,), (dense.clone(),), padded_batch(), TEXT)) == 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl.p100", "below p100"),
        ("kl.p5", "below p100"),
        ("bleu.p99", "is unknown"),
        ("top1.p99", "has no percentile"),
    ],
)
def test_other_percentiles_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        metric_of(name)


def test_budgets_are_written_in_the_metrics_own_way() -> None:
    assert metric_of("kl").limit(0.003) == 0.003
    assert metric_of("cosine").limit(0.999) == pytest.approx(0.001)
    assert metric_of("cosine.p99").limit(0.9) == pytest.approx(0.1)
    assert metric_of("kl.p99").limit(0.05) == 0.05
    with pytest.raises(UsageError, match="above 1"):
        metric_of("cosine").limit(1.5)


def test_logits_metrics_refuse_hidden_states() -> None:
    for name in ("kl", "nll"):
        with pytest.raises(UsageError, match="needs logits"):
            metric_of(name).check(VECTORS, [CAUSAL])
    metric_of("cosine").check(VECTORS, [CAUSAL])


def test_nll_refuses_bidirectional_models() -> None:
    bidirectional = Site("a", 0, 4, 2, 8, 0.35, causal=False)
    with pytest.raises(UsageError, match="causal"):
        metric_of("nll").check(TEXT, [CAUSAL, bidirectional])


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'bleu' is unknown.*cosine, greedy, kl, nll, recall, top1"):
        metric_of("bleu")


def test_a_metric_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric.py").write_text(
        "def largest(dense, hybrid, inputs):\n"
        "    assert len(inputs) == 2\n"
        "    return (dense[0] - hybrid[0]).abs().amax((1, 2))\n"
        "def wrong(dense, hybrid, inputs):\n"
        "    return (dense[0] - hybrid[0]).abs().max()\n"
    )
    monkeypatch.chdir(tmp_path)
    dense, hybrid = logits_pair()
    metric = metric_of("largest", "my_metric:largest")
    rows = (dense - hybrid).abs().amax((1, 2))
    assert score(metric, dense, hybrid, padded_batch()) == pytest.approx(float(rows.mean()))
    with pytest.raises(UsageError, match="one number a row"):
        score(metric_of("wrong", "my_metric:wrong"), dense, hybrid, padded_batch())
    with pytest.raises(UsageError, match="write --budget largest=LIMIT"):
        metric_of("kl", "my_metric:largest")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('boom')", r"metric (\w+):mine failed on \S+ \(RuntimeError: boom\): mend"),
        (
            "return dense[0].new_full((2,), float('nan'))",
            r"metric (\w+):mine returned nan for \S+: return finite",
        ),
        ("return [0.0, float('inf')]", r"metric (\w+):mine returned inf for \S+: return finite"),
        ("return None", r"metric (\w+):mine returned a NoneType: return one number a row"),
        ("return ['much', 'more']", r"metric (\w+):mine returned a list: return one number a row"),
    ],
    ids=["raises", "nan", "inf", "nothing", "text"],
)
def test_a_metric_of_the_user_that_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, body: str, message: str
) -> None:
    module = f"failing_metric_{request.node.callspec.id}"
    (tmp_path / f"{module}.py").write_text(f"def mine(dense, hybrid, inputs):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        score(metric_of("mine", f"{module}:mine"), *logits_pair(), padded_batch())
