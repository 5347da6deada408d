"""The clock: one synchronised call, and the tree of stages inside it.

A call is timed by ``perf_counter_ns`` around synchronise-call-synchronise. Stage borders inside it never synchronise:
on the CPU they read the same clock, on CUDA they record an event, read after the last synchronisation.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from avtbench.bench.rows import StageCost

UNATTRIBUTED = "unattributed"
"""Last part of the path of a leaf that holds the time of its parent which no named stage explains."""

Nanoseconds = Callable[[], int]


def synchroniser(device: torch.device) -> Callable[[], None]:
    """A function that returns once ``device`` has finished its queue. Raises ValueError where there is no clock."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    raise ValueError(f"device {device} has no clock here, expected cpu or cuda; pass --device cpu")


@dataclass
class _Open:
    path: str
    began: Any
    evaluations: Mapping[str, int]


@dataclass
class StageClock:
    """A stage listener that adds up, per path, the time and the network evaluations of one call.

    ``nanoseconds`` is the host clock; ``device`` decides whether borders are CUDA events. ``evaluations`` is the live
    counter of :func:`avtbench.methods.stages.counting`. Call :meth:`seconds` after synchronising.
    """

    device: torch.device
    nanoseconds: Nanoseconds = time.perf_counter_ns
    evaluations: Counter[str] = field(default_factory=Counter)
    _open: list[_Open] = field(default_factory=list)
    _spans: dict[str, list[tuple[Any, Any]]] = field(default_factory=dict)
    _evaluated: dict[str, Counter[str]] = field(default_factory=dict)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return self.nanoseconds()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def enter(self, name: str) -> None:
        path = f"{self._open[-1].path}/{name}" if self._open else name
        self._spans.setdefault(path, [])
        evaluations = dict(self.evaluations)
        self._open.append(_Open(path, self._mark(), evaluations))

    def exit(self, name: str) -> None:
        ended = self._mark()
        stage = self._open.pop()
        self._spans[stage.path].append((stage.began, ended))
        counted = self._evaluated.setdefault(stage.path, Counter())
        counted.update(self.evaluations)
        counted.subtract(stage.evaluations)

    def seconds(self) -> dict[str, float]:
        """Seconds per path, a stage entered several times added up, parents before children."""
        if self.device.type == "cuda":
            spent = {p: sum(a.elapsed_time(b) for a, b in spans) * 1e-3 for p, spans in self._spans.items()}
        else:
            spent = {p: sum(b - a for a, b in spans) * 1e-9 for p, spans in self._spans.items()}
        return {path: spent[path] for path in tree_order(spent)}

    def evaluated(self) -> dict[str, dict[str, int]]:
        """Network evaluations per path, stages without any left out."""
        counts = {path: {k: n for k, n in counter.items() if n} for path, counter in self._evaluated.items()}
        return {path: counter for path, counter in counts.items() if counter}


def tree_order(paths: Iterable[str]) -> list[str]:
    """Paths with every parent directly before its children, siblings in the order in which they were first seen."""
    children: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        children.setdefault(path.rpartition("/")[0], []).append(path)

    def walk(parent: str) -> list[str]:
        return [q for p in children.get(parent, []) for q in (p, *walk(p))]

    return walk("")


def with_unattributed(stages: Mapping[str, float], total: float) -> dict[str, float]:
    """Add to every parent, and to the whole call of ``total`` seconds, a leaf with what its stages do not explain."""
    children: dict[str, float] = {}
    for path, seconds in stages.items():
        parent = path.rpartition("/")[0]
        children[parent] = children.get(parent, 0.0) + seconds
    complete = dict(stages)
    for parent, explained in children.items():
        whole = stages[parent] if parent else total
        complete[f"{parent}/{UNATTRIBUTED}".lstrip("/")] = max(whole - explained, 0.0)
    return {path: complete[path] for path in tree_order(complete)}


def stage_costs(
    calls: Sequence[Mapping[str, float]],
    evaluations: Mapping[str, Mapping[str, int]] | None = None,
    flops: Mapping[str, int] | None = None,
    peaks: Mapping[str, int] | None = None,
) -> list[StageCost]:
    """Join the trees of several calls; a stage that a call never entered took 0 s in it."""
    paths = tree_order(path for call in calls for path in call)
    return [
        StageCost(
            path=path,
            seconds=[call.get(path, 0.0) for call in calls],
            flops=(flops or {}).get(path),
            peak_bytes=(peaks or {}).get(path),
            evaluations=dict((evaluations or {}).get(path, {})),
        )
        for path in paths
    ]


class FlopListener:
    """Attributes floating point operations to stages; ``total`` reads the running count."""

    def __init__(self, total: Callable[[], int]) -> None:
        self._total = total
        self._open: list[tuple[str, int]] = []
        self.flops: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        path = f"{self._open[-1][0]}/{name}" if self._open else name
        self._open.append((path, self._total()))

    def exit(self, name: str) -> None:
        path, before = self._open.pop()
        self.flops[path] += self._total() - before


def reset_peak(device: torch.device) -> None:
    """Let :func:`peak_bytes` start from what is in use now; on a CPU where the system allows it (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use since :func:`reset_peak`. CUDA: allocated by torch. CPU: resident set of the process, since it
    began where the system does not let it be reset; None where none is told."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(marks[0].split()[1]) * 1024 if marks else None
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class PeakListener:
    """Attributes peak memory to stages. CUDA: bytes allocated by torch. CPU: resident set of the process, interpreter
    and weights included, sampled every millisecond and at every border, after freed memory went back to the system."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, int] = {}
        self.peak = 0
        self._open: list[str] = []
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def _sample(self) -> None:
        with self._lock:
            if self.device.type == "cuda":
                now = torch.cuda.max_memory_allocated(self.device)
                torch.cuda.reset_peak_memory_stats(self.device)
            else:
                now = self._process.memory_info().rss
            self.peak = max(self.peak, now)
            for path in self._open:
                self.peaks[path] = max(self.peaks.get(path, 0), now)

    def _watch(self) -> None:
        while not self._ended.wait(1e-3):
            self._sample()

    def enter(self, name: str) -> None:
        self._sample()
        with self._lock:
            self._open.append(f"{self._open[-1]}/{name}" if self._open else name)

    def exit(self, name: str) -> None:
        self._sample()
        with self._lock:
            self._open.pop()

    def __enter__(self) -> PeakListener:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory, which would hide the stages' own
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        self._sample()
        return self

    def __exit__(self, *_: object) -> None:
        self._sample()
        self._ended.set()
        if self.device.type != "cuda":
            self._watcher.join()
