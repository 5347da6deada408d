"""Claims that a computation answers: no model, only stored rows or numbers declared with the claim.

Each function takes the stored rows and the claim's ``inputs`` and returns what it computed, one :class:`Computed` per
reading. The judging is done by :mod:`avtbench.reports.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avtbench.bench.rows import Row
from avtbench.bench.timing import statistics


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


def search_off_by_one(rows: Sequence[Row], inputs: Mapping[str, Any]) -> list[Computed]:
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
    """Encoder-decoder passes of a block: the probes of the published search, and with the pass that commits its answer.

    inputs: ``range``: [least, most]; ``frames``, ``frames_per_block``, ``blocks_per_chunk``: for the whole clip, where
    every chunk is passed once more at the end.
    """
    least, most = inputs["range"]
    probes = [len(list(published_search(n, least, most))) for n in range(least, most + 1)]
    blocks = inputs["frames"] // inputs["frames_per_block"]
    final = math.ceil(blocks / inputs["blocks_per_chunk"])
    n = f"all {len(probes)} smallest passing counts"

    def reading(name: str, count: Callable[[float], float]) -> Computed:
        mean = count(fmean(probes))
        return Computed(name, "evaluations", mean, mean, mean, n, f"{count(min(probes))} to {count(max(probes))}")

    return [
        reading("probes of a block", lambda p: p),
        reading("probes and commit of a block", lambda p: p + 1),
        reading(f"sequential passes of a clip of {inputs['frames']} frames", lambda p: blocks * (p + 1) + final),
    ]


def flops_explain_time(rows: Sequence[Row], inputs: Mapping[str, Any]) -> list[Computed]:
    """Ratio of FLOPs, to hold against a published ratio of times: equal where both ran equally efficiently.

    inputs: ``slow`` and ``fast``: each ``method`` (and ``tokenizer``) whose stored FLOPs at ``frames`` x ``side`` x
    ``side`` are used where there are rows, and ``teraflops`` declared for where there are none.
    """
    found, notes = {}, []
    for end in ("slow", "fast"):
        given = inputs[end]
        stored = [
            flops
            for row in rows
            if row.timing is not None
            and row.method == given.get("method")
            and given.get("tokenizer", row.tokenizer) == row.tokenizer
            and (row.frames, row.height, row.width) == (inputs["frames"], inputs["side"], inputs["side"])
            and (flops := statistics.cost(row.timing)[1]) is not None
        ]
        found[end] = fmean(stored) / 1e12 if stored else float(given["teraflops"])
        notes.append(f"{found[end]:.4g} TF {'counted in stored rows' if stored else 'declared'}")
    ratio = found["slow"] / found["fast"]
    return [
        Computed("ratio of FLOPs", "ratio", ratio, ratio, ratio, f"{inputs['frames']} frames", " against ".join(notes))
    ]


def psnr_wrapped(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR in dB as TokenBench's first script computed it: difference and square both stay uint8 and wrap around.

    Computable for comparison with old tables, never a quality (profile ``tokenbench-uint8wrap/0``).
    """
    with np.errstate(over="ignore"):
        error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def uint8_wrap(rows: Sequence[Row], inputs: Mapping[str, Any]) -> list[Computed]:
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
            "the pixels themselves decide; they need the official weights",
        )
    ]


COMPUTATIONS: dict[str, Callable[[Sequence[Row], Mapping[str, Any]], list[Computed]]] = {
    f.__name__: f for f in (search_off_by_one, search_evaluations, flops_explain_time, uint8_wrap)
}
