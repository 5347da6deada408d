"""What a run says, in sentences and paired comparisons; where a comparison would mislead, the reason instead."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.measures import MEASURES, mse
from avtbench.bench.timing import statistics
from avtbench.reports.compare import At, Comparison, common_levels, compare
from avtbench.reports.curves import bjontegaard_delta
from avtbench.reports.errors import Refused, TooLittleOverlap
from avtbench.reports.frame import POOLED, datasets_in, nearest_setting, of_dataset, quality_points, speed_points
from avtbench.reports.intervals import Estimate
from avtbench.reports.palette import base_name, order
from avtbench.reports.ratios import LEAST_RATES_APART
from avtbench.reports.tables import Table
from avtbench.reports.times import StageMeans, stage_means

Tone = Literal["good", "bad", "open", "refused", "plain"]
HOLD, FULL = "hold", "full-rate"
RESAMPLES = 1000
BD_RESAMPLES = 300
"""A Bjontegaard delta is fitted anew for every resample, which takes about a millisecond."""
HALF = 0.5
MOST_UNATTRIBUTED = 0.05


@dataclass(frozen=True)
class Finding:
    """One sentence. ``good``: better than the baseline beyond doubt; ``bad``: worse; ``open``: not separated."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class Pair:
    """One method against another on one data set; a refused number is its reason."""

    method: str
    against: str
    dataset: str
    level: float
    """Kept fraction of ``at_rate``: half of the tokens, or the nearest that both methods reach."""
    at_rate: Comparison | UserError
    bd_rate: Estimate | UserError
    bd_quality: Estimate | UserError


def pairs(table: pd.DataFrame, tier: str) -> list[Pair]:
    """Compare every adaptive method with hold, the oracle and each other, on all data sets together where they are no
    views of one, else on each."""
    points = quality_points(table)
    points = points[points["tier"] == tier]
    if points.empty:
        return []
    places = datasets_in(points)
    family = points.drop_duplicates("label").set_index("label")["family"]
    labels = sorted(family.index, key=order)
    able = [label for label in labels if family[label] != "bound"]
    bounds = [label for label in labels if family[label] == "bound" and base_name(label) in (HOLD, "oracle")]
    wanted = [*itertools.product(able, bounds), *itertools.combinations(able, 2)]
    together = places[-1:] if places[-1] == POOLED else places
    return [paired(table, method, against, dataset) for dataset in together for method, against in wanted]


def paired(table: pd.DataFrame, method: str, against: str, dataset: str) -> Pair:
    """Compare two methods on one data set: PSNR at half of the tokens, BD-rate, BD-PSNR."""
    points = of_dataset(quality_points(table), dataset)
    levels = common_levels(points[points["label"].isin((method, against))], (HALF,), fewest=1)
    level = min(levels, key=lambda share: abs(share - HALF), default=HALF)

    def tried(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except UserError as reason:
            return reason

    return Pair(
        method,
        against,
        dataset,
        level,
        tried(
            lambda: compare(
                table, method, against, At("kept_fraction", level), dataset=dataset, per_clip=False, resamples=RESAMPLES
            )
        ),
        tried(lambda: bjontegaard_delta(table, method, against, of="rate", dataset=dataset, resamples=BD_RESAMPLES)),
        tried(lambda: bjontegaard_delta(table, method, against, of="quality", dataset=dataset, resamples=BD_RESAMPLES)),
    )


def comparison_table(found: Sequence[Pair], tier: str) -> Table:
    """PSNR at half of the tokens, BD-rate and BD-PSNR of every pair, with intervals and clips."""
    texts, values, told = [], [], []
    for pair in found:
        psnr = (
            pair.at_rate.estimates.get("psnr", Refused("no finite PSNR"))
            if isinstance(pair.at_rate, Comparison)
            else pair.at_rate
        )
        numbers = {"at": psnr, "bd_rate": pair.bd_rate, "bd_psnr": pair.bd_quality}
        exact: dict[str, Any] = {"data set": pair.dataset, "method": pair.method, "against": pair.against}
        exact["kept"] = pair.level
        reasons = []
        for name, number in numbers.items():
            if isinstance(number, UserError):
                reasons.append(number)
                exact |= {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
            else:
                exact |= {
                    name: number.value,
                    f"{name}_low": number.low,
                    f"{name}_high": number.high,
                    f"{name}_n": number.n,
                }
        told += [f"Refused: {reason}" for reason in reasons if not isinstance(reason, TooLittleOverlap)]
        values.append(exact | {"refused": "; ".join(dict.fromkeys(map(str, reasons)))})
        clips = {f"{e.n} of {e.of}" for e in numbers.values() if isinstance(e, Estimate)}
        overlap = [f"{e.overlap:.0%}" for e in (pair.bd_rate, pair.bd_quality) if isinstance(e, Estimate)]
        texts.append(
            {
                "data set": pair.dataset,
                "method": pair.method,
                "against": pair.against,
                "kept": f"{pair.level:g}",
                "PSNR at that rate (dB)": _cell(psnr),
                "BD-rate (%)": _cell(pair.bd_rate),
                "BD-PSNR (dB)": _cell(pair.bd_quality),
                "overlap": " / ".join(overlap) or "–",
                "clips": ", ".join(sorted(clips)) or "–",
            }
        )
    caption = (
        "Paired comparisons: difference (method minus the other) with its 95 % interval, bootstrap over clips, "
        "clips of one source resampled together. PSNR: each at the setting where its mean over the clips keeps that "
        "share of the tokens. BD-rate and BD-PSNR: on the upper hull of the mean curves, straight between its corners, "
        "over bits with mask; the overlap is that of the PSNR ranges / rate ranges, refused where it is below half (in "
        "brackets)."
    )
    return Table(
        f"comparisons-{tier}",
        caption,
        pd.DataFrame(values),
        pd.DataFrame(texts),
        frozenset(),
        tuple(dict.fromkeys(told)),
    )


def _cell(number: Estimate | UserError) -> str:
    if isinstance(number, TooLittleOverlap):
        return f"refused ({number.shared:.0%})"
    if isinstance(number, UserError):
        return "refused"
    return number.span.replace(f" {number.unit}", "") if number.unit not in ("", "x") else number.span


def against_hold(found: Sequence[Pair]) -> list[Finding]:
    """A learned method must beat hold-last-kept before its numbers are discussed: one sentence per method."""
    told = []
    for pair in found:
        if base_name(pair.against) != HOLD:
            continue
        head = f"{pair.method} against {pair.against} on {pair.dataset}, at {pair.level:g} of the tokens:"
        if isinstance(pair.at_rate, UserError):
            told.append(Finding("refused", f"{head} not compared, {pair.at_rate}."))
            continue
        psnr = pair.at_rate.estimates.get("psnr")
        if psnr is None:
            told.append(Finding("refused", f"{head} no finite PSNR."))
        elif not psnr.excludes(0):
            told.append(Finding("open", f"{head} PSNR {psnr}. Not separated from copying the last kept token."))
        elif psnr.value > 0:
            told.append(Finding("good", f"{head} PSNR {psnr}. It beats copying the last kept token."))
        else:
            told.append(
                Finding(
                    "bad", f"{head} PSNR {psnr}. Copying the last kept token does better; do not quote its numbers."
                )
            )
    return told


def speed_findings(table: pd.DataFrame) -> list[Finding]:
    """Cost against full rate and each other, and whether time shrinks with the tokens, among rows that are alike.

    Speed-ups and noise floor are those of :mod:`avtbench.bench.timing.statistics`.
    """
    told: list[Finding] = []
    timed = table[(table["pass"] == "speed") & table["done"]]
    floors = statistics.noise_floors(timed["row"])
    groups = timed["row"].map(statistics.alike)
    for group, everything in timed.groupby(groups, sort=False):
        where = ", ".join(
            dict.fromkeys([*statistics.telling(group, groups), group.scenario, group.device, group.dtype])
        )
        floor = floors.get(group)
        told.append(_floor_finding(floor, where))
        here = speed_points(everything)
        launches = int(here.groupby("label")["launch"].nunique().min()) if len(here) else 0
        if launches < statistics.QUOTED_LAUNCHES:
            counted = f"{launches} launch{'es' if launches != 1 else ''}"
            due = statistics.QUOTED_LAUNCHES
            told.append(Finding("open", f"Timed in {counted} ({where}); a number to be quoted needs {due}."))
        middle = {str(label): nearest_setting(mine) for label, mine in here.groupby("label", sort=False)}
        able = sorted((n for n, mine in middle.items() if mine["family"].iloc[0] != "bound"), key=order)
        full = [name for name in middle if base_name(name) == FULL]
        wanted = [*itertools.product(able, full), *_slow_first(itertools.combinations(able, 2), middle)]
        speed_ups = [_speed_up(middle[slow], middle[fast], slow, fast, where, floor) for slow, fast in wanted]
        told += [one for one in speed_ups if one is not None]
        if untold := speed_ups.count(None):
            counted = f"{untold} comparison{'s' if untold != 1 else ''} of methods"
            text = f"{counted} ({where}) had too few rounds for an interval"
            told.append(Finding("open", f"{text}: no speed-up is told."))
        for label in able:
            told += _shrinks(here[here["label"] == label], label, where, floor)
    return told + unattributed(stage_means(table))


def _floor_finding(floor: float | None, where: str) -> Finding:
    known = floor is not None and math.isfinite(floor)
    return Finding("plain" if known else "open", f"{statistics.told(floor).capitalize()} ({where}).")


def _slow_first(combinations: Any, middle: dict[str, pd.DataFrame]) -> list[tuple[str, str]]:
    return [tuple(sorted(pair, key=lambda n: -middle[n]["total_ms"].median())) for pair in combinations]  # type: ignore[misc]


def _speed_up(
    slow: pd.DataFrame, fast: pd.DataFrame, a: str, b: str, where: str, floor: float | None
) -> Finding | None:
    try:
        found = statistics.speed_up(list(slow["row"]), list(fast["row"]), where=where)
        encode = statistics.speed_up(list(slow["row"]), list(fast["row"]), "encode side")
    except ValueError as reason:
        return Finding("refused", f"{b} against {a} ({where}): {reason}.")
    if not found.low > 0:
        return None
    random = " Random weights." if {"random"} & {slow["weights"].iloc[0], fast["weights"].iloc[0]} else ""
    shares = [m["kept_fraction"].mean() for m in (fast, slow)]
    told = f"at {shares[0]:.2f} and {shares[1]:.2f} of the tokens"
    at = "their rates not counted here" if any(map(math.isnan, shares)) else told
    tone: Tone = "plain" if floor is None or found.low > floor or found.high < 1 / floor else "open"
    verdict = f" {b} is {found.verdict(floor)}." if floor is not None else ""
    beside = f" Encode side {encode.ratio:.3g}x {encode.interval}."
    return Finding(tone, f"{b} against {a}, {at}, end to end: {found}.{verdict}{beside}{random}")


def _shrinks(mine: pd.DataFrame, label: str, where: str, floor: float | None) -> list[Finding]:
    shares = mine.groupby("setting")["kept_fraction"].mean()
    if len(shares) < 2 or shares.isna().all() or shares.max() - shares.min() < LEAST_RATES_APART:
        return []
    most, least = (list(mine.loc[mine["setting"] == s, "row"]) for s in (shares.idxmax(), shares.idxmin()))
    try:
        found = statistics.speed_up(most, least, where=where)
    except ValueError:
        return []
    if not found.low > 0:
        return []
    told, _, why = found.verdict(floor).partition(": ")
    verdict = {"faster": "Time shrinks with the tokens.", "slower": "Fewer tokens take longer."}.get(told, "")
    text = f"{label} at {shares.min():.2f} of the tokens against {shares.max():.2f}: {found}. "
    return [Finding("plain", text + verdict) if verdict else Finding("open", f"{text}{told.capitalize()}: {why}.")]


def speed_warnings(table: pd.DataFrame) -> list[str]:
    """Say what speaks against quoting a time, in the words of the instrument, once per method and kind of warning;
    methods of which the same words are true stand together."""
    kinds: dict[tuple[str, str], list[str]] = {}
    points: dict[str, int] = {}
    timed = speed_points(table)
    point = ["label", "setting", "dataset", "clip", timed["row"].map(statistics.alike)]
    for (label, *_), mine in timed.groupby(point, dropna=False, sort=False):
        points[label] = points.get(label, 0) + 1
        for text in statistics.warnings([row.timing for row in mine["row"]]):
            kinds.setdefault((label, re.sub(r"[0-9.]+", "", text)), []).append(text)
    alike: dict[tuple[str, str], list[str]] = {}
    for (label, _), texts in kinds.items():
        alike.setdefault((f"{len(texts)} of {points[label]}", texts[0]), []).append(label)
    return [
        f"{', '.join(labels)}, {share} timed points{' each' if len(labels) > 1 else ''}: e.g. {text}"
        for (share, text), labels in alike.items()
    ]


def unattributed(found: Sequence[StageMeans]) -> list[Finding]:
    """Warn where stages do not explain the time."""
    return [
        Finding("open", f"{s.label}: {s.unattributed:.0%} of its time belongs to no stage; name the missing stages.")
        for s in found
        if s.stages and s.unattributed > MOST_UNATTRIBUTED
    ]


def reached(table: pd.DataFrame) -> list[Finding]:
    """What was asked for against what came out: missed quality targets, gap of requested rates."""
    told = []
    points = quality_points(table)
    for label, mine in points.groupby("label", sort=False):
        name = mine["setting_name"].iloc[0].lower()
        if name == "mse target":
            errors = [(mse(row) or 0.0) * 4 / 255**2 for row in mine["row"]]  # from 0..255 to [-1, 1]
            missed = sum(e > s for e, s in zip(errors, mine["setting"], strict=True))
            told.append(
                Finding(
                    "plain",
                    f"{label} missed its MSE target on {missed} of {len(mine)} points (whole clip, on [-1, 1]).",
                )
            )
        elif name in ("rate", "kept fraction", "share"):
            gap = mine["kept_fraction"] - mine["setting"]
            told.append(
                Finding(
                    "plain",
                    f"{label} keeps {round(gap.mean(), 3) + 0.0:+.3f} of the tokens against the request on average, "
                    f"{gap.abs().max():.3f} at most, {len(mine)} points.",
                )
            )
    return told


def bounds_missing(table: pd.DataFrame) -> list[Finding]:
    """Name the bounds that a figure should show and the run does not hold."""
    points = quality_points(table)
    points = points[points["tier"] == "shared"]
    there = {base_name(label) for label in points["label"]}
    missing = [name for name in (FULL, HOLD, "random", "oracle") if name not in there]
    if points.empty or not missing:
        return []
    return [Finding("open", f"Bounds not in this run: {', '.join(missing)}; add them, or read the curves with care.")]


def lossless(table: pd.DataFrame) -> list[Finding]:
    """Count points without any error; they have no dB and are in no mean."""
    points = quality_points(table)
    count = int((points["psnr"] == math.inf).sum())
    if not count:
        return []
    return [
        Finding(
            "plain", f"{count} of {len(points)} points are lossless: they are in no mean of {MEASURES['psnr'].label}."
        )
    ]
