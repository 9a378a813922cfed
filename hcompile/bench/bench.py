"""`hcompile bench`: the compiled module against the strongest dense baseline, interleaved, at several lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import torch

from hcompile.artifact.load import Opened, open_artifact
from hcompile.bench.baselines import dense_candidates, without_attention
from hcompile.bench.memory import SIDES, call_peak_bytes, device_peak_bytes, graphs
from hcompile.bench.report import BenchReport, LengthResult, Spread
from hcompile.errors import UsageError
from hcompile.passes.linear import use_library
from hcompile.progress import Progress, quiet
from hcompile.runtime.inputs import allows
from hcompile.runtime.module import CompiledModule
from hcompile.tuning.timing import Rounds, graph_clock, time_calls
from hcompile.tuning_db.record import utc_now
from hcompile.versions import library_versions

DEFAULT_LENGTHS = (128, 512, 1024, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        lengths: tokens of a row; None for `DEFAULT_LENGTHS` as far as the model allows.
        batch: rows of a call; None for one, or as few as the model allows.
        memory: also measure the peak memory of a call (on a CPU in fresh processes).
        least, most, enough_s: rounds of each length, see `hcompile.tuning.timing.Rounds`.
    """

    artifact: Path
    lengths: tuple[int, ...] | None = None
    batch: int | None = None
    memory: bool = False
    least: int = 7
    most: int = 40
    enough_s: float = 4.0
    seed: int = 0


def _hundredths(lengths: tuple[int, ...], measured: int) -> int:
    """Return how much of the work is done: the longest of seven lengths takes longer than the others together."""
    # Attention grows with the square of the length; the rest of a model, linearly, is as much at some 2048 tokens.
    work = [length + length**2 / 2048 for length in lengths]
    return int(100 * sum(work[:measured]) / sum(work))


def _unheard(result: LengthResult) -> None:
    """Ignore a length's result until the report."""


def bench(
    request: BenchRequest,
    progress: Progress = quiet,
    found: Callable[[LengthResult], None] = _unheard,
) -> BenchReport:
    """Measure an artifact on this machine.

    Args:
        found: told of each length as soon as it is measured.

    Raises:
        UsageError: the artifact, a length or the batch size cannot be used.
        KernelError, EnvironmentFault: see `hcompile.load`.
    """
    start = time.perf_counter()
    opened = open_artifact(request.artifact)
    load_s = time.perf_counter() - start
    lengths, batch = _lengths(opened, request.lengths), _batch(opened, request.batch)
    torch.manual_seed(request.seed)
    start = time.perf_counter()
    opened.module.warmup(lengths[:1], batch)
    first_call_s = time.perf_counter() - start
    program = use_library(opened.program, opened.linear_library)
    dense, rest = dense_candidates(program), without_attention(program)
    results = []
    # A graph for each length: past the usual limit of eight, the static baseline would be eager without a word.
    with torch._dynamo.config.patch(recompile_limit=len(lengths) + 1):
        for measured, length in enumerate(lengths):
            progress("bench", _hundredths(lengths, measured), 100)
            results.append(_at_length(opened, request, dense, rest, batch, length))
            found(results[-1])
    progress("bench", 100, 100)
    return BenchReport(
        artifact=str(request.artifact),
        dtype=opened.manifest.dtype,
        device=opened.device.to_json(),
        versions=library_versions(),
        linear_library=opened.linear_library,
        measured_at=utc_now(),
        load_s=load_s,
        first_call_s=first_call_s,
        batch=batch,
        crossover=opened.module.crossover.to_json(),
        lengths=tuple(results),
    )


def _lengths(opened: Opened, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    limits = least, most = opened.limits
    if wanted is None:
        return tuple(length for length in DEFAULT_LENGTHS if allows(limits, length)) or (most or least,)
    for length in wanted:
        _check_allowed("length", limits, length)
    return wanted


def _batch(opened: Opened, wanted: int | None) -> int:
    if wanted is None:
        return opened.batch_limits[0]
    _check_allowed("batch", opened.batch_limits, wanted)
    return wanted


def _check_allowed(what: str, limits: tuple[int, int | None], size: int) -> None:
    if not allows(limits, size):
        least, most = limits
        upper = "any" if most is None else most
        raise UsageError(f"{what} {size} is outside what the model was exported for ({least} to {upper})")


def _at_length(
    opened: Opened,
    request: BenchRequest,
    dense: Mapping[str, Callable[..., object]],
    rest: Callable[..., object],
    batch: int,
    length: int,
) -> LengthResult:
    inputs = opened.inputs(length, batch)
    calls: dict[str, Callable[[], object]] = {"module": partial(_call_module, opened.module, opened, inputs)}
    calls |= {name: partial(call, *inputs) for name, call in dense.items()}
    calls["rest"] = partial(rest, *inputs)
    rounds = Rounds(request.least, request.most, request.enough_s)
    timing = time_calls(list(calls.values()), rounds, graph_clock(opened.program.device.type))
    times = dict(zip(calls, timing.times_us, strict=True))
    strongest = min(dense, key=lambda name: median(times[name]))
    ratios = sorted(d / m for d, m in zip(times[strongest], times["module"], strict=True))
    tenths = quantiles(ratios, n=10, method="inclusive")
    sites = opened.program.sites
    peaks = {}
    if request.memory and opened.program.device.type == "cpu":
        peaks = {side: call_peak_bytes(request.artifact, side, length, batch) for side in SIDES}
    elif request.memory:
        peaks = {side: device_peak_bytes(partial(graph, *inputs)) for side, graph in graphs(opened).items()}
    return LengthResult(
        length=length,
        module=Spread.of(times["module"]),
        graph="hybrid" if opened.module.crossover.takes_hybrid(batch, length) else "dense",
        dense={name: Spread.of(times[name]) for name in dense},
        strongest=strongest,
        rest=Spread.of(times["rest"]),
        pairs_kept=1 - opened.module.plan.removed_share(sites, length),
        ratio=median(times[strongest]) / median(times["module"]),
        ratio_low=tenths[0],
        ratio_high=tenths[-1],
        noisy=timing.noisy,
        hybrid_peak_bytes=peaks.get("hybrid"),
        dense_peak_bytes=peaks.get("dense"),
    )


def _call_module(module: CompiledModule, opened: Opened, inputs: list[torch.Tensor]) -> object:
    """Call as a user does without padding: inputs that have a default are left out."""
    named = {
        spec.name: value
        for spec, value in zip(opened.program.inputs, inputs, strict=True)
        if spec.default is None
    }
    return module(**named)
