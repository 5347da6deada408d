"""Rate-distortion curves: means over clips that say how many clips they hold, upper hulls and Bjontegaard deltas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from avtbench.bench.metrics.measures import MEASURES
from avtbench.reports.errors import Refused, TooLittleOverlap
from avtbench.reports.frame import RATES, clips_of, of_dataset, quality_points
from avtbench.reports.intervals import RESAMPLES, Estimate, estimate
from avtbench.reports.palette import order

MIN_OVERLAP = 0.5
HULL_SAMPLES = 60


@dataclass(frozen=True)
class Mean:
    """A mean over clips. ``n`` clips are in it, of ``of`` asked for; ``lossless`` further ones have no finite value."""

    value: float
    n: int
    of: int
    lossless: int = 0

    @property
    def partial(self) -> bool:
        """True unless every clip is in the mean."""
        return self.n < self.of

    @property
    def clips(self) -> str:
        """``29 of 30 clips``; lossless ones are counted aside, since no dB can stand for them."""
        text = f"{self.n + self.lossless} of {self.of} clips"
        return f"{text}, {self.lossless} lossless" if self.lossless else text

    def text(self, digits: int) -> str:
        """The value, ``lossless`` where no clip differs from its original, or a dash; ``*`` marks a partial mean."""
        if self.n == 0:
            return "lossless" if self.lossless else "–"
        return f"{self.value:.{digits}f}{'*' if self.partial else ''}"


def mean_over_clips(values: pd.Series, of: int) -> Mean:
    """Average the finite values; infinite ones are counted as lossless, missing ones lower ``n``."""
    finite = values[np.isfinite(values)]
    return Mean(float(finite.mean()) if len(finite) else math.nan, len(finite), of, int(np.isinf(values).sum()))


@dataclass(frozen=True)
class Point:
    """One setting of a curve: a mean per measure."""

    setting: float
    means: dict[str, Mean]
    done: int
    of: int

    @property
    def partial(self) -> bool:
        """True where clips are missing altogether."""
        return self.done < self.of

    def __getitem__(self, measure: str) -> float:
        mean = self.means[measure]
        return math.inf if mean.n == 0 and mean.lossless else mean.value


@dataclass(frozen=True)
class Curve:
    """The settings of one method on one data set, from low to high rate."""

    label: str
    family: str
    tier: str
    dataset: str
    setting_name: str
    points: tuple[Point, ...]

    @property
    def bound(self) -> bool:
        return self.family == "bound"

    @property
    def level(self) -> bool:
        """True for a bound that always keeps everything: drawn as a horizontal line."""
        return self.bound and all(p["kept_fraction"] == 1 for p in self.points)


def curves(table: pd.DataFrame, dataset: str, tier: str | None = None) -> list[Curve]:
    """Aggregate the quality pass over the clips of a data set (or of all, ``POOLED``), methods first, bounds last.

    A method that ran several variants gives several curves. Raises :class:`ReportError` where two metric profiles meet.
    """
    of = clips_of(table, dataset)
    points = of_dataset(quality_points(table), dataset)
    if tier is not None:
        points = points[points["tier"] == tier]
    found = []
    for label, of_label in points.groupby("label", sort=False):
        settings = []
        for setting, of_setting in of_label.groupby("setting", sort=True, dropna=False):
            means = {name: mean_over_clips(of_setting[name], of) for name in MEASURES}
            settings.append(Point(float(setting), means, len(of_setting), of))  # type: ignore[arg-type]
        settings.sort(key=lambda p: (p["kept_fraction"], p["bpp"]))
        first = of_label.iloc[0]
        found.append(Curve(str(label), first["family"], first["tier"], dataset, first["setting_name"], tuple(settings)))
    return sorted(found, key=lambda c: order(c.label))


def upper_hull(rate: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return the indices of the rising part of the upper convex hull, from low to high rate.

    What lies below the hull is never worth choosing: sharing time between two hull points does better. Higher
    ``quality`` is better. Andrew's monotone chain (1979).
    """
    hull: list[int] = []
    for i in np.lexsort((-quality, rate)):
        if hull and rate[i] == rate[hull[-1]]:
            continue
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            if (quality[b] - quality[a]) * (rate[i] - rate[a]) > (quality[i] - quality[a]) * (rate[b] - rate[a]):
                break
            hull.pop()
        hull.append(int(i))
    top = int(np.argmax(quality[hull])) if hull else -1
    return np.array(hull[: top + 1], dtype=int)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the shared part of two ranges over their joint range, 0..1."""
    joint = max(a.max(), b.max()) - min(a.min(), b.min())
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    return max(shared, 0.0) / joint if joint > 0 else 1.0


def bjontegaard_delta(
    table: pd.DataFrame,
    method: str,
    anchor: str,
    *,
    of: Literal["rate", "quality"] = "rate",
    quality: str = "psnr",
    rate: str = "bpp",
    dataset: str,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return the Bjontegaard delta of ``method`` against ``anchor`` with its interval.

    ``of="rate"``: mean rate difference in percent at equal quality (BD-rate, negative is better). ``of="quality"``:
    mean quality difference at equal rate (BD-PSNR where ``quality="psnr"``). Both are computed by the ``bjontegaard``
    package (over log rate) on the upper hull of the mean curves over the clips that both methods finished at every
    setting, sampled densely, and again for every resample of the paired cluster bootstrap. Settings at which a clip is
    lossless are left out.

    Raises :class:`Refused` with the reason when a hull has fewer than two points or the curves overlap by less than
    half.
    """
    points = of_dataset(quality_points(table), dataset)
    rates, qualities, clips = {}, {}, set(zip(points["dataset"], points["clip"], strict=True))
    sign = -1.0 if MEASURES[quality].better == "lower" else 1.0
    for label in (method, anchor):
        mine = points[points["label"] == label]
        if mine.empty:
            raise Refused(f"{label} has no finished quality rows on {dataset}")
        rates[label] = mine.pivot(index=["dataset", "clip"], columns="setting", values=rate).dropna()
        qualities[label] = sign * mine.pivot(index=["dataset", "clip"], columns="setting", values=quality).dropna()
        clips &= set(rates[label].index) & set(qualities[label].index)
    if not clips:
        raise Refused(
            f"{method} and {anchor} share no clip with {MEASURES[quality].label} at every setting on {dataset}"
        )
    common = sorted(clips)
    source = points.drop_duplicates(["dataset", "clip"]).set_index(["dataset", "clip"])["cluster"]
    sides = []
    for label in (method, anchor):
        r, q = rates[label].loc[common].to_numpy(), qualities[label].loc[common].to_numpy()
        finite = np.isfinite(q).all(axis=0)
        if finite.sum() < 2:
            raise Refused(
                f"{label} has {finite.sum()} settings with a finite {MEASURES[quality].label}, at least 2 make a curve"
            )
        sides.append((r[:, finite], q[:, finite]))

    def delta(drawn: np.ndarray) -> float:
        hulls = []
        for r, q in sides:
            mean_rate, mean_quality = r[drawn].mean(axis=0), q[drawn].mean(axis=0)
            kept = upper_hull(mean_rate, mean_quality)
            hulls.append((mean_rate[kept], mean_quality[kept]))
        return _delta(hulls[0], hulls[1], of)

    everything = np.arange(len(common))
    hulls = []
    for label, (r, q) in zip((method, anchor), sides, strict=True):
        kept = upper_hull(r[everything].mean(axis=0), q[everything].mean(axis=0))
        if len(kept) < 2:
            raise Refused(
                f"the upper hull of {label} is a single point on {dataset}: it does not gain quality with rate"
            )
        hulls.append((np.log10(r.mean(axis=0)[kept]), q.mean(axis=0)[kept]))
    axis = 1 if of == "rate" else 0
    shared = overlap(hulls[0][axis], hulls[1][axis])
    if shared < MIN_OVERLAP:
        what = MEASURES[quality].label if of == "rate" else "rate"
        raise TooLittleOverlap(
            f"the {what} ranges of {method} and {anchor} overlap by {shared:.1%}, at least {MIN_OVERLAP:.0%} is needed",
            shared,
        )
    unit, digits = ("%", 1) if of == "rate" else (MEASURES[quality].unit, MEASURES[quality].digits)
    result = estimate(
        delta,
        [source[c] for c in common],
        of=clips_of(table, dataset),
        unit=unit,
        digits=digits,
        overlap=shared,
        resamples=resamples,
    )
    if sign < 0 and of == "quality":
        result = result.negated()
    return result


def _delta(
    method: tuple[np.ndarray, np.ndarray], anchor: tuple[np.ndarray, np.ndarray], of: Literal["rate", "quality"]
) -> float:
    """Bjontegaard delta of two hulls (rate, quality); NaN where they do not meet."""
    import bjontegaard  # imports matplotlib: only where a delta is asked for

    if min(len(method[0]), len(anchor[0])) < 2:
        return math.nan
    axis = 1 if of == "rate" else 0
    if overlap(method[axis], anchor[axis]) <= 0:
        return math.nan
    function = bjontegaard.bd_rate if of == "rate" else bjontegaard.bd_psnr
    sampled = (*_sampled(*anchor), *_sampled(*method))
    return float(function(*sampled, method="pchip", require_matching_points=False, min_overlap=0))


def _sampled(rate: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A hull at rates evenly spaced in log, linear in between as time sharing is.

    A cubic through the corners alone, over log rate, lies elsewhere when a corner comes or goes from one resample to
    the next, although the hull hardly moves.
    """
    dense = np.geomspace(rate[0], rate[-1], HULL_SAMPLES)
    return dense, np.interp(dense, rate, quality)


__all__ = ["RATES", "Curve", "Mean", "Point", "bjontegaard_delta", "curves", "mean_over_clips", "overlap", "upper_hull"]
