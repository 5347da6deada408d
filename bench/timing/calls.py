"""One call of a method, in each scenario: what is timed, what is counted, and what is kept out of the clock.

Timed: pixels on the device -> kept tokens and mask (*encode side*: ``encode`` + ``select``) and back to pixels (*decode
side*: ``decode``). Reading files, copies to the device and metrics happen outside. FLOPs and peak memory need calls of
their own, because both disturb the time.

Scenarios
    latency      one clip, batch 1: the headline.
    throughput   the contract takes one clip a call, so a larger batch is several calls in flight: one thread each, on
                 CUDA one stream each. Their number doubles while clips per second rise by more than 5 % and memory
                 lasts. A sample is wall seconds / clips in flight; stages overlap and are not told apart.
    stream       the optional verb ``method.stream(video, setting)`` of :mod:`avtbench.methods.streaming` yields, chunk
                 by chunk, first the ``Tokens`` of a chunk (its encode side ends) and then its frames, float
                 ``[n, H, W, 3]`` (its decode side ends).
    cold         the first call of a process.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from avtbench.bench.timing.clock import (
    FlopListener,
    Nanoseconds,
    PeakListener,
    StageClock,
    synchroniser,
    with_unattributed,
)
from avtbench.methods.contract import Method, Tokens
from avtbench.methods.stages import counting, listening, stage

Scenario = Literal["latency", "throughput", "stream", "cold"]
WARMUP_CALLS, WARMUP_SECONDS, WARMUP_CAP = 3, 1.0, 10.0
"""At least so many calls and seconds, at most so many seconds (one call is always made)."""
SETTLE_BELOW = 0.05
"""Calls shorter than this many seconds are preceded by an untimed one when the process has been idle."""
MAX_LANES, LANE_GAIN = 16, 1.05


@dataclass(frozen=True)
class Call:
    """One timed call: seconds of both sides, seconds and network evaluations per stage path."""

    encode_side: float
    decode_side: float
    stages: Mapping[str, float] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    total_evaluations: Mapping[str, int] = field(default_factory=dict)
    chunks: Sequence[float] = ()
    lanes: int = 1
    copy: float | None = None
    """Seconds in which the pixels came to the device, before the clock; None where they were there."""
    peak: int | None = None
    """Most bytes in use at once, where that was asked."""
    ran: Call | None = None
    """The call as it ran, where this one was extrapolated from it."""

    @property
    def total(self) -> float:
        """End-to-end seconds."""
        return self.encode_side + self.decode_side


def extrapolated(call: Call, shortened: Mapping[str, float]) -> Call:
    """A call in which the given stages count several times.

    shortened: path -> factor, see :attr:`Instrument.shortened`. What a stage takes more is added to the stages around
    it and to the side that holds it; stages inside it scale with it.
    """
    if not shortened:
        return call
    counts = {path: Counter(evaluations) for path, evaluations in call.evaluations.items()}
    seconds, total = dict(call.stages), Counter(call.total_evaluations)
    sides = {"encode": call.encode_side, "decode": call.decode_side}
    for path, factor in shortened.items():
        if path not in call.stages:
            continue
        more = (factor - 1) * call.stages[path]
        evaluated = {network: round((factor - 1) * n) for network, n in call.evaluations.get(path, {}).items()}
        sides["decode" if path.split("/")[0] == "decode" else "encode"] += more
        total.update(evaluated)
        for other in call.stages:
            if path.startswith(f"{other}/"):
                seconds[other] += more
                counts.setdefault(other, Counter()).update(evaluated)
            elif other == path or other.startswith(f"{path}/"):
                seconds[other] *= factor
                counts[other] = Counter({k: round(factor * n) for k, n in counts.get(other, Counter()).items()})
    return replace(
        call, encode_side=sides["encode"], decode_side=sides["decode"], stages=seconds,
        evaluations={path: dict(counter) for path, counter in counts.items() if counter},
        total_evaluations=dict(total), ran=call,
    )  # fmt: skip


def scaled(flops: Mapping[str, int], shortened: Mapping[str, float]) -> dict[str, int]:
    """FLOPs per path with the given stages counted several times, as :func:`extrapolated` counts seconds."""
    found = dict(flops)
    for path, factor in shortened.items():
        more = round((factor - 1) * flops.get(path, 0))
        for other in flops:
            if path.startswith(f"{other}/"):
                found[other] += more
            elif other == path or other.startswith(f"{path}/"):
                found[other] = round(factor * flops[other])
    return found


@dataclass(frozen=True)
class Extras:
    """What calls of their own measured: FLOPs and peak bytes, per stage path and of the whole call."""

    flops: Mapping[str, int] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)
    peak: int | None = None


@dataclass
class Instrument:
    """Calls one method at one setting in one scenario; owns the clock, so that no method ever touches one."""

    method: Method
    setting: float
    scenario: Scenario = "latency"
    nanoseconds: Nanoseconds = time.perf_counter_ns
    lanes: int = 0
    """Clips in flight (``throughput``); 0 until :meth:`warm` has found it."""

    @property
    def shortened(self) -> Mapping[str, float]:
        """Stages of which the method runs only a part of its declared trace, with what one run stands for."""
        return getattr(self.method, "shortened", {})

    def skip(self, video: tuple[int, int, int]) -> str | None:
        """Reason why a clip of (T, H, W) cannot be timed in this scenario, or None."""
        if self.scenario == "stream":
            if not hasattr(self.method, "stream"):
                return f"{self.method.name} has no stream(video, setting): it takes a clip as a whole"
            reason = getattr(self.method, "no_stream", None)
            if reason:
                return str(reason)
        return self.method.skip(video)

    def call(self, video: Tensor) -> Call:
        """Time one call on uint8 ``[T, H, W, 3]`` on the device."""
        if self.scenario == "throughput":
            if self.shortened:
                raise ValueError(f"{self.method.name} runs a part of its declared trace: take the scenario latency")
            return self._in_flight(video, self.lanes or 1)
        return extrapolated(self._alone(video), self.shortened)

    def warm(self, video: Tensor, cap_s: float = WARMUP_CAP) -> list[float]:
        """Call until warm (3 calls and 1 s, at most ``cap_s`` seconds, at least once); end-to-end seconds of each."""
        if self.scenario == "cold":
            return []
        seconds: list[float] = []
        while not seconds or ((len(seconds) < WARMUP_CALLS or sum(seconds) < WARMUP_SECONDS) and sum(seconds) < cap_s):
            call = self.call(video)
            seconds.append((call.ran or call).total)
        if self.scenario == "throughput" and not self.lanes:
            seconds += self._widen(video, seconds[-1])
        return seconds

    @property
    def dry(self) -> bool:
        """Whether FLOPs are counted without multiplying: random weights, and no value of a network decides the cost.

        It does where a threshold or a search looks at latents, unless its trace is forced.
        """
        fixed = getattr(self.method, "forced", None) is not None or self.method.family in ("bound", "router")
        return self.method.weights == "random" and fixed

    @property
    def peak_apart(self) -> bool:
        """Whether :meth:`extras` makes a call for the peak memory; elsewhere the timed ones tell it."""
        return not self.dry and self.scenario not in ("throughput", "cold")

    def extras(self, video: Tensor) -> Extras:
        """FLOPs and peak memory of one call each (none where stages overlap or a process has one call only).

        Where :attr:`dry` the products are not computed, only counted, and there is no call for the peak memory: at
        published sizes a call may take minutes.
        """
        if self.scenario in ("throughput", "cold"):
            return Extras()
        flops = scaled(self._flops(video), self.shortened)
        if not self.peak_apart:
            return Extras(flops)
        peak, peaks = self._peak_memory(video)
        return Extras(flops, peaks, peak)

    def _alone(self, video: Tensor) -> Call:
        synchronise = synchroniser(video.device)
        borders: list[tuple[str, int]] = []

        def border(side: str) -> None:
            synchronise()
            borders.append((side, self.nanoseconds()))

        with torch.inference_mode(), counting() as counter, _no_collector():
            clock = StageClock(video.device, self.nanoseconds, counter)
            with listening(clock):
                border("")
                self._run(video, border)
        spans = [(side, (b - a) * 1e-9) for (_, a), (side, b) in pairwise(borders)]
        sides = {name: sum(s for side, s in spans if side == name) for name in ("encode", "decode")}
        chunks: list[float] = []
        if self.scenario == "stream":
            began, ends = borders[0][1], [at for side, at in borders if side == "decode"]
            chunks = [(b - a) * 1e-9 for a, b in pairwise([began, *ends])]
        stages = with_unattributed(clock.seconds(), sides["encode"] + sides["decode"])
        return Call(sides["encode"], sides["decode"], stages, clock.evaluated(), dict(counter), chunks)

    def _run(self, video: Tensor, border: Callable[[str], None]) -> None:
        if self.scenario == "stream":
            for part in self.method.stream(video, self.setting):  # type: ignore[attr-defined]
                border("encode" if isinstance(part, Tokens) else "decode")
            return
        with stage("encode"):
            latents = self.method.encode(video)
        with stage("select"):
            tokens = self.method.select(latents, self.setting)
        border("encode")
        with stage("decode"):
            self.method.decode(tokens)
        border("decode")

    def _in_flight(self, video: Tensor, lanes: int) -> Call:
        synchronise, device = synchroniser(video.device), video.device

        def on_stream(verb: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def work(argument: Any) -> Any:
                own = torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()
                with torch.inference_mode(), own:
                    return verb(argument)

            return work

        def encode_side(clip: Tensor) -> Tokens:
            return self.method.select(self.method.encode(clip), self.setting)

        with ThreadPoolExecutor(lanes) as pool, _no_collector():
            list(pool.map(lambda _: None, range(lanes)))
            synchronise()
            began = self.nanoseconds()
            tokens = list(pool.map(on_stream(encode_side), [video] * lanes))
            synchronise()
            between = self.nanoseconds()
            list(pool.map(on_stream(self.method.decode), tokens))
            synchronise()
            ended = self.nanoseconds()
        return Call((between - began) * 1e-9 / lanes, (ended - between) * 1e-9 / lanes, lanes=lanes)

    def _widen(self, video: Tensor, per_clip: float) -> list[float]:
        """Double the clips in flight while that pays; returns the seconds per clip that were tried."""
        tried: list[float] = []
        self.lanes = 1
        while self.lanes < MAX_LANES:
            try:
                wider = min(self._in_flight(video, 2 * self.lanes).total for _ in range(2))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                break
            tried.append(wider)
            if wider * LANE_GAIN > per_clip:
                break
            self.lanes, per_clip = 2 * self.lanes, wider
        return tried

    def _flops(self, video: Tensor) -> dict[str, int]:
        from torch.utils.flop_counter import FlopCounterMode

        # On the CPU torch counts neither fused attention (formula given here) nor nn.MultiheadAttention's fast path.
        formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            skipping = SkippedProducts() if self.dry else nullcontext()
            with torch.inference_mode(), skipping, FlopCounterMode(display=False, custom_mapping=formulas) as counter:
                listener = FlopListener(counter.get_total_flops)
                with listening(listener):
                    self._run(video, lambda _: None)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
        return dict(listener.flops)

    def _peak_memory(self, video: Tensor) -> tuple[int, dict[str, int]]:
        synchronise = synchroniser(video.device)
        with PeakListener(video.device) as listener, torch.inference_mode(), listening(listener):
            self._run(video, lambda _: synchronise())
        return listener.peak, listener.peaks


class SkippedProducts(TorchDispatchMode):
    """Convolutions, matrix products and fused attention give zeros of the right shape instead of being computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        device = next(a.device for a in args if isinstance(a, Tensor))

        def to_meta(value: Any) -> Any:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

        def from_meta(value: Any) -> Any:
            return torch.zeros(value.shape, dtype=value.dtype, device=device)

        shapes = func(*tree_map_only(Tensor, to_meta, args), **tree_map_only(Tensor, to_meta, kwargs or {}))
        return tree_map_only(Tensor, from_meta, shapes)


_ATEN = torch.ops.aten
PRODUCTS = {
    _ATEN.convolution, _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm,
    _ATEN._scaled_dot_product_flash_attention_for_cpu, _ATEN._scaled_dot_product_flash_attention,
    _ATEN._scaled_dot_product_efficient_attention,
}  # fmt: skip


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


def _attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Two matrix products, as torch counts its CUDA kernels: ``[..., n, d] x [..., d, m]`` and ``x [..., m, e]``."""
    *batch, n, d = q
    return 2 * math.prod(batch) * n * k[-2] * (d + v[-1])


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on a card."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def dtype_of(method: Any) -> str:
    """Number format a method computes in: its own ``dtype``, its tokeniser's, its parameters', else float32."""
    for holder in (method, getattr(method, "tokenizer", None)):
        dtype = getattr(holder, "dtype", None)
        if isinstance(dtype, torch.dtype):
            return str(dtype).removeprefix("torch.")
    for network in _networks(method):
        for parameter in network.parameters():
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def compiled(method: Any) -> bool:
    """Whether any network of the method or of its tokeniser went through ``torch.compile``."""
    networks = [*_networks(method), *_networks(getattr(method, "tokenizer", None))]
    return any(
        hasattr(part, "_orig_mod") or part._compiled_call_impl is not None  # a wrapped module, or Module.compile()
        for network in networks
        for part in network.modules()
    )


def _networks(holder: Any) -> list[torch.nn.Module]:
    parts = vars(holder).values() if hasattr(holder, "__dict__") else ()
    return [part for part in parts if isinstance(part, torch.nn.Module)]
