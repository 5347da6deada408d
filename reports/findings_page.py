"""The findings page: one Markdown file with figures and tables beside it, every sentence computed from stored rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Row
from avtbench.reports import answers, figures
from avtbench.reports.ablation import Ablation, ablation, span
from avtbench.reports.answers import Answer
from avtbench.reports.curves import Curve, curves
from avtbench.reports.errors import ReportError
from avtbench.reports.findings import comparison_table, paired
from avtbench.reports.frame import POOLED, clips_of, datasets_in, frame, quality_points, views_of_one
from avtbench.reports.gains import LEVELS, Gain, clip_gains, gains, measured, per_clip
from avtbench.reports.palette import base_name, order
from avtbench.reports.tables import Table, matched, to_markdown

LIT, HOLD, FULL, RANDOM, ORACLE = "lit", "hold", "full-rate", "random", "oracle"
TIER = "shared"
PROCEDURAL = frozenset({"synthetic"})
"""Data sets made by a formula: shown, but never among the clips of a claim about content."""
BESIDE = Path("measured") / "findings"
ABLATION = Path("measured") / "ablation"
"""Where figures and tables go, from the folder of the page."""


@dataclass(frozen=True)
class Source:
    """A stored run: its id, its spec as stored and its rows."""

    id: str
    spec: Mapping[str, Any]
    rows: Sequence[Row]


def write(
    runs: Sequence[Source],
    out: Path,
    command: str,
    *,
    ablations: Sequence[Source] = (),
    environments: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Answer]:
    """Write the page to ``out`` with its figures and tables in :data:`BESIDE` and :data:`ABLATION`; return its answers.

    ``command``: what made it, printed at the top. A point that several runs hold is taken from the last of them. Raises
    :class:`ReportError` in one line where there is nothing to tell, where a method has several variants on one
    tokeniser, or where the page cannot be written.
    """
    rows = list({_point(row): row for run in runs for row in run.rows if row.tier == TIER and row.tokenizer}.values())
    if not any(row.method == LIT for row in rows):
        raise ReportError(f"the runs hold no rows of {LIT}; give runs of it, e.g. avtbench run eval")
    tokenizers = list(dict.fromkeys(row.tokenizer for row in rows))
    try:
        (out.parent / BESIDE).mkdir(parents=True, exist_ok=True)
        chapters = [_Chapter(name, [r for r in rows if r.tokenizer == name], out.parent) for name in tokenizers]
        written = [(chapter.name, *chapter.write()) for chapter in chapters]
        ablated = [(run, ablation(run.rows, run.spec)) for run in ablations]
        parts = [
            "# Findings",
            f"Written by `{command}` from {len(rows)} stored rows; every number and verdict below is computed, none is "
            "written by hand. A claim holds where the 95 % interval (paired bootstrap over clips, clips of one source "
            "together) lies wholly on its side of zero, does not hold where it lies on the other side, and is not "
            "separated where it contains zero. A claim about several places holds only where it does at each, and does "
            "not where it does not at one. Signs are judged before numbers are rounded.",
            _stands_on(runs, rows, environments or {}),
            "## In short",
            *(_in_short(name, found) for name, found, _ in written),
            *(text for _, _, text in written),
            *(_ablation(run, made, out.parent) for run, made in ablated),
        ]
        out.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"{out} cannot be written ({error.strerror or error}); give another place with --out"
        ) from error
    return [answer for _, found, _ in written for answer in found] + [a for _, made in ablated for a in made.answers]


def _stands_on(runs: Sequence[Source], rows: Sequence[Row], environments: Mapping[str, Mapping[str, Any]]) -> str:
    """Runs, view, metric profile and machines in a few lines."""
    lines = [f"- Runs: {', '.join(run.id for run in runs)}."]
    views = {f"{r.frames} frames at {r.height}x{r.width}" for r in rows if r.frames}
    profiles = {r.quality.profile for r in rows if r.quality}
    lines.append(f"- View: {', '.join(sorted(views))}. Metric profile: {', '.join(sorted(profiles))}.")
    for digest in dict.fromkeys(r.environment for r in rows if r.environment in environments):
        record = environments[digest]
        known = {k: v for part in record.values() if isinstance(part, Mapping) for k, v in part.items()}
        told = [f"{k} {known[k]}" for k in ("cpu", "gpu", "torch threads", "torch", "source") if known.get(k)]
        lines.append(f"- Measured on: {', '.join(told)}.")
    return "\n".join(lines)


def _in_short(name: str, found: Sequence[Answer]) -> str:
    lines = "\n".join(f"- {answer.verdict.capitalize()}: {answer.claim}" for answer in found)
    return f"Tokeniser `{name}`:\n\n{lines}"


class _Chapter:
    """Everything about one tokeniser."""

    def __init__(self, name: str, rows: Sequence[Row], root: Path):
        self.name, self.root = name, root
        table = frame(rows)
        procedural = table["dataset"].map(lambda dataset: base_name(dataset) in PROCEDURAL)
        recorded, made = (
            [part for part in _parts(table[side]) if len(quality_points(part))] for side in (~procedural, procedural)
        )
        self.parts = [*recorded, *made]
        if not self.parts:
            raise ReportError(f"no quality row on tokeniser {name} is finished; see why with: avtbench report")
        labels = sorted({label for part in self.parts for label in quality_points(part)["label"]}, key=order)
        double = next((n for n in map(base_name, labels) if sum(base_name(x) == n for x in labels) > 1), None)
        if double:
            variants = [label for label in labels if base_name(label) == double]
            raise ReportError(
                f"the runs hold {len(variants)} variants of {double} on tokeniser {name} ({'; '.join(variants)}), "
                "expected one; give runs that hold one, and others with --ablation"
            )
        self.labels = labels
        self.recorded = max(recorded, key=lambda part: clips_of(part, POOLED), default=table.iloc[:0])
        self.several = len(recorded) > 1
        self.endings = ["" if p is self.recorded else f"-{datasets_in(quality_points(p))[0]}" for p in recorded]
        self.endings += ["-procedural"] * len(made)
        self.rivals = [x for x in labels if x != LIT and x not in (HOLD, FULL, RANDOM, ORACLE)]
        self.whole = table

    def there(self, *labels: str) -> bool:
        return all(label in self.labels for label in labels)

    def write(self) -> tuple[list[Answer], str]:
        """The answers on LIT, and the chapter as Markdown."""
        sections: list[tuple[str, list[Answer], list[str]]] = []
        if self.there(LIT, HOLD):
            sections.append(("LIT against holding the last kept value", *self._fill()))
        sections.append(("Rate and quality of every method", *self._curves()))
        sections.append(("Other rules at matched rate", *self._rules()))
        if self.there(LIT) and len(quality_points(self.recorded)):
            sections.append(("Content and rate", *self._content()))
        if self.there(LIT):
            sections.append(("Cost", *self._cost()))
        found = [answer for _, mine, _ in sections for answer in mine]
        sections.append(("Bounds", *self._controls()))
        parts = [f"## Tokeniser `{self.name}`", self._clips()]
        for title, mine, more in sections:
            if mine or more:
                parts += [f"### {title}", "\n".join(f"- {answer}" for answer in mine), *more]
        return found, "\n\n".join(filter(None, parts))

    def _clips(self) -> str:
        counts = [f"{clips_of(p, d)} {d}" for p in self.parts for d in datasets_in(quality_points(p)) if d != POOLED]
        digest = {str(row.parameters.get("tokenizer_digest", "")) for row in self.whole["row"] if row.parameters} - {""}
        made = f" Weights {', '.join(sorted(digest))}." if digest else ""
        kept = set(pd.concat(self.parts).index)
        lost = quality_points(self.whole[~self.whole.index.isin(kept)])
        settings = [f"{label} at {setting:g}" for label, setting in lost.groupby(["label", "setting"]).groups]
        left = f" Left out, run on fewer clips than their method's others: {', '.join(settings)}." if settings else ""
        pooled = any(dataset == POOLED for _, dataset in self._places())
        told = f'; "{POOLED}" means the recorded ones' if pooled else ""
        alone = ""
        if self.several:
            swept = datasets_in(quality_points(self.recorded))[-1]
            views = views_of_one(quality_points(self.whole))
            why = f"{' and '.join(views)} hold the same clips" if views else "not all were run at the same settings"
            alone = f' "Content and rate" and "Bounds" speak of {swept} alone: {why}.'
        return f"Clips: {', '.join(counts)}{told}.{alone}{made}{left}"

    def _places(self) -> Iterable[tuple[pd.DataFrame, str]]:
        for part in self.parts:
            for dataset in datasets_in(quality_points(part)):
                yield part, dataset

    # sections: answers, then tables and figures as Markdown

    def _fill(self) -> tuple[list[Answer], list[str]]:
        own: list[Gain] = []
        together: list[Gain] = []
        told: list[Answer] = []
        for part, dataset in self._places():
            own += (mine := gains(part, LIT, HOLD, dataset=dataset))
            together += gains(part, LIT, HOLD, dataset=dataset, per_clip=False)
            told += answers.beats_holding(part, LIT, HOLD, mine)
        caption = (
            "Gain of lit over hold at equal masks, positive is better, also in LPIPS; mean over clips with its 95 % "
            "interval. Each clip: read at that kept fraction of its own, between the two settings around it, at both "
            "of which the masks are the same. One threshold: at the threshold where the mean over the clips keeps that "
            "share."
        )
        table = _gain_table(f"{self.name}-fill", caption, {"each clip": own, "one threshold": together})
        return told, [self._table(table)]

    def _curves(self) -> tuple[list[Answer], list[str]]:
        panels: dict[str, list[Curve]] = {}
        texts = []
        for part in self.parts:
            panels |= {d: curves(part, d, TIER) for d in datasets_in(quality_points(part))}
        if len(panels) > 4:  # what stands for itself in the table
            panels = {d: found for d, found in panels.items() if d != POOLED}
        qualities = measured(pd.concat([quality_points(p) for p in self.parts]))[:2]
        figure = figures.rate_distortion_grid(panels, qualities)
        names = " and ".join(MEASURES[q].label for q in qualities)
        texts.append(self._figure(figure, "rd", f"{names} over kept tokens, mean over clips"))
        for part, end in zip(self.parts, self.endings, strict=True):
            texts.append(self._table(matched(part, TIER, sorted(LEVELS, reverse=True)), f"{self.name}-results{end}"))
        return [], texts

    def _rules(self) -> tuple[list[Answer], list[str]]:
        found: list[Gain] = []
        deltas = []
        for part, dataset in self._places():
            for rival in self.rivals:
                if self.there(LIT):
                    found += gains(part, LIT, rival, dataset=dataset, per_clip=False)
                    deltas.append(paired(part, LIT, rival, dataset))
            deltas += [paired(part, x, HOLD, dataset) for x in (LIT, *self.rivals) if self.there(x, HOLD)]
        alone = {d for _, d in self._places() if d != POOLED and base_name(d) not in PROCEDURAL}
        told = answers.matched([gain for gain in found if gain.dataset in alone])
        texts = []
        if found:
            caption = (
                "Gain of lit over other rules, positive is better, also in LPIPS; each method at the setting where its "
                "mean over the clips keeps that share. Mean over clips with its 95 % interval."
            )
            texts.append(self._table(_gain_table(f"{self.name}-rules", caption, {"gain": found})))
        if deltas:
            texts.append(self._table(comparison_table(deltas, TIER), f"{self.name}-bd"))
        return told, texts

    def _controls(self) -> tuple[list[Answer], list[str]]:
        """The bounds among each other, and whether the other rules beat the bound that needs no network."""
        told: list[Answer] = []
        pairs = [(HOLD, RANDOM), (ORACLE, HOLD), *((rival, HOLD) for rival in self.rivals)]
        if len(quality_points(self.recorded)):
            last = datasets_in(quality_points(self.recorded))[-1]
            for method, against in pairs:
                if self.there(method, against):
                    told += answers.matched(gains(self.recorded, method, against, dataset=last, per_clip=False))
        return told, []

    def _content(self) -> tuple[list[Answer], list[str]]:
        part, texts = self.recorded, []
        told = answers.content_drives_rate(part, LIT, self.rivals)
        scatter = figures.motion_scatter(part)
        if scatter:
            texts.append(self._figure(scatter[0], "motion", "Kept tokens against motion, a point per clip"))
        if self.there(FULL):
            told += answers.static_compress_most(part, LIT, FULL)
        if self.there(FULL, HOLD):
            told += answers.fill_against_motion(part, LIT, HOLD, FULL)
            panels = self._effects(part)
            if panels:
                title = "Fill of lit against motion at half of each clip's tokens, a point per clip"
                texts.append(self._figure(figures.effect_scatter(panels), "fill-motion", title))
        return told, texts

    def _effects(self, part: pd.DataFrame) -> dict[str, pd.DataFrame]:
        at_lit, at_hold, at_full = (per_clip(part, name, answers.HALF) for name in (LIT, HOLD, FULL))
        lpips = [m for m in measured(quality_points(part)) if m != "psnr"][:1]
        wanted: list[tuple[str, pd.DataFrame, str, float]] = [
            ("loss against full rate (dB)", at_full, "psnr", -1.0),
            ("gain over hold (dB)", at_hold, "psnr", 1.0),
            *((f"gain over hold, {MEASURES[m].label}", at_hold, m, 1.0) for m in lpips),
        ]
        panels = {}
        for title, other, measure, sign in wanted:
            found = clip_gains(at_lit, other, measure)
            if len(found):
                panels[title] = found.assign(effect=sign * found["gain"])
        return panels

    def _cost(self) -> tuple[list[Answer], list[str]]:
        both = pd.concat(self.parts)
        told = answers.passes(both, LIT, self.rivals)
        if self.there(FULL):
            told += answers.forward_is_cheap(self.whole, LIT, FULL)
        return told, []

    # files

    def _figure(self, figure: Any, kind: str, title: str) -> str:
        stem = f"{figures.slug(self.name)}-{kind}"
        figures.save(figure, self.root / BESIDE, stem, title, "findings", pdf=False)
        return f"![{title}, tokeniser {self.name}]({(BESIDE / stem).as_posix()}.png)\n\n{title}."

    def _table(self, table: Table, name: str = "") -> str:
        name = figures.slug(name or table.name)
        (self.root / BESIDE / f"{name}.csv").write_text(table.values.to_csv(index=False), encoding="utf-8")
        return f"{to_markdown(table).rstrip()}\n\n[The same in full precision]({(BESIDE / name).as_posix()}.csv)"


def _point(row: Row) -> tuple[Any, ...]:
    """What makes two rows the same point, whatever source they were measured with."""
    t = row.timing
    how = t and (t.scenario, t.sitting, t.launch, t.dtype, row.environment)
    size = (row.frames, row.height, row.width)
    variant = repr(sorted(row.parameters.items()))
    return row.pass_, row.method, row.alias, row.tokenizer, variant, row.setting, row.dataset, row.clip, size, how


def _parts(table: pd.DataFrame) -> list[pd.DataFrame]:
    """All clips as one part where a method ran at two settings or more in every data set and none is a view of another,
    else a part for each."""
    points = quality_points(table)
    reach = points.groupby(["label", "setting"])["dataset"].nunique()
    everywhere = reach[reach == points["dataset"].nunique()].groupby("label").size()
    if points["dataset"].nunique() < 2 or (everywhere.max() > 1 and not views_of_one(points)):
        return [_complete(table)]
    return [_complete(rows) for _, rows in table.groupby("dataset", sort=False)]


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out settings that a method was asked for on fewer clips than its others, as where runs sweep differently:
    a mean over other clips is another curve."""
    quality = table[table["pass"] == "quality"]
    clip = quality["dataset"] + "/" + quality["clip"]
    asked = clip.groupby([quality["label"], quality["setting"]]).transform("nunique")
    most = asked.groupby(quality["label"]).transform("max")
    return table.drop(index=quality.index[(asked < most).to_numpy()])


def _gain_table(name: str, caption: str, kinds: Mapping[str, Sequence[Gain]]) -> Table:
    """Lines: data set, kept fraction, opponent; columns: a gain per kind and measure."""
    lines: dict[tuple[str, str, float], dict[str, Any]] = {}
    texts: dict[tuple[str, str, float], dict[str, str]] = {}
    notes: list[str] = []
    for kind, found in kinds.items():
        ending = f", {kind}" if len(kinds) > 1 else ""
        for gain in found:
            where = (gain.dataset, gain.against, gain.level)
            known = {"data set": gain.dataset, "method": gain.method, "against": gain.against}
            exact = lines.setdefault(where, known | {"kept": gain.level})
            told = texts.setdefault(where, {k: str(v) for k, v in known.items()} | {"kept": f"{gain.level:g}"})
            column = f"{gain.measure}{'_' + kind.replace(' ', '_') if len(kinds) > 1 else ''}"
            estimate = gain.estimate
            refused = isinstance(estimate, UserError)
            exact |= {
                column: math.nan if refused else estimate.value,  # type: ignore[union-attr]
                f"{column}_low": math.nan if refused else estimate.low,  # type: ignore[union-attr]
                f"{column}_high": math.nan if refused else estimate.high,  # type: ignore[union-attr]
                f"{column}_n": 0 if refused else estimate.n,  # type: ignore[union-attr]
            }
            unit = f" ({MEASURES[gain.measure].unit})" if MEASURES[gain.measure].unit else ""
            told[f"{MEASURES[gain.measure].label}{unit}{ending}"] = span(gain)
            told[f"clips{ending}"] = "–" if refused else f"{estimate.n} of {estimate.of}"  # type: ignore[union-attr]
            if refused:
                notes.append(f"Refused on {gain.dataset}{ending}: {estimate}")
    values, shown = pd.DataFrame(list(lines.values())), pd.DataFrame(list(texts.values())).fillna("–")
    front = ["data set", "method", "against", "kept"]
    shown = shown[[*front, *(c for c in shown.columns if c not in front and not c.startswith("clips")),
                   *(c for c in shown.columns if c.startswith("clips"))]]  # fmt: skip
    return Table(name, caption, values, shown, frozenset(), tuple(dict.fromkeys(notes)))


def _ablation(run: Source, made: Ablation, root: Path) -> str:
    folder = root / ABLATION
    folder.mkdir(parents=True, exist_ok=True)
    name = f"ablation-{figures.slug(run.id)}"
    (folder / f"{name}.csv").write_text(made.table.values.to_csv(index=False), encoding="utf-8")
    body = to_markdown(made.table).rstrip()
    (folder / f"{name}.md").write_text(body + "\n", encoding="utf-8")
    tokenizers = {row.tokenizer for row in run.rows if row.tokenizer}
    head = f"## Ablation of LIT on `{', '.join(sorted(tokenizers))}`\n\nRun {run.id}."
    link = f"[The same in full precision]({(ABLATION / name).as_posix()}.csv)"
    told = "\n".join(f"- {answer}" for answer in made.answers)
    return "\n\n".join((head, told, body, link))
