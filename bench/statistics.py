"""What stored samples of time say: medians with intervals, paired speed-ups, noise floor, warnings in words.

Nothing here measures and nothing needs torch: every function takes seconds (or stored rows' samples) and returns numbers
that print themselves. Rules: a speed-up is a log-ratio paired per clip and round, averaged over clips, with an interval
by bootstrap over clips; "faster" is said only where the interval excludes both 1 and the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval."""


@dataclass(frozen=True)
class Samples:
    """Seconds of repeated calls; prints as ``12.3 ms (12.1-12.9)``: the median with its 20th and 80th percentile."""

    values: tuple[float, ...]

    def __init__(self, values: Sequence[float]) -> None:
        if not values:
            raise ValueError("no samples, expected at least one; the point was stopped before its first call")
        object.__setattr__(self, "values", tuple(values))

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def spread(self) -> tuple[float, float]:
        """20th and 80th percentile."""
        low, high = np.percentile(self.values, (20, 80))
        return float(low), float(high)

    @property
    def iqr_share(self) -> float:
        """Interquartile range as a share of the median."""
        low, high = np.percentile(self.values, (25, 75))
        return float((high - low) / self.median) if self.median else math.inf

    @property
    def deviation_share(self) -> float:
        """Standard deviation as a share of the mean; 0 for a single sample."""
        mean = float(np.mean(self.values))
        return float(np.std(self.values, ddof=1) / mean) if len(self.values) > 1 and mean else 0.0

    def __str__(self) -> str:
        scale, unit = (1.0, "s") if self.median >= 1 else (1e3, "ms") if self.median >= 1e-3 else (1e6, "µs")
        low, high = self.spread
        return f"{self.median * scale:.3g} {unit} ({low * scale:.3g}-{high * scale:.3g})"


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Interval of the median from order statistics (binomial, no assumption on the shape).

    Returns (0, inf) below six samples, where no pair of order statistics reaches ``level`` = 0.95.
    """
    ordered = sorted(values)
    below = int(stats.binom.ppf((1 - level) / 2, len(ordered), 0.5)) if ordered else 0
    if below < 1 or stats.binom.cdf(below - 1, len(ordered), 0.5) > (1 - level) / 2:
        return 0.0, math.inf
    return ordered[below - 1], ordered[-below]


def half_width(values: Sequence[float]) -> float:
    """Half the width of the median's interval, relative to the median; inf where there are too few samples."""
    low, high = median_interval(values)
    centre = float(np.median(values)) if len(values) else 0.0
    return (high - low) / 2 / centre if centre > 0 else math.inf
