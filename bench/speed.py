"""The speed instrument: how long encode side and end to end take, stage by stage, with every sample kept.

``time_point`` times one (method, setting, clip) inside this process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from avtbench.bench.clock import (
    FlopListener,
    Nanoseconds,
    PeakListener,
    StageClock,
    stage_costs,
    synchroniser,
    with_unattributed,
)
from avtbench.bench.rows import Timing
from avtbench.bench.statistics import half_width
from avtbench.methods.contract import Method
from avtbench.methods.stages import counting, listening, stage

Scenario = Literal["latency", "throughput", "stream", "cold"]
PRECISION = 0.02
"""Relative half-width of the median's interval at which sampling stops."""
WARMUP_CALLS, WARMUP_SECONDS, WARMUP_CAP = 3, 1.0, 10.0


@dataclass(frozen=True)
class Call:
    """One timed call: seconds of both sides, seconds and network evaluations per stage."""

    encode_side: float
    decode_side: float
    stages: Mapping[str, float]
    evaluations: Mapping[str, Mapping[str, int]]
    total_evaluations: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.encode_side + self.decode_side


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the garbage collector out of a timed region, as ``timeit`` does."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _verbs(method: Method, video: Tensor, setting: float, border: Callable[[], None]) -> None:
    with stage("encode"):
        latents = method.encode(video)
    with stage("select"):
        tokens = method.select(latents, setting)
    border()
    with stage("decode"):
        method.decode(tokens)


def time_call(method: Method, video: Tensor, setting: float, nanoseconds: Nanoseconds = time.perf_counter_ns) -> Call:
    """Time encode + select and decode once, each between two synchronisations; the stages inside without any."""
    synchronise = synchroniser(video.device)
    borders: list[int] = []

    def border() -> None:
        synchronise()
        borders.append(nanoseconds())

    with torch.inference_mode(), counting() as counter, _no_collector():
        clock = StageClock(video.device, nanoseconds, counter)
        with listening(clock):
            border()
            _verbs(method, video, setting, border)
            border()
    began, between, ended = borders
    stages = with_unattributed(clock.seconds(), (ended - began) * 1e-9)
    return Call((between - began) * 1e-9, (ended - between) * 1e-9, stages, clock.evaluated(), dict(counter))


def _attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Two matrix products, as torch counts them for the CUDA kernels: ``[b, h, n, d] x [b, h, m, d] x [b, h, m, e]``."""
    *batch, n, d = q
    products = 2 * n * k[-2] * (d + v[-1])
    for size in batch:
        products *= size
    return products


def count_flops(method: Method, video: Tensor, setting: float) -> dict[str, int]:
    """FLOPs (2 x multiply-adds) per stage of one call, by ``torch.utils.flop_counter``.

    On the CPU torch counts nothing for fused attention and for ``nn.MultiheadAttention``'s fast path: the first is
    given its formula here, the second is switched off during the call.
    """
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(),
            FlopCounterMode(display=False, custom_mapping={fused: _attention_flops}) as counter,
        ):
            listener = FlopListener(counter.get_total_flops)
            with listening(listener):
                _verbs(method, video, setting, lambda: None)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return dict(listener.flops)


def peak_memory(method: Method, video: Tensor, setting: float) -> tuple[int, dict[str, int]]:
    """Peak bytes of one call, and per stage: allocated by torch on CUDA, resident set of the process on the CPU."""
    with PeakListener(video.device) as listener, torch.inference_mode(), listening(listener):
        _verbs(method, video, setting, synchroniser(video.device))
    return listener.peak, listener.peaks


@dataclass(frozen=True)
class StopRule:
    """When to stop sampling: precise enough, budget spent, or enough samples; the reason is stored."""

    budget_s: float
    precision: float = PRECISION
    max_samples: int = 200

    def reason(self, totals: Sequence[float], elapsed_s: float) -> str | None:
        """Why sampling stops after these end-to-end seconds, or None."""
        width = half_width(totals)
        reached = f"half-width of the median {width:.1%}" if width < float("inf") else f"only {len(totals)} samples"
        if width <= self.precision:
            return f"precise: {reached} <= {self.precision:.0%}"
        if elapsed_s >= self.budget_s:
            return f"budget of {self.budget_s:g} s spent: {reached}"
        if len(totals) >= self.max_samples:
            return f"{self.max_samples} samples taken: {reached}"
        return None


def dtype_of(method: Any) -> str:
    """Number format the method computes in: its own ``dtype``, its tokeniser's, its parameters', else float32."""
    for holder in (method, getattr(method, "tokenizer", None)):
        if isinstance(getattr(holder, "dtype", None), torch.dtype):
            return str(holder.dtype).removeprefix("torch.")
    for part in vars(method).values() if hasattr(method, "__dict__") else ():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def time_point(
    method: Method,
    video: Tensor,
    setting: float,
    *,
    budget_s: float,
    seed: int = 0,
    scenario: Scenario = "latency",
    launch: int = 0,
    precision: float = PRECISION,
    max_samples: int = 200,
    extras: bool = True,
    dtype: str | None = None,
    nanoseconds: Nanoseconds = time.perf_counter_ns,
) -> Timing:
    """Time one (method, setting, clip) in this process.

    video: uint8 ``[T, H, W, 3]`` on the device to measure. ``budget_s`` bounds warm-up and samples; whatever the budget,
    one warm-up call and one sample are taken. With ``extras``, FLOPs and peak memory are measured in calls of their own
    when the budget leaves room for them. In-process numbers are for looking; quoted ones come from spawned processes.
    """

    def now() -> float:
        return nanoseconds() * 1e-9

    began = now()
    warmup: list[float] = []
    while scenario != "cold" and (
        not warmup
        or (
            (len(warmup) < WARMUP_CALLS or sum(warmup) < WARMUP_SECONDS)
            and now() - began < min(WARMUP_CAP, 0.3 * budget_s)
        )
    ):
        warmup.append(time_call(method, video, setting, nanoseconds).total)

    reserve = 4 * warmup[-1] if extras and warmup else 0.0
    rule = StopRule(max(budget_s - reserve, 0.0), precision, max_samples)
    calls: list[Call] = []
    reason: str | None = None
    while reason is None:
        calls.append(time_call(method, video, setting, nanoseconds))
        reason = rule.reason([c.total for c in calls], now() - began)
        if scenario == "cold":
            reason = "cold: a process has one first call"

    flops: dict[str, int] = {}
    peak, peaks = None, {}
    if extras and now() - began + 4 * calls[-1].total <= budget_s:
        flops = count_flops(method, video, setting)
        peak, peaks = peak_memory(method, video, setting)
    return Timing(
        scenario=scenario,
        device=str(video.device),
        dtype=dtype or dtype_of(method),
        launch=launch,
        rounds=list(range(len(calls))),
        encode_side=[c.encode_side for c in calls],
        decode_side=[c.decode_side for c in calls],
        warmup=warmup,
        stages=stage_costs([c.stages for c in calls], calls[-1].evaluations, flops, peaks),
        stop_reason=reason,
        seed=seed,
        peak_bytes=peak,
    )
