"""Settings at which methods meet: found on the quality rows of the clips that are to be timed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import pandas as pd

from avtbench.bench.rows import Row
from avtbench.reports.compare import ANCHORS, At, calibrate
from avtbench.reports.errors import Refused, ReportError
from avtbench.reports.frame import frame, quality_points
from avtbench.reports.ratios import Level

CLOSE_RATE, CLOSE_QUALITY = 0.01, 0.002
"""How near a setting has to come to its level, as a share of it; 30 dB is met within 0.06 dB."""


def find(rows: Sequence[Row], wanted: Sequence[str]) -> tuple[list[Level], list[str]]:
    """The levels with the setting of every method that meets them on the mean, and who meets none and why.

    wanted: ``kept=0.5``, ``psnr=30`` or the like; a name alone (``psnr``) is the middle of what every method reaches.
    Methods with one setting (full rate) and rows with an alias stay as they are. Raises :class:`ReportError` where a
    level is unknown or no method meets it.
    """
    rows = [row for row in rows if not row.alias]
    points = quality_points(frame(rows))
    curves = {str(m): mine for m, mine in points.groupby("method", sort=False) if mine["setting"].nunique() > 1}
    levels: list[Level] = []
    left_out: list[str] = []
    for text in wanted:
        target = text if "=" in text else f"{text}={_middle(curves, text):.4g}"
        settings: dict[str, float] = {}
        for method in curves:
            try:
                settings[method] = float(f"{calibrate([r for r in rows if r.method == method], method, target):.6g}")
            except Refused as reason:
                left_out.append(f"at {target}, {method}: {reason}")
        if not settings:
            raise ReportError(
                f"no method meets {target}: {'; '.join(left_out) or 'no quality rows with several settings'}"
            )
        levels.append((target, settings))
    return levels, left_out


def missed(rows: Sequence[Row], levels: Sequence[Level]) -> dict[tuple[str, str], float]:
    """What those who miss a level reach, on the mean over the clips of quality rows, by (level, method)."""
    means = _means(rows)
    told = {}
    for text, settings in levels:
        at = At.parse(text)
        for method, setting in settings.items():
            mean = float(means[at.measure].get((method, setting), math.nan))
            if not abs(mean - at.level) <= at.level * (CLOSE_RATE if at.matches_rate else CLOSE_QUALITY):
                told[text, method] = mean
    return told


def nearest(rows: Sequence[Row], levels: Sequence[Level]) -> list[Level]:
    """The levels with the setting of each method that comes nearest to them, of all that ``rows`` hold."""
    means = _means(rows)
    found: list[Level] = []
    for text, settings in levels:
        at = At.parse(text)
        away = (means[at.measure] - at.level).abs()
        found.append((text, {method: float(away[method].idxmin()) for method in settings}))
    return found


def closer(rows: Sequence[Row], levels: Sequence[Level], missed: Collection[tuple[str, str]]) -> list[Level]:
    """The levels with new settings for those that missed them, found on rows that now hold what was reached."""
    again, _ = find(rows, [text for text, _ in levels])
    return [
        (text, {m: new.get(m, s) if (text, m) in missed else s for m, s in settings.items()})
        for (text, settings), (_, new) in zip(levels, again, strict=True)
    ]


def _means(rows: Sequence[Row]) -> pd.DataFrame:
    """Measures by (method, setting), on the mean over the clips."""
    points = quality_points(frame([row for row in rows if not row.alias]))
    return points.groupby(["method", "setting"])[list(dict.fromkeys(ANCHORS.values()))].mean()


def _middle(curves: dict[str, pd.DataFrame], name: str) -> float:
    """The middle of the range of a measure that every method's mean curve covers."""
    if name not in ANCHORS:
        raise ReportError(f"--match {name}: expected NAME or NAME=NUMBER with NAME one of {', '.join(ANCHORS)}")
    means = [mine.groupby("setting")[ANCHORS[name]].mean() for mine in curves.values()]
    spans = [(m[m.map(math.isfinite)].min(), m[m.map(math.isfinite)].max()) for m in means]
    low, high = max((s[0] for s in spans), default=math.nan), min((s[1] for s in spans), default=math.nan)
    if not low <= high:
        reached = ", ".join(f"{m} {s[0]:.3g} to {s[1]:.3g}" for m, s in zip(curves, spans, strict=True))
        raise ReportError(f"--match {name}: the methods share no {name} ({reached}); sweep more settings")
    return (low + high) / 2
