"""A run as a folder of figures and tables and one HTML page, from stored rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Preview, Row
from avtbench.reports import figures, findings, html, ratios, tables, times
from avtbench.reports.curves import Curve, curves
from avtbench.reports.errors import ReportError
from avtbench.reports.figures import Picture, save, slug
from avtbench.reports.frame import (
    QUALITIES,
    RATES,
    clips_of,
    datasets_in,
    flat,
    frame,
    outcomes,
    quality_points,
    speed_points,
)
from avtbench.reports.palette import base_name, order
from avtbench.reports.ratios import Level

PAGE = "report.html"
FIGURES = ("rd-", "quality-time-", "rate-time-", "stages", "motion", "tokens-")
TABLES = ("results-", "comparisons-", "sweep-", "time", "speed-")
"""How the names of all files begin that a report writes."""
TIERS = {"shared": "Shared backbone: rules on one common tokeniser", "faithful": "Faithful: published architectures"}
MOST_MAPS = 6
UNMAPPED = ("full-rate", "random")
"""Bounds whose mask shows nothing."""


def write(
    rows: Sequence[Row],
    previews: Sequence[Preview],
    environments: Mapping[str, Mapping[str, Any]],
    out: Path,
    title: str,
    levels: Sequence[Level] = (),
    counted: Sequence[Row] = (),
) -> Path:
    """Write ``figures/``, ``tables/`` and the page below ``out``; return the path of the page.

    levels, counted: of a speed run, where its methods were matched and the quality rows of its clips.
    Raises :class:`ReportError` in one line when there is no row, when rows of two metric profiles meet, or when
    ``out`` cannot be written.
    """
    if not rows:
        raise ReportError("there are no rows to report on; start a run first: avtbench run")
    table = frame(rows)
    try:
        pictures, panels = _figures(table, previews, out / "figures")
        printed, found = _tables(table, _speed_tables(rows, counted, levels), out / "tables")
        page = _page(table, environments, title, pictures, panels, printed, found, out)
        path = out / PAGE
        path.write_text(page, encoding="utf-8")
        _clear(out / "figures", FIGURES, {p.stem for group in pictures.values() for p in group})
        _clear(out / "tables", TABLES, {one.name for one in _each(printed)})
    except OSError as error:
        raise ReportError(
            f"{out} cannot be written ({error.strerror or error}); give another folder with --out"
        ) from error
    return path


def _clear(folder: Path, ours: tuple[str, ...], written: set[str]) -> None:
    """Remove what an earlier report of this folder wrote and this one did not."""
    for path in folder.glob("*.*"):
        if path.stem not in written and path.stem.startswith(ours):
            path.unlink()


def tiers_in(table: pd.DataFrame) -> list[str]:
    """The tiers with finished quality points; they never share a table or an axis."""
    return [tier for tier in TIERS if (quality_points(table)["tier"] == tier).any()]


def _figures(
    table: pd.DataFrame, previews: Sequence[Preview], folder: Path
) -> tuple[dict[str, list[Picture]], dict[str, list[Curve]]]:
    made: dict[str, list[Picture]] = {"curves": [], "time": [], "stages": [], "motion": [], "tokens": []}
    panels: dict[str, list[Curve]] = {}
    summary = times.speed_summary(table)
    for tier in tiers_in(table):
        points = quality_points(table)
        for dataset in datasets_in(points[points["tier"] == tier]):
            found = curves(table, dataset, tier)
            suffix = slug(dataset) + ("" if tier == "shared" else f"-{tier}")
            panels[dataset if tier == "shared" else f"{dataset} ({tier})"] = found
            made["curves"] += _rate_distortion(found, folder, suffix)
            made["time"] += _quality_time(found, summary, folder, suffix)
    made["time"] += _rate_time(summary, folder)
    stages = times.stage_means(table)
    if any(s.stages for s in stages):
        made["stages"].append(
            save(figures.stage_breakdown(stages), folder, "stages", _stages_caption(stages), "stages")
        )
    scatter = figures.motion_scatter(table)
    if scatter:
        figure, ranks = scatter
        told = ", ".join(
            f"{label} {'undefined' if rank != rank else f'{rank:+.2f}'} (n = {n} clips)"
            for label, (rank, n) in ranks.items()
        )
        caption = (
            "Kept fraction against motion, a point per clip, at the setting nearest to half of the tokens. "
            f"Spearman rank correlation: {told}."
        )
        made["motion"].append(save(figure, folder, "motion", caption, "motion"))
    made["tokens"] += _token_maps(table, previews, folder)
    return made, panels


def _stages_caption(stages: Sequence[times.StageMeans]) -> str:
    loose = ", ".join(f"{s.label} {s.unattributed:.1%}" for s in stages)
    random = [s.label for s in stages if s.random]
    return " ".join(
        [
            f"Mean time of each stage ({stages[0].at}), each method at its setting nearest to half of the tokens. "
            f"Nested stages stand below their parents; hatched: not attributed to any stage ({loose}).",
            *([f"Random weights: {', '.join(random) if len(random) < len(stages) else 'all'}."] if random else []),
            *(f"Not measured in full: {s.label}, {s.extrapolated}." for s in stages if s.extrapolated),
        ]
    )


def _rate_distortion(found: Sequence[Curve], folder: Path, suffix: str) -> list[Picture]:
    made = []
    for quality in QUALITIES:
        if not any(c.points and p.means[quality].n for c in found for p in c.points):
            continue
        for rate in RATES:
            clips = figures.clips_text(found, quality)
            caption = f"{MEASURES[quality].label} over {MEASURES[rate].label}, {found[0].dataset}, {clips}."
            figure = figures.rate_distortion(found, quality, rate)
            stem = f"rd-{slug(quality)}-{'kept' if rate == 'kept_fraction' else rate}-{suffix}"
            made.append(save(figure, folder, stem, caption, "curves"))
    return made


def _quality_time(found: Sequence[Curve], summary: pd.DataFrame, folder: Path, suffix: str) -> list[Picture]:
    made = []
    mine = summary[summary["dataset"] == found[0].dataset]
    for group, timed in mine.groupby(["scenario", "device", "dtype"], sort=False):
        figure = figures.quality_time(found, timed)
        if figure is not None:
            caption = (
                f"PSNR over end-to-end time, {found[0].dataset}, {figures.timing_text(timed)}; a point per setting."
            )
            made.append(
                save(figure, folder, f"quality-time-{slug(' '.join(map(str, group)))}-{suffix}", caption, "time")
            )
    return made


def _rate_time(summary: pd.DataFrame, folder: Path) -> list[Picture]:
    made = []
    for group, timed in summary.groupby(["scenario", "device", "dtype", "dataset"], sort=False):
        figure = figures.rate_time(timed, timed.loc[timed["family"] == "bound", "label"])
        if figure is not None:
            caption = (
                f"End-to-end time over kept fraction, {group[3]}, {figures.timing_text(timed)}. "
                "A level line: rate adapts, time does not."
            )
            made.append(save(figure, folder, f"rate-time-{slug(' '.join(map(str, group)))}", caption, "time"))
    return made


def _token_maps(table: pd.DataFrame, previews: Sequence[Preview], folder: Path) -> list[Picture]:
    """A picture per clip and frame: every method that chooses its tokens, at its setting nearest to half of them."""
    by_key = {line.key: line for line in quality_points(table).itertuples() if base_name(line.label) not in UNMAPPED}
    clips: dict[tuple[str, str, int], dict[str, list[tuple[float, Row, Preview]]]] = {}
    for preview in previews:
        if line := by_key.get(preview.key):
            of_clip = clips.setdefault((line.dataset, line.clip, preview.frame), {})
            of_clip.setdefault(line.label, []).append((abs(line.kept_fraction - 0.5), line.row, preview))
    made = []
    for (dataset, clip, number), of_clip in list(clips.items())[:MOST_MAPS]:
        shown = {label: min(of_clip[label], key=lambda found: found[0])[1:] for label in sorted(of_clip, key=order)}
        settings = ", ".join(f"{label} at {row.setting_name} {row.setting:g}" for label, (row, _) in shown.items())
        caption = (
            f"{dataset}, {clip}, frame {number}: {settings}. "
            "Dropped positions are veiled; error is |original − reconstruction|."
        )
        figure = figures.token_map({label: preview for label, (_, preview) in shown.items()})
        made.append(save(figure, folder, f"tokens-{slug(f'{dataset} {clip}')}-{number}", caption, "tokens"))
    return made


def _tables(
    table: pd.DataFrame, speed: Sequence[tables.Table], folder: Path
) -> tuple[dict[str, list[tables.Table]], list[findings.Finding]]:
    made: dict[str, list[tables.Table]] = {"results": [], "comparisons": [], "sweep": [], "time": [], "speed": [*speed]}
    told = findings.bounds_missing(table)
    for tier in tiers_in(table):
        made["results"].append(tables.matched(table, tier))
        compared = findings.pairs(table, tier)
        told += findings.against_hold(compared)
        if compared:
            made["comparisons"].append(findings.comparison_table(compared, tier))
        made["sweep"].append(tables.swept(table, tier))
    summary = times.speed_summary(table)
    if len(summary):
        made["time"].append(tables.timing(summary))
    for one in _each(made):
        tables.write(one, folder)
    return made, told + findings.reached(table) + findings.lossless(table)


def _speed_tables(rows: Sequence[Row], counted: Sequence[Row], levels: Sequence[Level]) -> list[tables.Table]:
    """Speed-ups and overhead; the times of a report are in its own table, by data set."""
    return ratios.comparisons(ratios.timed([*rows, *counted]), levels, ratios.floors(rows))


def _each(made: Mapping[str, list[tables.Table]]) -> list[tables.Table]:
    return [table for kind in made.values() for table in kind]


def _page(
    table: pd.DataFrame,
    environments: Mapping[str, Mapping[str, Any]],
    title: str,
    pictures: Mapping[str, list[Picture]],
    panels: Mapping[str, list[Curve]],
    printed: Mapping[str, list[tables.Table]],
    told: Sequence[findings.Finding],
    out: Path,
) -> str:
    points = quality_points(table)
    failed = html.failures(table)
    downloads = {
        one.name: [
            (f"{one.name}.{kind}", html.data_uri((out / "tables" / f"{one.name}.{kind}").read_bytes(), "text/plain"))
            for kind in ("csv", "md", "tex")
        ]
        for one in _each(printed)
    }
    sections = [
        ("curves", "Rate and quality", bool(panels)),
        ("tables", "Results", bool(printed["results"])),
        ("time", "Time", bool(printed["time"])),
        ("stages", "Stages", bool(pictures["stages"])),
        ("motion", "Motion", bool(pictures["motion"])),
        ("tokens", "Token maps", bool(pictures["tokens"])),
        ("details", "Environment and raw data", True),
    ]
    profile = f"Metric profile {points['profile'].iloc[0]}" if len(points) else "No quality points"
    if points["psnr_ceiling"].notna().any():
        profile += f", whose codec alone reaches {points['psnr_ceiling'].mean():.2f} dB"
    return html.render(
        pictures,
        title=title,
        subtitle=f"Adaptive video tokenisers: rate, quality and cost. {profile}.",
        sections=[(name, text) for name, text, there in sections if there],
        tiles=_tiles(table),
        findings=told,
        speed_findings=findings.speed_findings(table),
        speed_warnings=findings.speed_warnings(table),
        methods=html.method_lines(table),
        failures=failed[: html.MOST_FAILURES],
        failures_left=max(0, len(failed) - html.MOST_FAILURES),
        environment_lines=_where(environments),
        environments=[(name, [f for f in flat(record) if f[1] is not None]) for name, record in environments.items()],
        curves_json=html.curve_data(panels) if panels else "",
        absences=tables.absences(points),
        few_figures=len(pictures["curves"]) <= 8,
        tables=printed,
        downloads=downloads,
        tier_words={
            one.name: TIERS[one.name.rpartition("-")[2]]
            for kind in ("results", "comparisons", "sweep")
            for one in printed[kind]
        },
        speed_words={
            "speed-ups": "Paired speed-ups and what explains them",
            "speed-overhead": "What thresholding adds to the tokeniser",
            "speed-saved": "What leaving kept positions out of the filler saves",
        },
    )


def _tiles(table: pd.DataFrame) -> list[dict[str, Any]]:
    done, points, timed = outcomes(table), quality_points(table), speed_points(table)
    failed = len(table) - done["done"] - done["skipped"]
    tiles = []
    for dataset in [d for d in dict.fromkeys(table["dataset"]) if d]:
        of, passes = clips_of(table, dataset), set(table.loc[table["dataset"] == dataset, "pass"])
        found, how = (timed, ", timed") if passes == {"speed"} else (points, "")
        n = found.loc[found["dataset"] == dataset, "clip"].nunique()
        tiles.append({"number": f"{n} of {of}", "text": f"clips of {dataset}{how}", "warn": n < of})
    own = table[table["alias"] == ""]
    methods, labels = own["method"].nunique(), own.loc[own["done"], "label"].nunique()
    configurations = f" in {labels} configurations" if labels > methods else ""
    tiles.append(
        {"number": str(methods), "text": f"method{'s' if methods != 1 else ''}{configurations}", "warn": False}
    )
    tiles.append({"number": f"{done['done']} of {len(table)}", "text": "points finished", "warn": False})
    tiles.append({"number": str(failed), "text": "points failed", "warn": failed > 0})
    if done["skipped"]:
        tiles.append({"number": str(done["skipped"]), "text": "points skipped with a reason", "warn": False})
    return tiles


_TELLING = ("cpu", "gpu", "device", "threads", "torch", "cuda", "python", "system", "omp_wait_policy")


def _where(environments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per environment with what most decides a number; the rest stands at the end of the page."""
    lines = []
    for name, record in environments.items():
        known = {key.rpartition(".")[2].lower(): value for key, value in flat(record) if value is not None}
        telling = [f"{key} {known[key]}" for key in _TELLING if known.get(key)]
        lines.append(f"{name}: {', '.join(telling) or 'see the end of the page'}")
    if len(lines) > 1:
        lines.append(f"Rows come from {len(lines)} environments: compare times only within one.")
    return lines or ["No environment was recorded."]
