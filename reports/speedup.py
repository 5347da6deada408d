"""Speed between methods: paired log-ratios per clip and round, interval over clips, and the noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from avtbench.bench.measures import end_to_end
from avtbench.bench.rows import Row
from avtbench.reports.compare import exponential
from avtbench.reports.errors import Refused
from avtbench.reports.frame import frame
from avtbench.reports.intervals import RESAMPLES, Estimate, estimate


@dataclass(frozen=True)
class Speedup:
    """How often ``fast`` fits into ``slow``: ``31.2x [29.8, 32.5], 16 of 16 clips, 3 launches, ...``."""

    fast: str
    slow: str
    estimate: Estimate
    launches: int
    device: str
    dtype: str
    scenario: str
    noise_floor: float | None = None
    """Widest ratio of a method against itself, 1 or more; None where no A/A pair was run."""

    @property
    def real(self) -> bool:
        """True where the interval excludes 1 and the effect is larger than the noise floor."""
        floor = self.noise_floor or 1.0
        outside = self.estimate.low > floor or self.estimate.high < 1 / floor
        return self.estimate.excludes(1.0) and outside

    def __str__(self) -> str:
        launches = f"{self.launches} launch{'es' if self.launches != 1 else ''}"
        return f"{self.estimate}, {launches}, {self.scenario}, {self.device}, {self.dtype}"


def _samples(rows: pd.DataFrame, side: str) -> dict[tuple[str, str, int, int], float]:
    """(dataset, clip, launch, round) -> seconds."""
    found = {}
    for line in rows.itertuples():
        timing = line.row.timing  # type: ignore[union-attr]
        seconds = timing.encode_side if side == "encode" else end_to_end(line.row)  # type: ignore[arg-type]
        for number, value in zip(timing.rounds, seconds, strict=True):
            found[line.dataset, line.clip, line.launch, number] = value  # type: ignore[index]
    return found  # type: ignore[return-value]


def paired_speedup(
    slow: pd.DataFrame, fast: pd.DataFrame, *, side: str = "total", of: int | None = None, resamples: int = RESAMPLES
) -> Estimate:
    """Return ``slow / fast`` in seconds for two sets of speed lines of one setting each.

    Log-ratios are taken between samples of the same clip, launch and round, averaged per clip, then over clips; the
    interval is a cluster bootstrap over clips. ``side``: ``total`` (end to end) or ``encode``. Raises
    :class:`Refused` without a common round.
    """
    left, right = _samples(slow, side), _samples(fast, side)
    ratios: dict[tuple[str, str], list[float]] = {}
    for where in sorted(left.keys() & right.keys()):
        ratios.setdefault(where[:2], []).append(math.log(left[where] / right[where]))
    if not ratios:
        raise Refused("the two have no clip, launch and round in common")
    clusters = slow.drop_duplicates(["dataset", "clip"]).set_index(["dataset", "clip"])["cluster"]
    per_clip = np.array([np.mean(v) for v in ratios.values()])
    asked = of or len(set(zip(slow["dataset"], slow["clip"], strict=True)))
    found = estimate(
        lambda drawn: float(per_clip[drawn].mean()), [clusters[c] for c in ratios], of=asked, resamples=resamples
    )
    return exponential(found)


def speedup(
    rows: Sequence[Row] | pd.DataFrame, fast: str, slow: str, *, setting_fast: float | None = None,
    setting_slow: float | None = None, side: str = "total", scenario: str = "latency", resamples: int = RESAMPLES,
) -> Speedup:  # fmt: skip
    """Return how many times faster ``fast`` is than ``slow``, each at one setting (the only one, where none is given).

    Raises :class:`Refused` where a method has no timing in the scenario, several settings without a choice, or other
    hardware.
    """
    table = rows if isinstance(rows, pd.DataFrame) else frame(rows)
    timed = table[(table["pass"] == "speed") & table["done"] & (table["scenario"] == scenario)]
    sides = []
    for name, setting in ((slow, setting_slow), (fast, setting_fast)):
        mine = timed[(timed["label"] == name) & (timed["alias"] == "")]
        if setting is not None:
            mine = mine[mine["setting"] == setting]
        if mine.empty:
            raise Refused(
                f"{name} has no finished {scenario} rows" + (f" at setting {setting:g}" if setting is not None else "")
            )
        if mine["setting"].nunique() > 1:
            raise Refused(f"{name} was timed at {mine['setting'].nunique()} settings; choose one")
        sides.append(mine)
    where = pd.concat(sides)[["device", "dtype"]].drop_duplicates()
    if len(where) > 1:
        raise Refused(
            f"{fast} and {slow} were timed on {' and '.join(f'{d} {t}' for d, t in where.to_numpy())}; one is needed"
        )
    found = paired_speedup(*sides, side=side, resamples=resamples)
    device, dtype = where.iloc[0]
    launches = int(min(s["launch"].nunique() for s in sides))
    return Speedup(fast, slow, found, launches, device, dtype, scenario, noise_floor(timed))


def noise_floor(speed: pd.DataFrame) -> float | None:
    """Return the widest ratio between a method and itself under another name (A/A), >= 1; None without a pair."""
    worst = None
    for (label, _), of_pair in speed[speed["alias"] != ""].groupby(["label", "setting"], dropna=False):
        plain = speed[(speed["label"] == label) & (speed["alias"] == "") & speed["setting"].isin(of_pair["setting"])]
        if plain.empty:
            continue
        try:
            found = paired_speedup(plain, of_pair, resamples=200)
        except Refused:
            continue
        bounds = [b for b in (found.value, found.low, found.high) if not math.isnan(b)]
        worst = max(worst or 1.0, *(max(b, 1 / b) for b in bounds))
    return worst
