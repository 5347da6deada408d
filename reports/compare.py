"""Two methods at a matched rate or a matched quality, clip by clip, with a paired interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd

from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.metrics.profiles import ProfileError, require_one
from avtbench.bench.rows import Row
from avtbench.reports.errors import Refused, ReportError
from avtbench.reports.frame import (
    POOLED,
    QUALITIES,
    TIMES,
    clips_of,
    frame,
    of_dataset,
    quality_points,
    speed_points,
    views_of_one,
)
from avtbench.reports.intervals import RESAMPLES, Estimate, mean_estimate

ANCHORS = {"kept": "kept_fraction", "kept_fraction": "kept_fraction", "bpp": "bpp"} | {q: q for q in QUALITIES}
"""What ``at`` may fix, by the name used on the command line."""
MIN_SHARE = 0.5
"""A comparison needs at least this share of the clips."""
RATIOS = ("kept_fraction", "bpp", "encode_ms", "total_ms", "nfe")
"""Measures compared as a ratio (mean of log-ratios); all others as a difference."""


Reader = Callable[[pd.DataFrame], "dict[str, float] | str"]
"""Reads one clip's points of one method: measure -> value, or the reason why it cannot be read."""


@dataclass(frozen=True)
class At:
    """A matched level, e.g. ``kept=0.5`` or ``psnr=30``."""

    measure: str
    level: float

    @classmethod
    def parse(cls, text: str) -> At:
        """Read ``NAME=NUMBER``; raises :class:`ReportError` in one line."""
        name, found, number = text.partition("=")
        try:
            level = float(number)
        except ValueError:
            level = math.nan
        if not found or name.strip() not in ANCHORS or not math.isfinite(level):
            raise ReportError(
                f"the level is {text!r}, expected NAME=NUMBER, e.g. kept=0.5 or psnr=30, "
                f"with NAME one of {', '.join(ANCHORS)}"
            )
        return cls(ANCHORS[name.strip()], level)

    @property
    def matches_rate(self) -> bool:
        return self.measure in ("kept_fraction", "bpp")

    def __str__(self) -> str:
        m = MEASURES[self.measure]
        return f"{m.label} = {self.level:g}{' ' + m.unit if m.unit and m.unit != 'fraction' else ''}"


@dataclass(frozen=True)
class Comparison:
    """``a`` against ``b``: an estimate per measure (difference a - b, or ratio a / b), over ``n`` of ``of`` clips.

    ``means``: measure -> (mean of a, mean of b) over the compared clips. ``left_out``: clip -> why it could not be
    compared. ``settings``: the settings found on calibration rows, where given.
    """

    a: str
    b: str
    at: At
    dataset: str
    n: int
    of: int
    estimates: Mapping[str, Estimate]
    means: Mapping[str, tuple[float, float]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the clips are compared: at the level, or at what the settings that were found elsewhere reach here."""
        if not self.settings:
            return str(self.at)
        m, reached = MEASURES[self.at.measure], self.means.get(self.at.measure)
        if reached is None:
            return "these settings"
        return f"{m.label} {reached[0]:.{m.digits}f} and {reached[1]:.{m.digits}f}"

    def sentences(self) -> list[str]:
        """The settings where they were found, a sentence per measure, and the clips that could not be compared."""
        lines = []
        if self.settings:
            found_at = ", ".join(f"{name} {setting:.4g}" for name, setting in self.settings.items())
            lines.append(f"settings found on the calibration clips at {self.at}: {found_at}")
        for name, found in self.estimates.items():
            m = MEASURES[name]
            verb = (
                f"is {found.span} that of {self.b}" if found.unit == "x" else f"differs by {found.span} from {self.b}"
            )
            lines.append(
                f"at {self.place}, {m.label} of {self.a} {verb}, {found.clips}"
                + (f" ({found.note})" if found.note else "")
            )
        if self.left_out:
            clip, reason = next(iter(self.left_out.items()))
            lines.append(f"left out: {len(self.left_out)} clips, e.g. {clip}: {reason}")
        return lines


def compare(
    rows: Sequence[Row] | pd.DataFrame,
    a: str,
    b: str,
    at: str | At = "kept=0.5",
    *,
    dataset: str | None = None,
    calibration: Sequence[Row] | None = None,
    per_clip: bool = True,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two methods at one rate or one quality, never at two arbitrary points.

    Three ways to meet the level, all by linear interpolation between swept settings:

    * each clip is read off its own curve (the default; matched quality takes the lowest rate that reaches it);
    * ``per_clip=False``: each method at the one setting at which its mean over these clips meets the level, so that it
      may spend less on a still clip and more on a lively one;
    * ``calibration`` (rows of other clips): the setting is found on their mean and applied to every clip of ``rows``;
      what is reached there is itself a result.

    Missing times leave the time measures out. Without ``dataset`` all clips count, of every data set.

    Raises :class:`ReportError` for an unknown name or level and :class:`Refused` where fewer than half of the clips
    can be compared, or where all clips would be those of one data set in several views.
    """
    table = rows if isinstance(rows, pd.DataFrame) else frame(rows)
    where = At.parse(at) if isinstance(at, str) else at
    dataset = dataset or POOLED
    points = of_dataset(measured := quality_points(table), dataset)
    if points.empty and not measured.empty:
        there = ", ".join(dict.fromkeys(measured["dataset"]))
        raise ReportError(f"no finished quality rows on {dataset}; there are some on {there}")
    known = list(dict.fromkeys(points["label"]))
    for name in (a, b):
        if name not in known:
            raise ReportError(
                f"no finished quality rows of {name!r} on {dataset}; there are {', '.join(known) or 'none'}"
            )
    _one_view(points)
    points = with_times(points[points["label"].isin((a, b))], of_dataset(speed_points(table), dataset))
    settings: dict[str, float] = {}
    readers: dict[str, Reader] = {}
    if calibration is not None:
        held = frame(calibration)
        _same_profile(points, quality_points(held))
        settings = {name: _calibrated(held, name, where) for name in (a, b)}
        readers = {name: partial(_at_setting, setting=setting) for name, setting in settings.items()}
    for name in [n for n in (a, b) if n not in readers]:
        mine = points[points["label"] == name]
        readers[name] = partial(at_level, where=where) if per_clip else on_mean_curve(mine, where)
    of = clips_of(table, dataset)
    found, left_out = _matched(points, (a, b), readers)
    if len(found) < max(1, MIN_SHARE * of):
        raise Refused(_too_few(a, b, where, len(found), of, left_out))
    return _summary(a, b, where, dataset, of, found, left_out, settings, resamples)


def calibrate(rows: Sequence[Row], method: str, target: str | At) -> float:
    """Return the setting at which the method's mean over the clips meets ``target``, e.g. ``kept=0.5`` or ``psnr=30``.

    Linear between neighbouring swept settings. Raises :class:`Refused` where the swept settings do not enclose the
    target.
    """
    return _calibrated(frame(rows), method, At.parse(target) if isinstance(target, str) else target)


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Part the rows of a run into calibration and test rows: every other source of each data set, clips of one source
    together. Raises :class:`Refused` where a data set has one source only.
    """
    sources: dict[str, list[str]] = {}
    for row in rows:
        known = sources.setdefault(row.dataset, [])
        if (source := row.source or row.clip) not in known:
            known.append(source)
    alone = [name for name, known in sources.items() if len(known) < 2]
    if alone or not sources:
        raise Refused(f"{', '.join(alone) or 'the run'} has no other clip to calibrate on; give --calibration RUN")
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[sources[row.dataset].index(row.source or row.clip) % 2].append(row)
    return sides


def common_levels(points: pd.DataFrame, wanted: Sequence[float], fewest: int = 2) -> tuple[float, ...]:
    """Return the kept fractions at which all methods of ``points`` can be compared, from high to low.

    Those of ``wanted`` that lie within every method's mean curve; where that leaves fewer than ``fewest``, up to three
    multiples of 0.05 (else 0.01) spread over the common range. Empty where there is no common range.
    """
    shares = (
        points.groupby(["label", "setting"], dropna=False)["kept_fraction"].mean().groupby("label").agg(["min", "max"])
    )
    low, high = shares["min"].max(), shares["max"].min()
    inside = [level for level in wanted if low <= level <= high]
    if len(inside) >= fewest or not low <= high:
        return tuple(inside)
    for steps in (20, 100):
        grid = [i / steps for i in range(math.ceil(low * steps), math.floor(high * steps) + 1)]
        if len(grid) >= fewest or (grid and steps == 100):
            picked = {grid[round(q * (len(grid) - 1))] for q in (0, 0.5, 1)}
            return tuple(sorted(picked, reverse=True))
    return tuple(inside)


def on_mean_curve(mine: pd.DataFrame, where: At) -> Reader:
    """Return a reader of clips at the one setting (between two swept ones) where the mean over them meets a level.

    ``mine``: the points of one method. Raises :class:`Refused` where the mean never meets it.
    """
    curve = mine.groupby("setting", dropna=False, as_index=False)[["kept_fraction", "bpp", *QUALITIES]].mean()
    curve = curve.sort_values(["kept_fraction", "bpp"]).reset_index(drop=True)
    position = _crossing(curve[where.measure].to_numpy(), where.level)
    if position is None:
        measure, reached = MEASURES[where.measure], curve[where.measure][np.isfinite(curve[where.measure])]
        spans = (
            f"{reached.min():.{measure.digits}f} to {reached.max():.{measure.digits}f}" if len(reached) else "nothing"
        )
        raise Refused(f"{mine['label'].iloc[0]} reaches {measure.label} {spans} on the mean, not {where.level:g}")
    place = {setting: i for i, setting in enumerate(curve["setting"])}
    lower, weight = position
    needed = set(curve["setting"].iloc[lower : lower + 1 + (weight > 0)])

    def read(clip: pd.DataFrame) -> dict[str, float] | str:
        if not needed <= set(clip["setting"]):
            return "not finished at " + " and ".join(f"{s:g}" for s in sorted(needed))
        own = clip.assign(place=clip["setting"].map(place)).sort_values("place").reset_index(drop=True)
        start = int(own.index[own["place"] == lower][0])
        return _read(own, (start, weight))

    return read


def at_level(clip: pd.DataFrame, where: At) -> dict[str, float] | str:
    """Read one clip's curve (its points of one method) at a level: measure -> value, or the reason why it cannot be."""
    curve = clip.sort_values(["kept_fraction", "bpp"])
    axis = curve[where.measure].to_numpy()
    label = MEASURES[where.measure].label
    finite = axis[np.isfinite(axis)]
    if len(finite) == 0:
        return f"no finite {label}"
    if (len(finite) > 1 and not finite.min() <= where.level <= finite.max()) or (
        len(finite) == 1 and finite[0] != where.level
    ):
        return f"{label} spans {finite.min():.4g} to {finite.max():.4g}"
    if where.matches_rate:
        position = _crossing(axis, where.level)
    else:
        better = -axis if MEASURES[where.measure].better == "lower" else axis
        level = -where.level if MEASURES[where.measure].better == "lower" else where.level
        position = _crossing(np.maximum.accumulate(np.where(np.isfinite(better), better, -np.inf)), level)
    if position is None:
        return f"{label} jumps over {where.level:g}"
    return _read(curve, position)


def _crossing(axis: np.ndarray, level: float) -> tuple[int, float] | None:
    """Return (i, w) such that ``(1 - w) * axis[i] + w * axis[i + 1] == level``, the first from low to high rate."""
    for i, value in enumerate(axis):
        if value == level:
            return i, 0.0
        if i and np.isfinite(axis[i - 1]) and np.isfinite(value) and (axis[i - 1] - level) * (value - level) < 0:
            return i - 1, (level - axis[i - 1]) / (value - axis[i - 1])
    return None


def _between(values: np.ndarray, lower: int, weight: float) -> float:
    if weight == 0.0:
        return float(values[lower])
    return float((1 - weight) * values[lower] + weight * values[lower + 1])


def with_times(points: pd.DataFrame, speed: pd.DataFrame) -> pd.DataFrame:
    """Put the median time of each (label, setting, clip) beside its quality: scenario ``latency``, one device."""
    timed = speed[speed["scenario"] == "latency"]
    if timed.groupby(["device", "dtype"]).ngroups > 1:
        timed = timed.iloc[:0]
    where = ["label", "setting", "dataset", "clip"]
    times = timed.groupby(where, as_index=False)[list(TIMES)].median()
    return points.drop(columns=list(TIMES)).merge(times, on=where, how="left")


def _calibrated(held: pd.DataFrame, method: str, where: At) -> float:
    points = quality_points(held)
    points = points[points["label"] == method]
    if points.empty:
        raise ReportError(
            f"no finished quality rows of {method!r} to calibrate on; "
            f"there are {', '.join(dict.fromkeys(held['label'])) or 'none'}"
        )
    _one_view(points)
    curve = points.groupby("setting", as_index=False)[["kept_fraction", "bpp", *QUALITIES]].mean()
    curve = curve.sort_values(["kept_fraction", "bpp"]).reset_index(drop=True)
    position = _crossing(curve[where.measure].to_numpy(), where.level)
    if position is None:
        spans = curve[where.measure][np.isfinite(curve[where.measure])]
        raise Refused(
            f"{method}: swept settings reach {MEASURES[where.measure].label} {spans.min():.4g} to {spans.max():.4g} "
            f"on the calibration clips, not {where.level:g}; sweep further settings"
        )
    setting = _between(curve["setting"].to_numpy(), *position)
    if not math.isfinite(setting):
        raise Refused(
            f"{method}: {where} lies between an infinite setting and its neighbour; sweep settings closer to it"
        )
    return setting


def _one_view(points: pd.DataFrame) -> None:
    if views := views_of_one(points):
        raise Refused(
            f"the rows hold {' and '.join(views)}, views of one data set, which are never pooled; give "
            f"one of them (--dataset '{views[0]}')"
        )


def _same_profile(points: pd.DataFrame, held: pd.DataFrame) -> None:
    try:
        require_one([*points["profile"], *held["profile"]])
    except ProfileError as error:
        raise ReportError(f"calibration and test: {error}") from None


def _at_setting(clip: pd.DataFrame, setting: float) -> dict[str, float] | str:
    curve = clip.sort_values("setting")
    position = _crossing(curve["setting"].to_numpy(), setting)
    if position is None:
        return f"settings {curve['setting'].min():.4g} to {curve['setting'].max():.4g} do not enclose {setting:.4g}"
    return _read(curve, position)


def _read(curve: pd.DataFrame, position: tuple[int, float]) -> dict[str, float]:
    """Every measure at a position between two points; one taken at fewer settings (times) is read between those."""
    kept = curve["kept_fraction"].to_numpy()
    share = _between(kept, *position)
    values = {}
    for name in MEASURES:
        column = curve[name].to_numpy()
        values[name] = _between(column, *position)
        present = np.flatnonzero(~np.isnan(column))
        if math.isnan(values[name]) and len(present) and kept[present].min() <= share <= kept[present].max():
            values[name] = float(np.interp(share, kept[present], column[present]))
    return values


def _matched(
    points: pd.DataFrame, names: tuple[str, str], readers: Mapping[str, Reader]
) -> tuple[list[tuple[str, dict[str, float], dict[str, float]]], dict[str, str]]:
    """Return (cluster, values of a, values of b) of the clips that both can be read on, and why others are out."""
    found, left_out = [], {}
    for (dataset, clip), of_clip in points.groupby(["dataset", "clip"], sort=True):
        sides = []
        for name in names:
            mine = of_clip[of_clip["label"] == name]
            read = "not finished" if mine.empty else readers[name](mine)
            if isinstance(read, str):
                left_out[f"{dataset}/{clip}"] = f"{name}: {read}"
                break
            sides.append(read)
        else:
            found.append((of_clip["cluster"].iloc[0], *sides))
    return found, left_out


def _too_few(a: str, b: str, where: At, n: int, of: int, left_out: Mapping[str, str]) -> str:
    reason = f"{a} and {b} can both be read at {where} on {n} of {of} clips, at least half are needed"
    first = next(iter(left_out.items()), None)
    return f"{reason}; e.g. {first[0]}: {first[1]}" if first else reason


def _summary(
    a: str, b: str, where: At, dataset: str, of: int, found: list[tuple[str, dict[str, float], dict[str, float]]],
    left_out: Mapping[str, str], settings: Mapping[str, float], resamples: int,
) -> Comparison:  # fmt: skip
    clusters = np.array([cluster for cluster, _, _ in found])
    estimates, means = {}, {}
    for name in ("kept_fraction", "bpp", *QUALITIES, "encode_ms", "total_ms", "nfe"):
        if name == where.measure and not settings:
            continue
        left = np.array([side.get(name, math.nan) for _, side, _ in found])
        right = np.array([side.get(name, math.nan) for _, _, side in found])
        ratio = name in RATIOS
        usable = np.isfinite(left) & np.isfinite(right)
        if ratio:
            usable &= (left > 0) & (right > 0)
        if not usable.any():
            continue
        m = MEASURES[name]
        effect = np.log(left[usable] / right[usable]) if ratio else left[usable] - right[usable]
        result = mean_estimate(
            effect, list(clusters[usable]), of=of, unit="x" if ratio else m.unit, digits=m.digits, resamples=resamples
        )
        estimates[name] = exponential(result) if ratio else result
        means[name] = (float(left[usable].mean()), float(right[usable].mean()))
    return Comparison(a, b, where, dataset, len(found), of, estimates, means, left_out, settings)


def exponential(result: Estimate) -> Estimate:
    """Turn an estimate of a log-ratio into one of the ratio itself."""
    value, low, high = (math.exp(v) if not math.isnan(v) else v for v in (result.value, result.low, result.high))
    return replace(result, value=value, low=low, high=high, unit="x", digits=2 if value < 10 else 1)
