"""Speed rows side by side: medians, paired speed-ups with what explains them, and what a threshold adds to its base."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas as pd

from avtbench.bench.metrics.measures import MEASURES, kept_fraction
from avtbench.bench.rows import Row, Status
from avtbench.bench.timing import statistics
from avtbench.bench.timing.statistics import APART, Alike, Samples, Side, SpeedUp
from avtbench.reports.frame import frame
from avtbench.reports.tables import Table

FULL = "full-rate"
FILL = "decode/fill"
SHOWN: tuple[Side, ...] = ("encode side", "end to end")
LEAST_RATES_APART = 0.1
"""Kept fractions closer than this say nothing of whether time shrinks with the tokens."""
UNMATCHED = (
    "No level was matched: each method stands at its setting nearest to half of the tokens, or at its middle one."
)
Floors = Mapping[Side, Mapping[Alike, float]]
"""Noise floor of each side, as a factor >= 1, for comparisons among configurations that are alike."""
Level = tuple[str, Mapping[str, float]]
"""What is matched, in words, and the setting of each method (by name) that meets it."""


@dataclass(frozen=True)
class Timed:
    """One configuration on one machine: a method at a setting, a clip size, a scenario, a number format."""

    name: str
    rows: list[Row]
    kept: float
    """Mean kept fraction; nan where no row of the quality pass tells."""
    psnr: float = math.nan
    """Mean PSNR in dB, likewise."""

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def setting(self) -> float | None:
        return self.first.setting

    @property
    def alike(self) -> Alike:
        """What two configurations must share to be compared."""
        return statistics.alike(self.first)

    def samples(self, side: Side) -> Samples:
        return Samples([s for row in self.rows if row.timing for s in statistics.SIDES[side](row.timing)])

    def stage(self, path: str) -> list[float]:
        """Seconds of a stage, sample by sample; empty where there is none."""
        stages = [s for row in self.rows if row.timing for s in row.timing.stages if s.path == path]
        return [x for s in stages for x in s.seconds]

    def cost(self, side: Side) -> tuple[float, float]:
        """Mean network evaluations and FLOPs of a call; nan where they were not counted."""
        costs = [statistics.cost(row.timing, side) for row in self.rows if row.timing]
        evaluations, flops = ([float(v) for v in column if v is not None] for column in zip(*costs, strict=True))
        return fmean(evaluations) if evaluations else math.nan, fmean(flops) if flops else math.nan

    @property
    def peak(self) -> int | None:
        """Most bytes in use at once (CUDA: allocated; CPU: by the process); None where no call measured it."""
        return max((row.timing.peak_bytes for row in self.rows if row.timing and row.timing.peak_bytes), default=None)

    @property
    def note(self) -> str:
        parts = [f"{self.first.weights} weights"] if self.first.weights == "random" else []
        text = statistics.extrapolated(row.timing for row in self.rows if row.timing)
        return "; ".join(filter(None, [*parts, _brief(text)]))


def timed(rows: Sequence[Row]) -> list[Timed]:
    """Group the finished speed rows of ``rows``, A/A twins aside; its quality rows give the kept fractions."""
    rows = statistics.with_flops(rows)
    speed = [r for r in rows if r.status is Status.DONE and r.timing and r.timing.encode_side and not r.alias]
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in speed:
        groups.setdefault((row.method, statistics.traits(row), row.setting, statistics.alike(row)), []).append(row)
    names = _names(list(groups.values()), rows)
    measured = _measured(rows)
    return [Timed(name, group, *_reached(group, measured)) for name, group in zip(names, groups.values(), strict=True)]


def _names(groups: Sequence[list[Row]], rows: Sequence[Row]) -> list[str]:
    """Method, size of a random network and tokeniser; the report's longer label where that names two things."""
    short = [named(group[0]) for group in groups]
    meant: dict[str, set[object]] = {}
    for name, group in zip(short, groups, strict=True):
        meant.setdefault(name, set()).add(_but_rate(group[0]))
    if all(len(traits) == 1 for traits in meant.values()):
        return short
    table = frame(rows)
    labels = dict(zip(table["key"], table["label"], strict=True))
    return [n if len(meant[n]) == 1 else labels[g[0].key] for n, g in zip(short, groups, strict=True)]


def _but_rate(row: Row) -> str:
    """What a configuration is, whatever share of its tokens it was declared to keep: that stands in a column."""
    declared = row.parameters.get("forced")
    if declared and _share(declared) is not None:
        row = _without(row, "forced")
    return statistics.traits(row)


def _without(row: Row, parameter: str) -> Row:
    return row.model_copy(update={"parameters": {k: v for k, v in row.parameters.items() if k != parameter}})


def _share(declared: Mapping[str, float]) -> float | None:
    """Of a declared trace: the kept fraction, where it declares one rather than a number of tokens."""
    kept = declared.get("kept", 0)
    return kept if 0 < kept <= 1 else None


def named(row: Row) -> str:
    """Method, size of a random network, tokeniser where it is not the embedded one, and whether all is computed."""
    made = str(row.parameters.get("lit_digest", row.parameters.get("adapter_digest", "")))
    size = f" {made.removeprefix('random ')}" if made.startswith("random ") else ""
    name = f"{row.method}{size}" + (f" on {row.tokenizer}" if row.tokenizer not in ("", "embedded") else "")
    return f"{name}, every position" if _every(row) else name


def _every(row: Row) -> bool:
    """Whether a filler computes kept positions, too: never compared with other methods, only with itself."""
    return row.parameters.get("compute") == "all"


Place = tuple[object, ...]


def _measured(rows: Sequence[Row]) -> dict[Place, tuple[float, float]]:
    """Kept fraction and PSNR by method with what makes it, setting, clip and size, from the quality rows."""
    counted = [r for r in rows if r.status is Status.DONE and r.rate is not None]
    psnr = MEASURES["psnr"].value
    return {_place(r): (kept_fraction(r.rate), psnr(r) or math.nan) for r in counted if r.rate}


def _place(row: Row) -> Place:
    made = statistics.traits(row), row.method, row.setting
    return *made, row.dataset, row.clip, row.frames, row.height, row.width


def _reached(group: Sequence[Row], measured: Mapping[Place, tuple[float, float]]) -> tuple[float, float]:
    """Mean kept fraction and PSNR of a configuration; a declared rate where nothing was measured."""
    found = [measured[p] for p in dict.fromkeys(map(_place, group)) if p in measured]
    if found:
        return fmean(kept for kept, _ in found), fmean(psnr for _, psnr in found)
    told = [share for r in group if r.timing and (share := _share(r.timing.forced)) is not None]
    return (fmean(told) if told else math.nan), math.nan


def chosen(groups: Sequence[Timed], share: float = 0.5) -> list[Timed]:
    """Every configuration at one setting only: the one that keeps nearest to ``share``, or the middle one."""
    found = []
    for _, group in itertools.groupby(
        sorted(groups, key=lambda g: (g.name, str(g.alike))), lambda g: (g.name, g.alike)
    ):
        mine = sorted(group, key=lambda g: g.setting or 0.0)
        near = [g for g in mine if not math.isnan(g.kept)]
        found.append(min(near, key=lambda g: abs(g.kept - share)) if near else mine[len(mine) // 2])
    return sorted(found, key=groups.index)


def times(groups: Sequence[Timed]) -> Table:
    """Medians with 20th and 80th percentile, evaluations and FLOPs of every configuration."""
    lines, texts = [], []
    for g in groups:
        encode, total = g.samples("encode side"), g.samples("end to end")
        evaluations, flops = g.cost("end to end")
        timing = g.first.timing
        assert timing is not None
        timings = statistics.by_clip(g.rows)
        launches = min(len({(t.sitting, t.launch) for t in of_clip}) for of_clip in timings.values())
        clips = len(timings)
        lines.append(
            {
                "method": g.name, "setting": g.setting, "kept": g.kept, "psnr": g.psnr, "size": g.alike.size,
                "scenario": timing.scenario,
                "device": timing.device, "dtype": timing.dtype, "encode_s": encode.median,
                "encode_p20": encode.spread[0], "encode_p80": encode.spread[1], "total_s": total.median,
                "total_p20": total.spread[0], "total_p80": total.spread[1], "nfe": evaluations, "flops": flops,
                "flops_per_s": flops / total.median, "peak_bytes": g.peak, "samples": len(total.values), "clips": clips,
                "launches": launches, "note": g.note,
            }
        )  # fmt: skip
        texts.append(
            {
                "size": g.alike.at, "method": g.name, "setting": _setting(g),
                "kept": "–" if math.isnan(g.kept) else f"{g.kept:.2f}",
                "PSNR (dB)": "" if math.isnan(g.psnr) else f"{g.psnr:.2f}", "encode side": str(encode),
                "end to end": str(total), "NFE": _count(evaluations), "FLOPs": _flops(flops),
                "FLOP/s": _flops(flops / total.median),
                "peak": "" if g.peak is None else statistics.in_megabytes(g.peak),
                "samples": f"{len(total.values)}, {launches} launch" + ("es" if launches != 1 else ""),
                "note": g.note,
            }
        )  # fmt: skip
    caption = (
        "Median (20th to 80th percentile) over clips, launches and rounds; NFE: network evaluations of a call; peak: "
        "memory in a call, of the whole process on a CPU."
    )
    return Table("speed-times", caption, pd.DataFrame(lines), pd.DataFrame(texts))


def pairs(groups: Sequence[Timed], levels: Sequence[Level] = ()) -> Iterator[tuple[str, Timed, Timed]]:
    """(level, slow, fast): what searches, routes or keeps everything against what thresholds, timed in one sitting."""
    groups = [g for g in groups if not _every(g.first)]
    pools = [(text, _meeting(groups, settings, levels)) for text, settings in levels] or [("", chosen(groups))]
    for text, pool in pools:
        for slow, fast in itertools.product(pool, pool):
            opposed = slow.first.family in ("search", "router") or slow.first.method in (FULL, "hold")
            based = not slow.first.tokenizer or slow.first.tokenizer == fast.first.tokenizer
            if opposed and based and fast.first.family == "threshold" and slow.alike == fast.alike:
                yield text, slow, fast


def _meeting(groups: Sequence[Timed], settings: Mapping[str, float], levels: Sequence[Level]) -> list[Timed]:
    """Methods at their settings of a level. Those that no level names, such as full rate, stand at their only one."""
    named = {method for _, others in levels for method in others}
    alone = Counter((g.name, g.alike) for g in groups)
    return [
        g
        for g in groups
        if (settings.get(m) == g.setting if (m := g.first.method) in named else alone[g.name, g.alike] == 1)
    ]


def rates(groups: Sequence[Timed]) -> Iterator[tuple[str, Timed, Timed]]:
    """The same at its most and at its fewest tokens, where a tenth of all or more lies between: does time shrink?"""
    alike: dict[tuple[object, ...], list[Timed]] = {}
    for g in groups:
        if g.first.family == "threshold" and not math.isnan(g.kept) and not _every(g.first):
            alike.setdefault((g.name, g.alike), []).append(g)
    for mine in alike.values():
        most, least = max(mine, key=lambda g: g.kept), min(mine, key=lambda g: g.kept)
        if most.kept - least.kept >= LEAST_RATES_APART:
            yield f"kept {most.kept:.2f} against {least.kept:.2f}", most, least


def floors(rows: Sequence[Row]) -> Floors:
    """Noise floor of each side, where something was timed against itself."""
    return {side: statistics.noise_floors(rows, side) for side in SHOWN}


def comparisons(groups: Sequence[Timed], levels: Sequence[Level] = (), floors: Floors | None = None) -> list[Table]:
    """Speed-ups, overhead and savings, those that have a line."""
    return [t for t in (speed_ups(groups, levels, floors), overhead(groups), savings(groups)) if len(t.texts)]


def speed_ups(groups: Sequence[Timed], levels: Sequence[Level] = (), floors: Floors | None = None) -> Table:
    """Every pair's speed-up, encode side and end to end, as evaluations x FLOPs per evaluation x rest.

    Pairs that were timed, but never in one sitting, stand at the end without a ratio.
    floors: noise floor of each side, see :func:`floors`.
    """
    floors = floors or {}
    lines, texts = [], []
    apart: list[tuple[dict[str, object], dict[str, str]]] = []
    compared: list[Alike] = []
    for level, slow, fast in [*pairs(groups, levels), *rates(groups)]:
        size = fast.alike.at
        for side in SHOWN:
            line: dict[str, object] = {"level": level, "slow": slow.name, "fast": fast.name, "side": side, "size": size}
            text = {
                "at": ", ".join(filter(None, (level, size))), "time of": slow.name, "over that of": fast.name,
                "side": side,
            }  # fmt: skip
            try:
                found = statistics.speed_up(slow.rows, fast.rows, side)
            except ValueError:  # never timed in one round
                if statistics.timed_apart(slow.rows, fast.rows):
                    apart.append((line | {"verdict": APART}, text | {"note": APART}))
                continue
            compared.append(fast.alike)
            parts = statistics.decompose(slow.rows, fast.rows, side)
            verdict = found.verdict(floors.get(side, {}).get(fast.alike)) if found.low > 0 else "open: one pair"
            lines.append(
                line
                | {
                    "ratio": found.ratio, "low": found.low, "high": found.high, "evaluations": parts.evaluations,
                    "flops_per_evaluation": parts.cost_per_evaluation, "rest": parts.rest, "split_ratio": parts.ratio,
                    "split_clips": parts.clips, "clips": found.clips,
                    "launches": found.launches, "pairs": found.pairs, "over": found.over,
                    "extrapolated": found.extrapolated, "verdict": verdict,
                }
            )  # fmt: skip
            texts.append(
                text
                | {
                    "ratio": f"{_ratio(found.ratio)} {found.interval}",
                    "= evaluations": _factor(parts.evaluations),
                    "x FLOPs/evaluation": _factor(parts.cost_per_evaluation),
                    "x rest": _factor(parts.rest), "n": _basis(found),
                    "note": "; ".join(
                        filter(None, (verdict.partition(":")[0], parts.part, _brief(found.extrapolated)))
                    ),
                }
            )  # fmt: skip
    caption = (
        "Paired speed-ups. evaluations x FLOPs per evaluation x rest multiply to the ratio, on the clips whose FLOPs "
        "were counted; rest is what FLOPs do not explain: kernels, memory traffic, precision, waiting."
    )
    notes = [
        *_told(floors, list(dict.fromkeys(compared))),
        *dict.fromkeys(f"Not measured in full: {line['extrapolated']}." for line in lines if line["extrapolated"]),
        *([UNMATCHED] if lines and not levels and len(chosen(groups)) < len(groups) else []),
    ]
    values = pd.DataFrame([*lines, *(line for line, _ in apart)])
    shown = pd.DataFrame([*texts, *(text for _, text in apart)]).fillna("–")
    return Table("speed-ups", caption, values, shown, notes=tuple(notes))


def _told(floors: Floors, compared: Sequence[Alike]) -> list[str]:
    """The noise floor of each side, one line for all that was compared among configurations that are alike."""
    return [
        f"{', '.join([side.capitalize(), *statistics.telling(group, compared)])}: "
        f"{statistics.told(floors.get(side, {}).get(group))}."
        for group in compared
        for side in SHOWN
    ]


def overhead(groups: Sequence[Timed]) -> Table:
    """What thresholding and filling add to the frozen tokeniser itself, per setting; a ratio above 1 is slower."""
    lines, texts, never_paired = [], [], []
    for full, mine in itertools.product(groups, groups):
        threshold = (mine.first.family == "threshold" or mine.first.method == "hold") and not _every(mine.first)
        same = full.first.tokenizer == mine.first.tokenizer and full.alike == mine.alike
        if full.first.method != FULL or not threshold or not same:
            continue
        if not mine.stage("encode"):  # several clips in flight have no stages
            continue
        alone = _alone(mine, "encode", "decode/decoder")
        try:
            encode = statistics.speed_up(mine.rows, alone, "encode side")
            whole = statistics.speed_up(mine.rows, alone, "end to end")
            apart = statistics.speed_up(mine.rows, full.rows, "encode side")
            total = statistics.speed_up(mine.rows, full.rows, "end to end")
        except ValueError:  # never timed in one round
            if statistics.timed_apart(mine.rows, full.rows):
                never_paired.append(f"{mine.name} at {_setting(mine)} and {full.name}: {APART}, never in one sitting.")
            continue
        share = _selection(mine)
        fill = mine.stage(FILL)
        line = {
            "method": mine.name, "setting": mine.setting, "kept": mine.kept,
            "size": mine.alike.at, "selection_over_encoder": share,
            "encode_side_over_encoder": encode.ratio, "encode_low": encode.low, "encode_high": encode.high,
            "round_trip_over_encoder_and_decoder": whole.ratio, "whole_low": whole.low, "whole_high": whole.high,
            "encode_side_over_full_rate": apart.ratio, "apart_low": apart.low, "apart_high": apart.high,
            "round_trip_over_full_rate": total.ratio, "total_low": total.low, "total_high": total.high,
            "fill_s": float(np.median(fill)) if fill else math.nan, "total_s": mine.samples("end to end").median,
        }  # fmt: skip
        lines.append(line)
        texts.append(
            {
                "size": line["size"], "method": mine.name, "setting": _setting(mine),
                "kept": "–" if math.isnan(mine.kept) else f"{mine.kept:.2f}",
                "choosing / encoder": f"{share:.2%}",
                "encode side / encoder": f"{_ratio(encode.ratio)} {encode.interval}",
                "round trip / encoder + decoder": f"{_ratio(whole.ratio)} {whole.interval}",
                "encode side / full rate": f"{_ratio(apart.ratio)} {apart.interval}",
                "round trip / full rate": f"{_ratio(total.ratio)} {total.interval}",
                "fill": statistics.in_words(line["fill_s"]) if fill else "–",  # type: ignore[arg-type]
                "end to end": str(mine.samples("end to end")), "n": _basis(total),
            }
        )  # fmt: skip
    caption = (
        "What a threshold adds to its frozen tokeniser. Limits aimed at: choosing the mask 1 % of the encoder, encode "
        "side (which also packs what was kept) 1.02x the encoder, round trip 1.15x encoder + decoder. Ratios paired "
        "per clip and round: to encoder and decoder in the same calls; to full rate in a process of its own, so that "
        "they also hold what processes differ by (the noise floor) and what the caches lose."
    )
    return _by_rate("speed-overhead", caption, lines, texts, never_paired)


def savings(groups: Sequence[Timed]) -> Table:
    """What a filler saves by leaving kept positions out, and by not running where all were kept; above 1 is saved."""
    lines, texts = [], []
    for every, mine in itertools.product(groups, groups):
        if not _every(every.first) or _every(mine.first) or _but_compute(every) != _but_compute(mine):
            continue
        try:
            fill = statistics.speed_up(_alone(every, "encode", FILL), _alone(mine, "encode", FILL), "decode side")
            whole = statistics.speed_up(every.rows, mine.rows)
        except ValueError:  # never timed in one round
            continue
        slow, fast = (float(np.median(g.stage(FILL))) for g in (every, mine))
        lines.append(
            {
                "method": mine.name, "kept": mine.kept, "size": mine.alike.at, "fill_ratio": fill.ratio,
                "fill_low": fill.low, "fill_high": fill.high, "total_ratio": whole.ratio, "total_low": whole.low,
                "total_high": whole.high, "fill_every_s": slow, "fill_s": fast, "clips": whole.clips,
                "launches": whole.launches,
            }
        )  # fmt: skip
        texts.append(
            {
                "size": mine.alike.at, "method": mine.name, "kept": f"{mine.kept:.2f}",
                "fill, every position": statistics.in_words(slow), "fill": statistics.in_words(fast),
                "saved in the fill": f"{_ratio(fill.ratio)} {fill.interval}" if _filled(mine) else "all of it",
                "saved end to end": f"{_ratio(whole.ratio)} {whole.interval}", "n": _basis(whole),
            }
        )  # fmt: skip
    caption = (
        "Time with every position sent through the filler's blocks over time with dropped ones alone; the results are "
        "equal. Where all is kept, the filler is not run at all."
    )
    return _by_rate("speed-saved", caption, lines, texts)


def _filled(g: Timed) -> bool:
    """Whether the filler's network ran at all."""
    return any(s.evaluations for row in g.rows if row.timing for s in row.timing.stages if s.path == FILL)


def _but_compute(g: Timed) -> tuple[object, ...]:
    return statistics.traits(_without(g.first, "compute")), g.setting, g.alike


def _alone(g: Timed, encode: str, decode: str) -> list[Row]:
    """The rows with a stage in place of the encode side and one in place of the decode side, where there are such."""
    rows = []
    for row in g.rows:
        assert row.timing is not None
        stages = {s.path: s.seconds for s in row.timing.stages}
        sides = stages.get(encode, row.timing.encode_side), stages.get(decode, row.timing.decode_side)
        rows.append(statistics.with_sides(row, *sides))
    return rows


def _by_rate(
    name: str,
    caption: str,
    lines: Sequence[Mapping[str, object]],
    texts: Sequence[Mapping[str, object]],
    notes: Sequence[str] = (),
) -> Table:
    """A table by size, method and, from the most to the fewest, kept tokens."""
    order = sorted(
        range(len(lines)), key=lambda i: (str(texts[i]["size"]), str(lines[i]["method"]), -_number(lines[i]["kept"]))
    )
    values, shown = pd.DataFrame([lines[i] for i in order]), pd.DataFrame([texts[i] for i in order])
    return Table(name, caption, values, shown, notes=tuple(notes))


def _selection(mine: Timed) -> float:
    """Median over calls of the time to choose a mask over that of ``encode``."""
    select, encode = mine.stage("select/choose") or mine.stage("select"), mine.stage("encode")
    return float(np.median([s / e for s, e in zip(select, encode, strict=False) if e > 0])) if encode else math.nan


def _brief(extrapolated: str) -> str:
    """Without the stages, which stand in a note."""
    return "; ".join(dict.fromkeys(text.partition(" (")[0] for text in extrapolated.split("; ") if text))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else 0.0


def _setting(g: Timed) -> str:
    return "–" if g.setting is None or g.first.setting_name == "none" else f"{g.setting:.4g}"


def _ratio(value: float) -> str:
    return f"{value:.3f}x" if value < 2 else f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def _factor(value: float | None) -> str:
    return "–" if value is None else _ratio(value)


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _flops(value: float) -> str:
    return "–" if math.isnan(value) else statistics.in_thousands(value)


def _basis(found: SpeedUp) -> str:
    rounds = f", over {found.pairs} round{'s' * (found.pairs != 1)}"
    return found.counted + {"clips": "", "rounds": rounds, "launches": "; over launches"}[found.over]
