"""What the speed pass says in numbers: medians with spread per setting, and where the time of a method goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avtbench.bench.metrics.measures import end_to_end
from avtbench.bench.rows import Row
from avtbench.bench.timing.statistics import Alike, alike, extrapolated
from avtbench.reports.frame import nearest_setting, quality_points, speed_points
from avtbench.reports.palette import order

UNATTRIBUTED = "unattributed"


def speed_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return median, p20 and p80 in ms, encode side and total, per (scenario, device, dtype, label, dataset, setting).

    Samples of all clips, launches and rounds are pooled. ``kept_fraction`` is the mean over the timed clips, from the
    quality pass where the timing does not hold it.
    """
    speed, quality = speed_points(table), quality_points(table)
    where = ["scenario", "device", "dtype", "label", "family", "tier", "weights", "dataset", "setting"]
    asked = table[table["pass"] == "speed"].groupby("dataset")["clip"].nunique()
    kept = quality.groupby(["label", "dataset", "setting"])["kept_fraction"].mean()
    lines = []
    for group, timed in speed.groupby(where, sort=False, dropna=False):
        named = dict(zip(where, group, strict=True))
        total = 1e3 * np.concatenate([end_to_end(r) for r in timed["row"]])
        encode = 1e3 * np.concatenate([r.timing.encode_side for r in timed["row"]])
        low, middle, high = np.percentile(total, [20, 50, 80])
        share = timed["kept_fraction"].mean()
        if math.isnan(share):
            share = kept.get((named["label"], named["dataset"], named["setting"]), math.nan)
        lines.append(
            named
            | {
                "kept_fraction": share,
                "total_ms": middle,
                "total_p20": low,
                "total_p80": high,
                "encode_ms": float(np.median(encode)),
                "encode_p20": float(np.percentile(encode, 20)),
                "encode_p80": float(np.percentile(encode, 80)),
                "samples": len(total),
                "clips": timed["clip"].nunique(),
                "of": int(asked[named["dataset"]]),
                "launches": timed["launch"].nunique(),
                "nfe": timed["nfe"].mean(),
                "peak_mb": timed["peak_mb"].max(),
            }
        )
    columns = [*where, "kept_fraction", "total_ms", "total_p20", "total_p80", "encode_ms", "encode_p20", "encode_p80"]
    columns += ["samples", "clips", "of", "launches", "nfe", "peak_mb"]
    return pd.DataFrame(lines, columns=columns)


@dataclass(frozen=True)
class StageMeans:
    """Mean seconds of the stages of one method at one setting; ``total`` is the mean end-to-end time."""

    label: str
    at: str
    """Size, dtype and scenario, e.g. ``17x128x128, float32, latency``."""
    kept: float
    total: float
    stages: Mapping[str, float]
    """By path; leaves called ``unattributed`` hold what their siblings do not explain."""
    random: bool = False
    """True where weights are random."""
    extrapolated: str = ""
    """From what the time was extrapolated; empty where every evaluation was run."""

    @property
    def unattributed(self) -> float:
        """Share of the total in no named stage, 0..1."""
        loose = [s for path, s in self.stages.items() if path.rpartition("/")[2] == UNATTRIBUTED]
        return sum(loose) / self.total if self.total else 0.0


def stage_means(table: pd.DataFrame, scenario: str = "latency") -> list[StageMeans]:
    """Average the stages of every method at its timed setting closest to half of the tokens.

    Sizes, dtypes and machines are never mixed: the one is taken at which most methods were timed.
    """
    speed = speed_points(table)
    speed = speed[speed["scenario"] == scenario]
    met: dict[Alike, set[str]] = {}
    for label, row in zip(speed["label"], speed["row"], strict=True):
        met.setdefault(alike(row), set()).add(label)
    if not met:
        return []
    shown = max(met, key=lambda one: len(met[one]))
    speed = speed[[alike(row) == shown for row in speed["row"]]]
    found = []
    for label, mine in speed.groupby("label", sort=False):
        chosen = nearest_setting(mine)
        rows: list[Row] = [row for row in chosen["row"] if row.timing.encode_side]
        count = sum(len(row.timing.encode_side) for row in rows if row.timing)
        if not count:
            continue
        stages: dict[str, float] = {}
        for row in rows:
            for stage in row.timing.stages if row.timing else ():
                stages[stage.path] = stages.get(stage.path, 0.0) + sum(stage.seconds) / count
        total = sum(sum(end_to_end(row)) for row in rows) / count
        kept, random = float(chosen["kept_fraction"].mean()), any(row.weights == "random" for row in rows)
        partly = extrapolated(row.timing for row in rows if row.timing)
        found.append(StageMeans(str(label), shown.at, kept, total, stages, random, partly))
    return sorted(found, key=lambda s: order(s.label))
