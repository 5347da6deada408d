"""What one method gains over another at one kept fraction: paired over clips, always with more meaning better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.measures import MEASURES
from avtbench.reports.compare import At, Comparison, at_level, compare
from avtbench.reports.errors import Refused
from avtbench.reports.frame import POOLED, QUALITIES, of_dataset, quality_points
from avtbench.reports.intervals import RESAMPLES, Estimate

LEVELS = (0.25, 0.5, 0.75)
"""Kept fractions at which a fill is judged."""
GAINED = ("psnr", "lpips_squeeze", "lpips_vgg", "lpips_alex")
"""Measures in which a gain is told, where they were measured."""


def measured(points: pd.DataFrame) -> tuple[str, ...]:
    """Those of :data:`GAINED` that the points hold."""
    return tuple(m for m in GAINED if points[m].notna().any())


@dataclass(frozen=True)
class Gain:
    """``method`` over ``against`` on one data set at one kept fraction; a refused number is its reason.

    ``estimate``: mean improvement over clips with its 95 % interval, positive where ``method`` is better: higher PSNR,
    lower LPIPS.
    """

    method: str
    against: str
    dataset: str
    level: float
    measure: str
    estimate: Estimate | UserError

    @property
    def sign(self) -> int | None:
        """1 where the whole interval is above zero, -1 below, 0 where it holds zero, None without a number."""
        if isinstance(self.estimate, UserError) or math.isnan(self.estimate.low):
            return None
        return 1 if self.estimate.low > 0 else -1 if self.estimate.high < 0 else 0


def gains(
    table: pd.DataFrame,
    method: str,
    against: str,
    *,
    dataset: str = POOLED,
    levels: tuple[float, ...] = LEVELS,
    per_clip: bool = True,
    resamples: int = RESAMPLES,
) -> list[Gain]:
    """Compare at every level, by measure.

    ``per_clip``: each clip is read off its own curve at the level. Two methods with the same rule (LIT and hold) then
    have the same masks at both settings that are read between, so nothing but the fill differs; :func:`same_masks`
    says whether that is so. Otherwise each method stands at the one setting at which its mean over clips meets the
    level, which lets it share its tokens among clips as its rule wants to.
    """
    names = measured(of_dataset(quality_points(table), dataset))
    found = []
    for level in levels:
        result: Comparison | UserError
        try:
            result = compare(
                table, method, against, At("kept_fraction", level), dataset=dataset, per_clip=per_clip,
                resamples=resamples,
            )  # fmt: skip
        except UserError as reason:
            result = reason
        found += [Gain(method, against, dataset, level, name, _improvement(result, name)) for name in names]
    return found


def _improvement(result: Comparison | UserError, measure: str) -> Estimate | UserError:
    if isinstance(result, UserError):
        return result
    if measure not in result.estimates:
        return Refused(f"no finite {MEASURES[measure].label} of both on any clip")
    estimate = result.estimates[measure]
    return estimate.negated() if MEASURES[measure].better == "lower" else estimate


def same_masks(table: pd.DataFrame, a: str, b: str, dataset: str = POOLED) -> tuple[int, int]:
    """Return on how many (clip, setting) points both kept as many tokens with a mask of the same coded size, and of how
    many points that both finished."""
    points = of_dataset(quality_points(table), dataset)
    where, counted = ["dataset", "clip", "setting"], ["kept", "mask_bpp_coded"]
    sides = [points[points["label"] == name].set_index(where)[counted] for name in (a, b)]
    both = sides[0].merge(sides[1], left_index=True, right_index=True, suffixes=("_a", "_b"))
    alike = (both["kept_a"] == both["kept_b"]) & (both["mask_bpp_coded_a"] == both["mask_bpp_coded_b"])
    return int(alike.sum()), len(both)


def per_clip(table: pd.DataFrame, method: str, level: float, dataset: str = POOLED) -> pd.DataFrame:
    """Read each clip of a method at a kept fraction, a line per clip that reaches it.

    Columns: ``dataset``, ``clip``, ``cluster``, ``motion`` and every quality. A method that always keeps everything
    is read where it is.
    """
    points = of_dataset(quality_points(table), dataset)
    points = points[points["label"] == method]
    fixed = bool((points["kept_fraction"] == 1).all())
    lines = []
    for (name, clip), mine in points.groupby(["dataset", "clip"], sort=True):
        read = at_level(mine, At("kept_fraction", 1.0 if fixed else level))
        if not isinstance(read, str):
            first = mine.iloc[0]
            known = {"dataset": name, "clip": clip, "cluster": first["cluster"], "motion": first["motion"]}
            lines.append(known | {q: read[q] for q in QUALITIES})
    return pd.DataFrame(lines, columns=["dataset", "clip", "cluster", "motion", *QUALITIES])


def clip_gains(a: pd.DataFrame, b: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Improvement of ``a`` over ``b`` (tables of :func:`per_clip`) in one measure: a line per clip of both, finite."""
    where = ["dataset", "clip"]
    both = a.merge(b[[*where, measure]], on=where, suffixes=("", "_b"))
    both["gain"] = both[measure] - both[f"{measure}_b"]
    if MEASURES[measure].better == "lower":
        both["gain"] = -both["gain"]
    return both.loc[both["gain"].abs() < math.inf, [*where, "cluster", "motion", "gain"]].reset_index(drop=True)
