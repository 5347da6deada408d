"""Claims that a computation answers: no model, only published definitions, or those and what stored rows counted.

Each function takes the claim's ``inputs`` (those of :data:`FROM_ROWS` the stored rows as well) and returns what it
computed, one :class:`Computed` per reading. The judging is done by :mod:`avtbench.reports.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avtbench.bench.rows import Row
from avtbench.bench.timing import statistics
from avtbench.reports.selectors import select


@dataclass(frozen=True)
class Computed:
    """A computed value of a metric under one reading."""

    reading: str
    metric: str
    value: float
    low: float
    high: float
    n: str
    note: str = ""


def published_search(smallest: int, least: int, most: int) -> Iterator[int]:
    """Token counts that ElasticTok's released binary search tries, for a loss that passes from ``smallest`` tokens on.

    The count tried last is the one it returns, whether it passed or not, and a count that passes is dropped from the
    range; so the search can end one below the smallest passing count (inference script of the released code).
    """
    low, high = least, most
    while True:
        tried = math.ceil((low + high) / 2)
        yield tried
        if tried >= smallest:
            high = tried - 1
        else:
            low = tried
        if high <= low:
            return


def search_off_by_one(inputs: Mapping[str, Any]) -> list[Computed]:
    """Share of smallest passing counts for which the published search returns one token too few.

    inputs: ``ranges``: name -> [least, most] tokens of a block.
    """
    found = []
    for name, (least, most) in inputs["ranges"].items():
        counts = range(least, most + 1)
        short = fmean(list(published_search(n, least, most))[-1] == n - 1 for n in counts)
        found.append(Computed(name, "share", short, short, short, f"all {len(counts)} smallest passing counts"))
    return found


def search_evaluations(rows: Sequence[Row], inputs: Mapping[str, Any]) -> list[Computed]:
    """Encoder-decoder passes of a block: the probes of the published search, and with the pass that commits its answer;
    and of the whole clip, where every chunk is passed once more at the end.

    inputs: ``range``: [least, most] tokens; ``frames``, ``frames_per_block``, ``blocks_per_chunk`` of the clip, whose
    frames beyond the last whole block are dropped, as the released code does; ``counted``: selector of stored rows on
    such clips; ``network``: the one in their counts that runs once a pass. Rows under a declared trace count nothing:
    their search length was given, not found.
    """
    least, most = inputs["range"]
    probes = [float(len(list(published_search(n, least, most)))) for n in range(least, most + 1)]
    blocks = inputs["frames"] // inputs["frames_per_block"]
    final = math.ceil(blocks / inputs["blocks_per_chunk"])

    def readings(probes: Sequence[float], n: str, source: str, note: str = "") -> list[Computed]:
        counts: dict[str, list[float]] = {
            "probes of a block": [*probes],
            "probes and commit of a block": [p + 1 for p in probes],
            f"sequential passes of a clip of {inputs['frames']} frames ({blocks} blocks, the rest dropped)": [
                blocks * (p + 1) + final for p in probes
            ],
        }
        return [
            Computed(
                f"{name}, {source}", "evaluations", (mean := fmean(found)), mean, mean, n,
                "; ".join([f"{min(found):.4g} to {max(found):.4g}", *([note] if note else [])]),
            )
            for name, found in counts.items()
        ]  # fmt: skip

    selected = select(rows, {**inputs["counted"], "frames": inputs["frames"]})
    found = [row for row in selected if not row.parameters.get("forced") and inputs["network"] in row.evaluations]
    declared = sum(bool(row.parameters.get("forced")) for row in selected)
    note = f"{declared} stored under a declared trace, which counts nothing" if declared else ""
    measured = readings(probes, f"all {len(probes)} smallest passing counts", "by the published search", note)
    for method in sorted({row.method for row in found}):
        passes = [row.evaluations[inputs["network"]] for row in found if row.method == method]
        a_block = [(n - final) / blocks - 1 for n in passes]
        measured += readings(a_block, f"{len(passes)} stored rows", f"counted in rows of {method}")
    return measured


def flops_explain_time(rows: Sequence[Row], inputs: Mapping[str, Any]) -> list[Computed]:
    """Ratio of FLOPs, to hold against a published ratio of times: equal where both ran equally efficiently.

    inputs: ``slow`` and ``fast``: each ``teraflops``, declared, and ``rows``, a selector of the stored rows whose FLOPs
    at ``frames`` x ``side`` x ``side`` make a second reading; an end without such rows stays as declared in it.
    """
    size = {"frames": inputs["frames"], "height": inputs["side"], "width": inputs["side"]}
    declared = {end: float(inputs[end]["teraflops"]) for end in ("slow", "fast")}
    counted = {}
    for end in declared:
        timed = [row.timing for row in select(rows, {**inputs[end]["rows"], **size}) if row.timing is not None]
        flops = [n for timing in timed if (n := statistics.cost(timing)[1]) is not None]
        if flops:
            counted[end] = fmean(flops) / 1e12

    def reading(name: str, teraflops: Mapping[str, float], by_rows: Container[str]) -> Computed:
        ratio = teraflops["slow"] / teraflops["fast"]
        told = (
            f"{n:.4g} TF {'counted in stored rows' if end in by_rows else 'declared'}" for end, n in teraflops.items()
        )
        return Computed(name, "ratio", ratio, ratio, ratio, f"{inputs['frames']} frames", " against ".join(told))

    found = [reading("declared FLOPs", declared, ())]
    return [*found, reading("counted FLOPs", declared | counted, counted)] if counted else found


def psnr_wrapped(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR in dB as TokenBench's first script computed it: difference and square both stay uint8 and wrap around.

    Computable for comparison with old tables, never a quality (profile ``tokenbench-uint8wrap/0``).
    """
    with np.errstate(over="ignore"):
        error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def uint8_wrap(inputs: Mapping[str, Any]) -> list[Computed]:
    """What the wrapped PSNR is where the true one is known, over plausible shapes of the error's distribution.

    inputs: ``psnr``: the true one in dB; ``shapes``: exponents p of exp(-|e / s|^p), 2 being Gaussian, 1 Laplacian.
    """
    error = np.arange(-255, 256)
    target = 255**2 / 10 ** (inputs["psnr"] / 10)
    wrapped = []
    for shape in inputs["shapes"]:
        narrow, wide = 1e-3, 255.0
        for _ in range(100):
            scale = math.sqrt(narrow * wide)
            chance = np.exp(-(np.abs(error / scale) ** shape))
            chance /= chance.sum()
            narrow, wide = (scale, wide) if chance @ error**2 < target else (narrow, scale)
        wrapped.append(10 * math.log10(255**2 / float(chance @ (error**2 % 256))))
    return [
        Computed(
            f"any error shape with a true PSNR of {inputs['psnr']:g} dB",
            "psnr",
            float(np.median(wrapped)),
            min(wrapped),
            max(wrapped),
            f"{len(wrapped)} shapes",
            "the pixels themselves decide: avtbench conventions shows it on a clip and its reconstruction",
        )
    ]


FROM_DEFINITIONS: dict[str, Callable[[Mapping[str, Any]], list[Computed]]] = {
    f.__name__: f for f in (search_off_by_one, uint8_wrap)
}
"""Computations that no stored row can change."""
FROM_ROWS: dict[str, Callable[[Sequence[Row], Mapping[str, Any]], list[Computed]]] = {
    f.__name__: f for f in (search_evaluations, flops_explain_time)
}
