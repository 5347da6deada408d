"""An estimate with its interval: paired bootstrap over clips, clips cut from one source resampled together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import bootstrap

from avtbench.reports.errors import Refused

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 1000
FEW_SOURCES = 6


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and the clips it stands on.

    ``unit`` is printed behind the value: ``dB``, ``%``, or ``x`` for a ratio. ``low`` and ``high`` are NaN where no
    interval can be given; ``note`` then says why.
    """

    value: float
    low: float
    high: float
    n: int
    of: int
    sources: int
    unit: str = ""
    digits: int = 2
    note: str = ""
    overlap: float | None = None

    def excludes(self, value: float) -> bool:
        """Return whether the interval leaves ``value`` out; without an interval nothing is left out."""
        return bool(self.low > value or self.high < value)

    @property
    def partial(self) -> bool:
        return self.n < self.of

    @property
    def clips(self) -> str:
        return f"{self.n} of {self.of} clips"

    @property
    def span(self) -> str:
        """Value and interval, e.g. ``+1.20 dB [+0.90, +1.50]``."""
        unit = self.unit if self.unit in ("x", "") else f" {self.unit}"
        if math.isnan(self.low):
            return f"{self._text(self.value)}{unit} [no interval]"
        return f"{self._text(self.value)}{unit} [{self._text(self.low)}, {self._text(self.high)}]"

    def negated(self) -> Estimate:
        """The same comparison the other way round: a drop of a measure where less is better is a gain."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def _text(self, value: float) -> str:
        value = round(value, self.digits) + 0.0  # no minus before a zero
        return f"{value:{'' if self.unit == 'x' or value == 0 else '+'}.{self.digits}f}"

    def __str__(self) -> str:
        text = f"{self.span}, {self.clips}"
        if self.overlap is not None:
            text += f", overlap {self.overlap:.0%}"
        return f"{text} ({self.note})" if self.note else text


def estimate(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[str],
    *,
    of: int,
    unit: str = "",
    digits: int = 2,
    overlap: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return ``statistic`` over all clips with a percentile bootstrap interval.

    ``statistic`` maps clip indices (with repetitions) to a number; it sees both sides of a comparison on the same
    clips, which makes the bootstrap paired. ``clusters`` names the source of each clip: whole sources are drawn, so
    that clips cut from one recording are never counted as independent. A resample in which the statistic is undefined
    may return NaN; more than 5 % of those raise :class:`Refused`.
    """
    names = sorted(set(clusters))
    members = [np.flatnonzero([c == name for c in clusters]) for name in names]
    value = float(statistic(np.arange(len(clusters))))
    low = high = math.nan
    if len(names) < 2:
        note = "one source: an interval needs two or more"
    else:
        drawn = _resample(statistic, members, resamples, seed)
        undefined = float(np.mean(np.isnan(drawn)))
        if undefined > 0.05:
            raise Refused(f"undefined in {undefined:.0%} of the resamples over clips, at most 5% are allowed")
        low, high = np.nanquantile(drawn, TAILS)
        note = _note(len(names))
    return Estimate(value, float(low), float(high), len(clusters), of, len(names), unit, digits, note, overlap)


def mean_estimate(
    effects: np.ndarray,
    clusters: Sequence[str],
    *,
    of: int,
    unit: str = "",
    digits: int = 2,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return the mean of one effect per clip, with the interval of :func:`estimate`, all resamples at once."""
    names, which = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return estimate(lambda drawn: float(effects[drawn].mean()), clusters, of=of, unit=unit, digits=digits)
    sums, counts = np.bincount(which, weights=effects), np.bincount(which)

    def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(sums[drawn].sum(axis=axis) / counts[drawn].sum(axis=axis))

    low, high = np.quantile(_bootstrap(statistic, len(names), True, resamples, seed), TAILS)
    return Estimate(
        float(effects.mean()), float(low), float(high), len(effects), of, len(names), unit, digits, _note(len(names))
    )


def _note(sources: int) -> str:
    return f"from {sources} sources only, so the interval is too narrow" if sources < FEW_SOURCES else ""


def _resample(
    statistic: Callable[[np.ndarray], float], members: list[np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    def over_sources(drawn: np.ndarray) -> float:
        return statistic(np.concatenate([members[i] for i in drawn]))

    return _bootstrap(over_sources, len(members), False, resamples, seed)


def _bootstrap(
    statistic: Callable[..., object], sources: int, vectorized: bool, resamples: int, seed: int
) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an all-equal distribution (two copies of one method) is a fine answer here
        result = bootstrap(
            (np.arange(sources),),
            statistic,
            vectorized=vectorized,
            n_resamples=resamples,
            method="percentile",
            confidence_level=CONFIDENCE,
            random_state=np.random.default_rng(seed),
        )
    return np.asarray(result.bootstrap_distribution)
