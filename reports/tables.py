"""Results as tables: CSV for programs, Markdown for a README, LaTeX (booktabs) for a paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avtbench.bench.metrics.measures import MEASURES
from avtbench.reports.compare import At, common_levels, on_mean_curve, with_times
from avtbench.reports.curves import Mean, curves, mean_over_clips
from avtbench.reports.errors import Refused
from avtbench.reports.frame import QUALITIES, TIMES, clips_of, datasets_in, of_dataset, quality_points, speed_points
from avtbench.reports.palette import UPPER, base_name, order

LEVELS = (0.75, 0.5, 0.25)
"""Kept fractions at which methods are compared; those of InfoTok's tables."""
MATCHED = ("bpp", *QUALITIES, "encode_ms", "total_ms", "nfe")
SWEPT = ("kept_fraction", "bpp", *QUALITIES, "nfe")
_SHORT = {
    "kept_fraction": "kept", "bpp": "bpp", "encode_ms": "encode (ms)", "total_ms": "total (ms)", "nfe": "NFE",
    "lpips_vgg": "LPIPS-VGG", "lpips_alex": "LPIPS-Alex", "lpips_squeeze": "LPIPS-Squeeze",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table twice: ``values`` at full precision for programs, ``texts`` as printed (same lines, other columns).

    ``bold`` holds (line, column of ``texts``). The first column of ``texts`` groups the lines; ``notes`` stand below
    it.
    """

    name: str
    caption: str
    values: pd.DataFrame
    texts: pd.DataFrame
    bold: frozenset[tuple[int, str]] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> tuple[str, ...]:
        """Columns of numbers, which are set flush right."""
        return tuple(c for c in self.texts.columns if c.rstrip(" ↑↓") in _NUMBERS or "(" in c)

    def groups(self) -> list[tuple[str, pd.DataFrame]]:
        """Lines by their first column, in order; the index stays that of the table."""
        first = self.texts.columns[0]
        return [(str(name), lines.drop(columns=first)) for name, lines in self.texts.groupby(first, sort=False)]


def heading(measure: str) -> str:
    """Column head with unit and direction, e.g. ``PSNR (dB) ↑``."""
    m = MEASURES[measure]
    return f"{_SHORT.get(measure, m.axis)}{f' {m.arrow}' if m.arrow else ''}"


_NUMBERS = {heading(m).rstrip(" ↑↓") for m in MEASURES} | {"kept", "bpp"}


@dataclass(frozen=True)
class Line:
    """A method at one level or setting on one data set."""

    dataset: str
    at: str
    label: str
    means: dict[str, Mean]
    done: int
    of: int
    best: frozenset[str] = frozenset()

    @property
    def lossless(self) -> int:
        return self.means["psnr"].lossless

    @property
    def clips(self) -> str:
        text = f"{self.done} of {self.of}"
        return f"{text}, {self.lossless} lossless" if self.lossless else text


def matched(table: pd.DataFrame, tier: str, levels: Sequence[float] | None = None) -> Table:
    """Every method at the setting where its mean keeps the same fraction of the tokens; the best of a level in bold.

    ``levels``: kept fractions; by default :data:`LEVELS`, or others where the methods of the run do not meet there.
    Nothing is best that lacks clips, nor an upper bound (full rate, oracle). A bound that keeps everything stands
    once per data set, on a line of its own.
    """
    points = quality_points(table)
    points = with_times(points[points["tier"] == tier], speed_points(table))
    lines: list[Line] = []
    missing: dict[str, list[str]] = {}
    for dataset in datasets_in(points):
        here, of = of_dataset(points, dataset), clips_of(table, dataset)
        full = {c.label for c in curves(table, dataset, tier) if c.level}
        labels = sorted(set(here["label"]), key=order)
        lines += [_at(here[here["label"] == label], label, dataset, 1.0, of) for label in labels if label in full]
        choosing = here[~here["label"].isin(full)]
        for level in levels if levels is not None else common_levels(choosing, LEVELS) or LEVELS:
            block = []
            for label in (name for name in labels if name not in full):
                try:
                    block.append(_at(here[here["label"] == label], label, dataset, level, of))
                except Refused as reason:
                    missing.setdefault(f"{dataset}: {str(reason).rpartition(', not ')[0]}", []).append(f"{level:g}")
            lines += mark_best(block)
    caption = (
        "Matched rate: every method at the setting, between two measured ones, at which its mean over the clips keeps "
        "the same fraction of the tokens. Mean over clips. Bold: best of its level, upper bounds and times aside. *: "
        "not every clip is in the mean, never best."
    )
    return _table(
        f"results-{tier}",
        caption,
        "kept",
        lines,
        MATCHED,
        [*absences(points), *(f"{reason}, not {' or '.join(at)}" for reason, at in missing.items())],
    )


def swept(table: pd.DataFrame, tier: str) -> Table:
    """Every setting as it was measured; nothing is in bold, since the settings are not at one rate."""
    points = quality_points(table)
    points = points[points["tier"] == tier]
    lines = []
    for dataset in datasets_in(points):
        for curve in curves(table, dataset, tier):
            for point in curve.points:
                unset = curve.setting_name == "none" or math.isnan(point.setting)
                at = "–" if unset else f"{curve.setting_name} {point.setting:g}".strip()
                lines.append(Line(dataset, at, curve.label, point.means, point.done, point.of))
    caption = "Every setting as measured. Mean over clips. *: not every clip is in the mean."
    return _table(f"sweep-{tier}", caption, "setting", lines, SWEPT, absences(points))


def _table(
    name: str, caption: str, at: str, lines: Sequence[Line], measures: Sequence[str], notes: Sequence[str]
) -> Table:
    measures = [m for m in measures if any(line.means[m].n or line.means[m].lossless for line in lines)]
    values, texts = [], []
    for line in lines:
        where: dict[str, Any] = {"data set": line.dataset, at: line.at, "method": line.label}
        counts = {"clips": line.done, "of": line.of, "lossless": line.lossless}
        exact: dict[str, Any] = {}
        for m in measures:
            mean = line.means[m]
            exact |= {m: math.inf if not mean.n and mean.lossless else mean.value, f"{m}_n": mean.n}
        values.append(where | counts | exact)
        texts.append(
            where | {heading(m): line.means[m].text(MEASURES[m].digits) for m in measures} | {"clips": line.clips}
        )
    bold = frozenset((i, heading(m)) for i, line in enumerate(lines) for m in line.best & set(measures))
    columns = ["data set", at, "method", *map(heading, measures), "clips"]
    return Table(name, caption, pd.DataFrame(values), pd.DataFrame(texts, columns=columns), bold, tuple(notes))


def timing(summary: pd.DataFrame) -> Table:
    """Median times with p20-p80 of every timed setting, from :func:`avtbench.reports.times.speed_summary`."""
    texts = []
    summary = summary.sort_values("kept_fraction", ascending=False, kind="stable")
    summary = summary.sort_values("label", key=lambda labels: labels.map(order), kind="stable")
    summary = summary.sort_values(["scenario", "device", "dtype", "dataset"], kind="stable").reset_index(drop=True)
    for line in summary.to_dict("records"):
        texts.append(
            {
                "timed on": f"{line['scenario']}, {line['device']}, {line['dtype']}, {line['dataset']}",
                "method": line["label"],
                "setting": "–" if math.isnan(line["setting"]) else f"{line['setting']:g}",
                "kept": "–" if math.isnan(line["kept_fraction"]) else f"{line['kept_fraction']:.3f}",
                "encode side (ms) ↓": _spread(line, "encode"),
                "end to end (ms) ↓": _spread(line, "total"),
                "NFE ↓": "–" if math.isnan(line["nfe"]) else f"{line['nfe']:.1f}",
                "peak (MB) ↓": "–" if math.isnan(line["peak_mb"]) else f"{line['peak_mb']:.0f}",
                "weights": line["weights"],
                "clips": f"{line['clips']} of {line['of']}",
                "launches": f"{line['launches']}",
            }
        )
    caption = "Time per clip: median (p20–p80 of two or more) over all samples of all timed clips and launches."
    return Table("time", caption, summary.drop(columns="family"), pd.DataFrame(texts))


def _spread(line: dict[str, Any], side: str) -> str:
    digits = 1 if line[f"{side}_ms"] < 100 else 0
    low, high = line[f"{side}_p20"], line[f"{side}_p80"]
    if line["samples"] == 1:
        return f"{line[f'{side}_ms']:.{digits}f}"
    return f"{line[f'{side}_ms']:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def absences(points: pd.DataFrame) -> list[str]:
    """One sentence per metric that could not be measured, with the reason."""
    reasons: dict[tuple[str, str], int] = {}
    for row in points["row"]:
        for name, reason in row.quality.absent.items():
            reasons[name, reason] = reasons.get((name, reason), 0) + 1
    return [
        f"{MEASURES[name].label if name in MEASURES else name} is absent on {count} of {len(points)} points: {reason}"
        for (name, reason), count in reasons.items()
    ]


def _at(mine: pd.DataFrame, label: str, dataset: str, level: float, of: int) -> Line:
    reader = on_mean_curve(mine, At("kept_fraction", level))
    read = [reader(of_clip) for _, of_clip in mine.groupby(["dataset", "clip"])]
    found = [values for values in read if not isinstance(values, str)]
    means = {m: mean_over_clips(pd.Series([v[m] for v in found], dtype=float), of) for m in MEASURES}
    return Line(dataset, f"{level:g}", label, means, len(found), of)


def mark_best(block: Sequence[Line]) -> list[Line]:
    """Mark the best quality and the fewest evaluations. Ties in print share the mark; where all tie, there is none."""
    best: list[set[str]] = [set() for _ in block]
    able = [i for i, line in enumerate(block) if base_name(line.label) not in UPPER and line.done == line.of]
    # the rate is what was matched, and which of two times is shorter only the noise floor can tell
    for m in (name for name in MATCHED if name not in ("bpp", *TIMES)):
        measure = MEASURES[m]
        values = {i: round(block[i].means[m].value, measure.digits) for i in able if not block[i].means[m].partial}
        if len(set(values.values())) < 2:
            continue
        top = (max if measure.better == "higher" else min)(values.values())
        for i, value in values.items():
            if value == top:
                best[i].add(m)
    return [Line(b.dataset, b.at, b.label, b.means, b.done, b.of, frozenset(best[i])) for i, b in enumerate(block)]


def to_markdown(table: Table) -> str:
    """A pipe table, caption and notes."""
    texts = table.texts.map(_markdown_cell)
    for line, column in table.bold:
        texts.loc[line, column] = f"**{texts.loc[line, column]}**"
    align = ["right" if c in table.right else "left" for c in texts.columns]
    body = texts.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n\n".join([body, *(_markdown_cell(text) for text in (table.caption, *table.notes))]) + "\n"


def _markdown_cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("*", "\\*")


def to_latex(table: Table) -> str:
    """One ``table`` environment per group, for a document with ``booktabs`` and ``graphicx``; by pandas' Styler."""
    parts = []
    for number, (group, lines) in enumerate(table.groups()):
        styles = pd.DataFrame("", index=lines.index, columns=lines.columns)
        for line, column in table.bold:
            if line in lines.index:
                styles.loc[line, column] = "textbf:--rwrap;"
        styler = lines.style.hide(axis="index").format(latex_text).format_index(latex_text, axis=1)
        styler = styler.apply(lambda _, styles=styles: styles, axis=None)
        body = styler.to_latex(
            hrules=True, position="t", position_float="centering", label=f"tab:{table.name}-{number + 1}",
            column_format="".join("r" if c in table.right else "l" for c in lines.columns),
            caption=latex_text(f"{group[:1].upper()}{group[1:]}. {table.caption}"),
        )  # fmt: skip
        body = body.replace(
            "\\begin{tabular}",
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}",
        )
        parts.append(_spaced(body.replace("\\end{tabular}", "\\end{tabular}}"), lines))
    notes = "".join(f"% {' '.join(note.split())}\n" for note in table.notes)
    return "% needs \\usepackage{booktabs,graphicx}\n" + notes + "\n".join(parts)


def breaks(lines: pd.DataFrame) -> list[bool]:
    """Whether a block begins at each line: a new level or opponent, or a new method where lines are settings."""
    steady = lines["method" if "method" in lines and lines.columns[0] != "kept" else lines.columns[0]]
    changes = [a != b for a, b in itertools.pairwise(steady)]
    return [False, *(c and not all(changes) for c in changes)]


def _spaced(body: str, lines: pd.DataFrame) -> str:
    """Put some room between blocks."""
    begins, out, data = breaks(lines), [], -1
    for text in body.splitlines():
        if text == "\\bottomrule":
            data = -1
        if data >= 0 and begins[data]:
            out.append("\\addlinespace")
        data = 0 if text == "\\midrule" else data + (data >= 0)
        out.append(text)
    return "\n".join(out) + "\n"


_LATEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "↑": "$\\uparrow$", "↓": "$\\downarrow$",
    "–": "--", "×": "$\\times$",
    "\0": "{}", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def latex_text(text: object) -> str:
    """Escape for pdflatex; characters beyond Latin become ``?``."""
    text = str(text).replace("--", "-\0-")
    return "".join(_LATEX.get(c, c if " " <= c <= "~" or 0xA0 < ord(c) < 0x180 else "?") for c in text)


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{ending}" for ending in ("csv", "md", "tex")]
    paths[0].write_text(table.values.to_csv(index=False), encoding="utf-8")
    paths[1].write_text(to_markdown(table), encoding="utf-8")
    paths[2].write_text(to_latex(table), encoding="utf-8")
    return paths
