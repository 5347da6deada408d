"""What stored rows say about the qualitative claims for LIT: every answer follows from the numbers, losses included.

A claim *holds* where the 95 % interval of its number lies on its side of zero, *does not hold* where the interval lies
on the other side, and is *not separated* where it contains zero. A claim about several places (levels, measures) holds
only where each of them does, and does not hold where one lies on the other side.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Row
from avtbench.bench.timing import statistics
from avtbench.reports.frame import POOLED, clips_of, nearest_setting, quality_points, speed_points
from avtbench.reports.gains import Gain, clip_gains, measured, per_clip, same_masks
from avtbench.reports.intervals import RESAMPLES, Estimate, estimate, mean_estimate

Verdict = Literal["holds", "does not hold", "not separated", "cannot be told"]
HALF = 0.5
FEWEST = 4
"""Clips below which no rank correlation is told."""
SAME_RATE = 0.01
"""Kept fractions that spread by less than this over the clips are set by the method, not by the content."""
CHEAP = 0.15
"""LIT's forward over encode + decode of its tokeniser: the project's own limit."""


@dataclass(frozen=True)
class Answer:
    """A claim, whether it holds, and the numbers in words."""

    claim: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"**{self.verdict.capitalize()}: {self.claim}** {self.text}"


def _verdict(number: Estimate | None) -> Verdict:
    if number is None or math.isnan(number.low):
        return "cannot be told"
    return "holds" if number.low > 0 else "does not hold" if number.high < 0 else "not separated"


def ahead(found: Sequence[Gain], claim: str, before: str = "", sure: bool = True) -> Answer:
    """Answer "the method is ahead" from gains of one measure at several places; each place stands with its number.

    ``sure=False`` (with the reason in ``before``): the numbers are told, but judge nothing.
    """
    several = len({gain.dataset for gain in found}) > 1
    stands = {_stand(gain) for gain in found} - {""}
    common = next(iter(stands)) if len(stands) == 1 else ""
    parts = [before] if before else []
    for sign, (word, _) in _TOLD.items():
        mine = [gain for gain in found if gain.sign == sign]
        if mine:
            items = [_item(gain, several, common) for gain in mine]
            parts.append(f"{word} in {len(mine)} of {len(found)}: {'; '.join(items)}.")
    if common:
        parts.append(f"On {common}.")
    worst = next((verdict for sign, (_, verdict) in _TOLD.items() if any(g.sign == sign for g in found)), None)
    return Answer(claim, worst if worst and sure else "cannot be told", " ".join(parts))


_TOLD: dict[int | None, tuple[str, Verdict]] = {
    -1: ("Behind", "does not hold"),
    0: ("Not separated", "not separated"),
    None: ("Not judged", "cannot be told"),
    1: ("Ahead", "holds"),
}
"""By sign of a gain, the worst first: what its places are called, and the verdict where none is worse."""


def _stand(gain: Gain) -> str:
    """The clips that a gain stands on; empty where it was refused."""
    if isinstance(gain.estimate, UserError):
        return ""
    return gain.estimate.clips + (f", {gain.estimate.note}" if gain.estimate.note else "")


def _item(gain: Gain, several: bool, common: str) -> str:
    at = f"{gain.dataset} at {100 * gain.level:g} %" if several else f"at {100 * gain.level:g} %"
    if isinstance(gain.estimate, UserError):
        return f"{at} ({gain.estimate})"
    return f"{gain.estimate.span} {at}" + ("" if common else f" ({_stand(gain)})")


def _by_measure(found: Sequence[Gain]) -> Iterator[tuple[str, list[Gain]]]:
    for measure in dict.fromkeys(gain.measure for gain in found):
        yield MEASURES[measure].label, [gain for gain in found if gain.measure == measure]


def beats_holding(table: pd.DataFrame, lit: str, hold: str, found: Sequence[Gain]) -> list[Answer]:
    """One answer per data set and measure of ``found``: does LIT's fill beat the last kept value at every level?"""
    answers = []
    for dataset in dict.fromkeys(gain.dataset for gain in found):
        alike, of = same_masks(table, lit, hold, dataset)
        masks = f"Same tokens kept and same coded mask on {alike} of {of} points."
        for label, mine in _by_measure([gain for gain in found if gain.dataset == dataset]):
            claim = f"{dataset}: at equal masks {lit} beats {hold} in {label} at {_levels(mine)} kept."
            answers.append(ahead(mine, claim, masks, sure=alike == of > 0))
    return answers


def _levels(found: Sequence[Gain]) -> str:
    *first, last = [f"{100 * level:g}" for level in dict.fromkeys(gain.level for gain in found)]
    return f"{', '.join(first)} and {last} %" if first else f"{last} %"


def matched(found: Sequence[Gain]) -> list[Answer]:
    """One answer per opponent and measure in ``found``: is the method ahead on every data set and level?"""
    answers = []
    for method, against in dict.fromkeys((gain.method, gain.against) for gain in found):
        for label, mine in _by_measure([g for g in found if (g.method, g.against) == (method, against)]):
            claim = f"At matched rate {method} is ahead of {against} in {label} at {_levels(mine)} kept."
            answers.append(ahead(mine, claim))
    return answers


def rank(x: np.ndarray, y: np.ndarray, clusters: Sequence[str], of: int) -> tuple[Estimate, float]:
    """Spearman's rank correlation over clips with its interval (bootstrap over sources), and its two-sided p value."""

    def rho(drawn: np.ndarray) -> float:
        a, b = rankdata(x[drawn]), rankdata(y[drawn])
        if a.std() == 0 or b.std() == 0:
            return math.nan
        return float(np.corrcoef(a, b)[0, 1])

    return estimate(rho, clusters, of=of, resamples=RESAMPLES), float(spearmanr(x, y).pvalue)


def _rank_text(found: Estimate, p: float) -> str:
    return f"Spearman ρ {found.span}, p {f'= {p:.2g}' if p >= 1e-4 else '< 0.0001'}, {found.clips}"


def content_drives_rate(table: pd.DataFrame, lit: str, others: Sequence[str] = ()) -> list[Answer]:
    """Rank correlation of the kept fraction at one fixed setting with motion, over all clips of the table."""
    points = quality_points(table)
    points = points[points["motion"].notna()]
    of = clips_of(table, POOLED)
    claim = "Content drives the rate: at one fixed threshold, clips with more motion keep more tokens."
    chosen = nearest_setting(points[points["label"] == lit])
    if len(chosen) < FEWEST:
        return [Answer(claim, "cannot be told", f"{len(chosen)} clips, at least {FEWEST} are needed.")]
    try:
        found, p = _rank_of(chosen, of)
    except UserError as reason:
        return [Answer(claim, "cannot be told", f"{reason}.")]
    low, high = chosen["kept_fraction"].min(), chosen["kept_fraction"].max()
    text = f"{lit} at {_at(chosen)} keeps {low:.2f} to {high:.2f} of the tokens, {chosen['kept_fraction'].mean():.2f}"
    parts = [f"{text} on average; with motion {_rank_text(found, p)}."]
    further = [
        float(spearmanr(one["motion"], one["kept_fraction"]).statistic)
        for setting, one in points[points["label"] == lit].groupby("setting")
        if setting != chosen["setting"].iloc[0] and spread(one) >= SAME_RATE
    ]
    if further:
        parts.append(f"At the {len(further)} other settings ρ is {min(further):+.2f} to {max(further):+.2f}.")
    parts += [_other_rate(nearest_setting(points[points["label"] == other]), other, of) for other in others]
    return [Answer(claim, _verdict(found), " ".join(filter(None, parts)))]


def _at(chosen: pd.DataFrame) -> str:
    return f"{chosen['setting_name'].iloc[0]} {chosen['setting'].iloc[0]:g}"


def spread(chosen: pd.DataFrame) -> float:
    """Between the clip that keeps the most and the one that keeps the least, in kept fraction."""
    return float(chosen["kept_fraction"].max() - chosen["kept_fraction"].min())


def _rank_of(chosen: pd.DataFrame, of: int) -> tuple[Estimate, float]:
    return rank(chosen["motion"].to_numpy(), chosen["kept_fraction"].to_numpy(), list(chosen["cluster"]), of)


def _other_rate(chosen: pd.DataFrame, label: str, of: int) -> str:
    if len(chosen) < FEWEST:
        return ""
    at = f"{label} at {_at(chosen)}"
    if spread(chosen) < SAME_RATE:
        return f"{at} keeps the same share of every clip: its rate is set, not driven by content."
    try:
        found, p = _rank_of(chosen, of)
    except UserError as reason:
        return f"{at}: {reason}."
    return f"{at}: {_rank_text(found, p)}."


def static_compress_most(table: pd.DataFrame, lit: str, full: str) -> list[Answer]:
    """The quarter of the clips with the least motion against the others, at the setting nearest to half kept."""
    points = quality_points(table)
    points = points[points["motion"].notna()]
    chosen = nearest_setting(points[points["label"] == lit]).sort_values("motion").reset_index(drop=True)
    claim = "Static clips compress most."
    if len(chosen) < 2 * FEWEST:
        return [Answer(claim, "cannot be told", f"{len(chosen)} clips, at least {2 * FEWEST} are needed.")]
    count = round(len(chosen) / 4)
    kept = chosen["kept_fraction"].to_numpy()
    still = np.arange(len(chosen)) < count

    def more(drawn: np.ndarray) -> float:
        side = still[drawn]
        return math.nan if side.all() or not side.any() else float(kept[drawn][~side].mean() - kept[drawn][side].mean())

    of = clips_of(table, POOLED)
    try:
        found = estimate(more, list(chosen["cluster"]), of=of, digits=3)
    except UserError as reason:
        return [Answer(claim, "cannot be told", f"{reason}.")]
    fewest = set(chosen["kept_fraction"].nsmallest(count, keep="all").index)
    shared = int(still[list(fewest)].sum())
    text = (
        f"{lit} at {_at(chosen)}: the {count} clips with the least motion (up to "
        f"{chosen['motion'].iloc[count - 1]:.2f}) keep {kept[still].mean():.3f} of the tokens, the others "
        f"{kept[~still].mean():.3f}: the others keep {found.span} more, {found.clips}. Of the {len(fewest)} clips that "
        f"keep the fewest tokens, {shared} are among the {count} with the least motion."
    )
    whole = points[points["label"] == full][["dataset", "clip", "psnr"]]
    both = chosen.merge(whole, on=["dataset", "clip"], suffixes=("", "_full"))
    both["loss"] = both["psnr_full"] - both["psnr"]
    both = both[np.isfinite(both["loss"])]
    calm = both["motion"] <= chosen["motion"].iloc[count - 1]
    if calm.any() and not calm.all():
        losses = [f"{both.loc[side, 'loss'].mean():.2f} dB" for side in (calm, ~calm)]
        text += f" There they lose {losses[0]} of PSNR against {full}, the others {losses[1]}."
    return [Answer(claim, _verdict(found), text)]


def fill_against_motion(table: pd.DataFrame, lit: str, hold: str, full: str, level: float = HALF) -> list[Answer]:
    """Loss against full rate and gain over holding at one kept fraction of each clip, each against motion."""
    of = clips_of(table, POOLED)
    at_lit, at_hold, at_full = (per_clip(table, name, level) for name in (lit, hold, full))
    worse = f"The fill gets worse with motion: at {level:g} of its tokens a clip that moves more loses more."
    more = f"{lit} gains most over {hold} where there is motion, at {level:g} of each clip's tokens."
    names = [m for m in measured(quality_points(table)) if m == "psnr" or m.startswith("lpips")]
    answers = []
    for claim, other, turned, word in (
        (worse, at_full, -1.0, f"Loss against {full}"),
        (more, at_hold, 1.0, f"Gain over {hold}"),
    ):
        verdict: Verdict = "cannot be told"
        parts = []
        for measure in names:
            effects = clip_gains(at_lit, other, measure)
            effects = effects[effects["motion"].notna()]
            told, judged = _against_motion(effects, measure, turned, word, of)
            parts.append(told)
            if measure == "psnr":
                verdict = judged
        answers.append(Answer(claim, verdict, " ".join(parts)))
    return answers


def _against_motion(effects: pd.DataFrame, measure: str, turned: float, word: str, of: int) -> tuple[str, Verdict]:
    label = f"{word} in {MEASURES[measure].label}"
    if len(effects) < FEWEST:
        return f"{label}: {len(effects)} clips reach it, at least {FEWEST} are needed.", "cannot be told"
    effects = effects.sort_values("motion").reset_index(drop=True)
    values = turned * effects["gain"].to_numpy()
    try:
        found, p = rank(effects["motion"].to_numpy(), values, list(effects["cluster"]), of)
    except UserError as reason:
        return f"{label}: {reason}.", "cannot be told"
    count = max(1, round(len(effects) / 4))
    unit, digits = MEASURES[measure].unit, MEASURES[measure].digits
    ends = [_mean(values[part], effects["cluster"][part], of, unit, digits) for part in
            (slice(None, count), slice(len(effects) - count, None))]  # fmt: skip
    text = f"{label} against motion: {_rank_text(found, p)}; {ends[0]} for the {count} stillest clips"
    return f"{text}, {ends[1]} for the {count} liveliest.", _verdict(found)


def _mean(values: np.ndarray, clusters: pd.Series, of: int, unit: str, digits: int) -> str:
    return mean_estimate(values, list(clusters), of=of, unit=unit, digits=digits).span


def passes(table: pd.DataFrame, lit: str, others: Sequence[str]) -> list[Answer]:
    """Does LIT take one encoder pass and one of its network, as the paper says? Counted, beside what others take."""
    points = quality_points(table)
    mine = points[(points["label"] == lit) & (points["kept_fraction"] < 1)]
    claim = "One encoder pass and one pass of LIT."
    if mine.empty:
        return [Answer(claim, "cannot be told", f"no finished points of {lit} below full rate.")]
    once = sum(row.evaluations.get("encoder") == 1 and row.evaluations.get("lit") == 1 for row in mine["row"])
    text = f"Counted so on {once} of {len(mine)} points; with the decoder {mine['nfe'].mean():.1f} evaluations a clip."
    counted = {other: points.loc[points["label"] == other, "nfe"].mean() for other in others}
    beside = [f"{o} {n:.1f} ({n / mine['nfe'].mean():.1f} times)" for o, n in counted.items() if not math.isnan(n)]
    if beside:
        text += f" On average over the settings: {', '.join(beside)}."
    return [Answer(claim, "holds" if once == len(mine) else "does not hold", text)]


def forward_is_cheap(table: pd.DataFrame, lit: str, full: str) -> list[Answer]:
    """LIT's stage over encode + decode of the full-rate tokeniser, at the setting where it takes the most.

    One answer for each size, device, number format and machine, paired as any speed-up is; nothing where no time is
    stored or where both were never timed in one sitting.
    """
    timed = speed_points(table)
    timed = timed[timed["scenario"] == "latency"]
    answers = []
    for group, here in timed.groupby(timed["row"].map(statistics.alike), sort=False):
        base = list(here.loc[here["label"] == full, "row"])
        found = []
        for setting, mine in here[here["label"] == lit].groupby("setting"):
            alone = [row for row in map(_forward, mine["row"]) if row is not None]
            with contextlib.suppress(ValueError):  # never timed in one round
                found.append((statistics.speed_up(alone, base), setting))
        if not found:
            continue
        most, setting = max(found, key=lambda one: one[0].ratio)
        claim = f"LIT's forward costs at most {CHEAP:.0%} of encode + decode of its tokeniser."
        verdict: Verdict = "holds" if most.high <= CHEAP else "does not hold" if most.low > CHEAP else "not separated"
        span = f" [{most.low:.1%}, {most.high:.1%}]" if most.low > 0 else ", one pair,"
        text = (
            f"{most.ratio:.1%}{span} of {full} end to end at setting {setting:.4g}, where it takes the most; "
            f"{most.counted}, {group.at}, {group.device}."
        )
        answers.append(Answer(claim, verdict, text))
    return answers


def _forward(row: Row) -> Row | None:
    """The row with LIT's stage in place of the whole call; None where it was never entered."""
    assert row.timing is not None
    seconds = stage_seconds(row.timing, "lit")
    return None if seconds is None else statistics.with_sides(row, [0.0] * len(seconds), seconds)


def stage_seconds(timing: object, name: str) -> list[float] | None:
    """Seconds per sample of the stage with that name, at any depth; None where there is none."""
    for stage in getattr(timing, "stages", ()):
        if stage.path.rpartition("/")[2] == name:
            return list(stage.seconds)
    return None
