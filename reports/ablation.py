"""Trained variants of LIT as one table: what differs, size, gain over holding at equal masks, time of a forward.

Quality comes from the rows of one run in which every variant is a method entry with an alias and ``lit_weights``; what
a variant is comes from the training card beside its checkpoint. The first variant of the run is the default that the
others are compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Row
from avtbench.reports.answers import Answer, matched, stage_seconds
from avtbench.reports.errors import ReportError
from avtbench.reports.frame import POOLED, datasets_in, flat, frame, quality_points, speed_points
from avtbench.reports.gains import Gain, gains, same_masks
from avtbench.reports.tables import Table

NETWORK, HOLD = ("lit", "lit-plain"), "hold"
WEIGHTS = "lit_weights"
OUTCOMES = (
    "changes_of_steps", "curve", "data", "held_out", "held_out_clips", "machine", "parameters", "revision", "seconds",
    "steps_done", "task", "tokenizer_digest", "torch",
)  # fmt: skip
"""Fields of a card that are results or places, not choices."""
DERIVED = ("schedule.warmup", "schedule.check_every", "loss_in_words")
"""Fields that follow from others: the number of steps, the loss."""


@dataclass(frozen=True)
class Variant:
    """One trained network of an ablation run. ``choices``: flat card fields and knobs that a person decided."""

    name: str
    method: str
    knobs: Mapping[str, Any]
    choices: Mapping[str, str]
    parameters: int | None

    def owns(self, row: Row) -> bool:
        return row.method == self.method and all(row.parameters.get(k) == v for k, v in self.knobs.items())

    @property
    def reference(self) -> str:
        return str(self.knobs.get("reference", "last_kept"))

    def differs(self, other: Variant) -> str:
        """``depth 8 (4), width 96 (64)``: own choices that are not those of ``other`` (in brackets)."""
        keys = [*other.choices, *(k for k in self.choices if k not in other.choices)]
        lacking = "none"
        parts = [
            f"{key.removeprefix('config.')} {self.choices.get(key, lacking)} ({other.choices.get(key, lacking)})"
            for key in keys
            if self.choices.get(key) != other.choices.get(key)
        ]
        return ", ".join(parts) or "nothing"


def card_of(weights: Path) -> dict[str, Any]:
    """The training card of a checkpoint: ``card.json`` beside it, or its own name with ``.json``; empty without one."""
    for path in (weights.with_name("card.json"), weights.with_suffix(".json")):
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ReportError(f"{path} cannot be read ({error}), expected a training card in JSON") from None
            return found if isinstance(found, dict) else {}
    return {}


def variants(spec: Mapping[str, Any]) -> list[Variant]:
    """The variants of a run's stored spec, in its order; raises :class:`ReportError` where it holds fewer than two."""
    entries = spec["methods"] if isinstance(spec.get("methods"), list) else []
    found = []
    for entry in entries:
        knobs = dict(entry.get("knobs", {}))
        if entry["name"] in NETWORK and WEIGHTS in knobs:
            card = card_of(Path(str(knobs[WEIGHTS])))
            told = {k: v for k, v in card.items() if k not in OUTCOMES}
            choices = {k: str(v) for k, v in flat(told) if k not in DERIVED}
            choices |= {k: str(v) for k, v in knobs.items() if k != WEIGHTS}
            choices.setdefault("reference", "last_kept")
            found.append(
                Variant(entry.get("alias") or entry["name"], entry["name"], knobs, choices, card.get("parameters"))
            )
    if len(found) < 2:
        raise ReportError(
            f"run {spec.get('name', '')} has {len(found)} lit entries with {WEIGHTS}, expected two or more: "
            f"methods: [{{name: lit, alias: default, knobs: {{{WEIGHTS}: PATH}}}}, ...]"
        )
    return found


@dataclass(frozen=True)
class Ablation:
    """The table, the answers and what every number is made of."""

    table: Table
    answers: tuple[Answer, ...]
    gains: tuple[Gain, ...]


def ablation(rows: Sequence[Row], spec: Mapping[str, Any]) -> Ablation:
    """Turn the rows of an ablation run and its stored spec into a table; raises :class:`ReportError` in one line."""
    known = variants(spec)
    renamed = [row.model_copy(update={"method": name}) for row in rows if (name := _name(row, known))]
    table = frame(renamed)
    points = quality_points(table)
    default, lines, texts, over_hold, over_default = known[0], [], [], [], []
    names = list(dict.fromkeys(points["label"]))
    for dataset in datasets_in(points):
        for one in known:
            base = _hold(one.reference)
            if one.name not in names:
                continue
            found = gains(table, one.name, base, dataset=dataset) if base in names else []
            against = gains(table, one.name, default.name, dataset=dataset) if one is not default else []
            over_hold += found
            over_default += [gain for gain in against if dataset != POOLED or len(datasets_in(points)) == 1]
            forward = _forward(table, one.name)
            alike, of = same_masks(table, one.name, base, dataset) if base in names else (0, 0)
            exact: dict[str, Any] = {"data set": dataset, "variant": one.name, "differs": one.differs(default)}
            exact |= {"parameters": one.parameters, "forward_ms": forward, "same_masks": alike, "points": of}
            for kind, group in (("hold", found), ("default", against)):
                for gain in group:
                    exact |= _exact(f"{gain.measure}_{round(100 * gain.level)}_over_{kind}", gain)
            lines.append(exact)
            texts.append(_texts(dataset, one, default, found, against, forward))
    if not lines:
        raise ReportError(f"run {spec.get('name', '')} has no finished points of {', '.join(v.name for v in known)}")
    caption = (
        "Gain over holding the last kept value at equal masks (same threshold and reference), each clip read at that "
        "kept fraction; positive is better, also in LPIPS. Mean over clips with its 95 % interval. In brackets: the "
        f"choice of {default.name}, the first variant of the run."
    )
    notes = [
        f"{line['variant']} on {line['data set']}: {line['points'] - line['same_masks']} of {line['points']} points "
        "have another mask than hold; its gain is at equal rate, not at equal masks."
        for line in lines
        if line["same_masks"] < line["points"]
    ]
    made = Table("ablation", caption, pd.DataFrame(lines), pd.DataFrame(texts).fillna("–"), frozenset(), tuple(notes))
    told = [
        answer for one in known[1:] for answer in matched([gain for gain in over_default if gain.method == one.name])
    ]
    return Ablation(made, tuple(told), tuple(over_hold))


def _hold(reference: str) -> str:
    return HOLD if reference == "last_kept" else f"{HOLD} ({reference})"


def _name(row: Row, known: Sequence[Variant]) -> str:
    if row.method == HOLD:
        return _hold(str(row.parameters.get("reference", "last_kept")))
    owners = [one for one in known if one.owns(row)]
    return max(owners, key=lambda one: len(one.knobs)).name if owners else ""  # one's knobs may contain another's


def _exact(name: str, gain: Gain) -> dict[str, Any]:
    e = gain.estimate
    if isinstance(e, UserError):
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan, f"{name}_n": 0}
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high, f"{name}_n": e.n}


def _texts(
    dataset: str, one: Variant, default: Variant, found: Sequence[Gain], against: Sequence[Gain], forward: float
) -> dict[str, str]:
    told = {
        "data set": dataset,
        "variant": one.name,
        "differs from the default": "–" if one is default else one.differs(default),
        "parameters": f"{one.parameters:,}" if one.parameters else "–",
    }
    for gain in found:
        if gain.measure == "psnr" or gain.level == 0.5:
            told[f"{_short(gain.measure)} gain at {gain.level:g}"] = span(gain)
    for gain in against:
        if gain.measure == "psnr" and gain.level == 0.5:
            told[f"PSNR against {default.name} at 0.5"] = span(gain)
    if not math.isnan(forward):
        told["forward (ms)"] = f"{forward:.1f}"
    clips = sorted({(g.estimate.n, g.estimate.of) for g in found if not isinstance(g.estimate, UserError)})
    told["clips"] = " / ".join(f"{n} of {of}" for n, of in clips) or "–"
    return told


def _short(measure: str) -> str:
    return MEASURES[measure].label.partition(" ")[0] + (" (dB)" if MEASURES[measure].unit == "dB" else "")


def span(gain: Gain) -> str:
    """The number for a table: ``+0.22 [+0.13, +0.30]``, or ``refused``."""
    if isinstance(gain.estimate, UserError):
        return "refused"
    return gain.estimate.span.replace(f" {gain.estimate.unit}", "") if gain.estimate.unit else gain.estimate.span


def _forward(table: pd.DataFrame, label: str) -> float:
    """Median ms of the network's own stage over all timed samples (latency); NaN where no time is stored."""
    timed = speed_points(table)
    timed = timed[(timed["label"] == label) & (timed["scenario"] == "latency")]
    seconds = [s for row in timed["row"] for s in stage_seconds(row.timing, "lit") or ()]
    return 1e3 * median(seconds) if seconds else math.nan
