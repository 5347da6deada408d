"""Static figures, drawn with matplotlib and written as PDF and PNG: one function per kind of figure."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image
from scipy.stats import spearmanr

from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Preview
from avtbench.reports.answers import SAME_RATE, spread
from avtbench.reports.curves import Curve
from avtbench.reports.frame import POOLED, datasets_in, nearest_setting, of_dataset, quality_points, views_of_one
from avtbench.reports.palette import GREY, Look, looks, order
from avtbench.reports.times import UNATTRIBUTED, StageMeans

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}
AXIS_TEXT = {"kept_fraction": "kept tokens (fraction of the full grid)", "bpp": "rate with mask (bits per pixel)"}


@dataclass(frozen=True)
class Picture:
    """A figure on disk: ``<stem>.pdf`` and ``<stem>.png`` in the figures folder, with what it shows in words."""

    stem: str
    caption: str
    group: str
    png: Path


@contextmanager
def styled() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def save(figure: Figure, folder: Path, stem: str, caption: str, group: str, pdf: bool = True) -> Picture:
    """Write one figure as PNG and, unless told otherwise, PDF; the files are the same bytes for the same rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        figure.savefig(folder / f"{stem}.png", metadata={"Software": None})
        if not pdf:
            return Picture(stem, caption, group, folder / f"{stem}.png")
        figure.set_layout_engine("none")  # laid out by now; a second solve would only cost time
        figure.savefig(folder / f"{stem}.pdf", metadata={"CreationDate": None})
    return Picture(stem, caption, group, folder / f"{stem}.png")


def slug(text: str) -> str:
    """Turn a name into part of a file name."""
    return "-".join("".join(c if c.isalnum() else " " for c in text).lower().split())


def rate_distortion(found: Sequence[Curve], quality: str, rate: str) -> Figure:
    """Mean quality over mean rate, one line per method; partial means have hollow markers, full rate is a level line.

    ``rate``: ``kept_fraction`` or ``bpp``. Settings at which every clip is lossless are marked at the upper edge.
    """
    measure, look = MEASURES[quality], looks_of(found)
    with styled():
        figure = Figure(figsize=(5.2, 3.5))
        axes = figure.subplots()
        for curve in found:
            if curve.level:
                _level(axes, curve, quality, rate, look[curve.label])
            else:
                _curve(axes, curve, quality, rate, look[curve.label])
        axes.set_xlabel(AXIS_TEXT[rate])
        axes.set_ylabel(f"{measure.axis} {measure.arrow}")
        if rate == "kept_fraction":
            axes.set_xlim(0, 1.03)
        else:
            axes.set_xlim(left=0)
        axes.margins(y=0.06)
        _heading(axes, f"{found[0].dataset}, {clips_text(found, quality)}" if found else "")
        _legend(axes, found, look, quality)
    return figure


def rate_distortion_grid(panels: Mapping[str, Sequence[Curve]], qualities: Sequence[str]) -> Figure:
    """Mean quality over kept fraction: a column per data set, a line of panels per quality, one legend for all."""
    everything = [curve for found in panels.values() for curve in found]
    look = looks_of(everything)
    with styled():
        figure = Figure(figsize=(2.9 * len(panels) + 1.4, 2.5 * len(qualities) + 0.2))
        grid = figure.subplots(len(qualities), len(panels), sharex=True, squeeze=False)
        for line, quality in zip(grid, qualities, strict=True):
            for axes, (dataset, found) in zip(line, panels.items(), strict=True):
                for curve in found:
                    draw = _level if curve.level else _curve
                    draw(axes, curve, quality, "kept_fraction", look[curve.label])
                axes.set_xlim(0, 1.03)
                axes.margins(y=0.06)
                _heading(axes, f"{dataset}, {clips_text(found, quality)}")
            line[0].set_ylabel(f"{MEASURES[quality].axis} {MEASURES[quality].arrow}")
        figure.supxlabel(AXIS_TEXT["kept_fraction"], fontsize=8.5)
        labels = sorted({c.label for c in everything}, key=order)
        handles = [_handle(look[label], label) for label in labels]
        if any(p.means[q].partial for q in qualities for c in everything for p in c.points):
            handles.append(_hollow())
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6, labelspacing=0.6)
    return figure


def effect_scatter(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """An effect of each clip against its motion: a panel per effect (its name is the axis label), colour by data set.

    Tables: columns ``dataset``, ``motion``, ``effect``. The line at zero parts gains from losses.
    """
    names = list(dict.fromkeys(name for found in panels.values() for name in found["dataset"]))
    style = {name: (STAGE_COLOURS[i % len(STAGE_COLOURS)], "os^Dv"[i % 5]) for i, name in enumerate(names)}
    with styled():
        figure = Figure(figsize=(3.1 * len(panels) + 1.0, 2.7))
        for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            axes.axhline(0, color=GREY, lw=0.8, zorder=1)
            for name, mine in found.groupby("dataset", sort=False):
                colour, marker = style[str(name)]
                axes.scatter(mine["motion"], mine["effect"], color=colour, marker=marker, s=20, alpha=0.85, lw=0)
            axes.set_ylabel(title)
        figure.supxlabel(f"motion ({MEASURES['motion'].unit})", fontsize=8.5)
        handles = [Line2D([], [], color=c, ls="none", marker=m, ms=4.5, label=name) for name, (c, m) in style.items()]
        figure.legend(handles=handles, loc="outside right center")
    return figure


def clips_text(found: Sequence[Curve], measure: str) -> str:
    """``8 of 9 clips``, or ``7 to 8 of 9 clips`` where points differ."""
    counts = sorted({p.means[measure].n for c in found for p in c.points})
    of = max(p.of for c in found for p in c.points)
    return f"{counts[0]} of {of} clips" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} of {of} clips"


def _heading(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8, color="#444444")


def looks_of(found: Sequence[Curve]) -> dict[str, Look]:
    return looks((c.label for c in found), (c.label for c in found if c.bound))


def _level(axes: Axes, curve: Curve, quality: str, rate: str, look: Look) -> None:
    point = max(curve.points, key=lambda p: p["bpp"])
    value = point[quality]
    if math.isfinite(value):
        axes.axhline(value, color=look.colour, lw=look.width, ls=look.dash, zorder=1)
        face = "white" if point.means[quality].partial else look.colour
        axes.plot([point[rate]], [value], marker=look.marker, color=look.colour, mfc=face, ms=4, zorder=2)


def _curve(axes: Axes, curve: Curve, quality: str, rate: str, look: Look) -> None:
    x = np.array([p[rate] for p in curve.points])
    y = np.array([p[quality] for p in curve.points])
    partial = np.array([p.means[quality].partial for p in curve.points], dtype=bool)
    shown = np.isfinite(y)
    axes.plot(x[shown], y[shown], color=look.colour, lw=look.width, ls=look.dash, zorder=2 if look.bound else 3)
    size = 4.0 if look.bound else 5.5
    for mask, face in ((shown & ~partial, look.colour), (shown & partial, "white")):
        axes.plot(
            x[mask],
            y[mask],
            ls="none",
            marker=look.marker,
            ms=size,
            color=look.colour,
            mfc=face,
            mew=1.0,
            zorder=2.5 if look.bound else 3.5,
        )
    for point in curve.points:
        if math.isinf(point[quality]):
            axes.annotate(
                "lossless",
                (point[rate], 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                color=look.colour,
                fontsize=6.5,
                xytext=(0, -2),
                textcoords="offset points",
            )


def _legend(axes: Axes, found: Sequence[Curve], look: Mapping[str, Look], quality: str) -> None:
    handles = []
    for curve in found:
        style = look[curve.label]
        handles.append(_handle(style, curve.label))
    if any(p.means[quality].partial for c in found for p in c.points):
        handles.append(_hollow())
    axes.figure.legend(handles=handles, loc="outside right center", handlelength=2.6, labelspacing=0.6)


def _hollow() -> Line2D:
    return Line2D([], [], color=GREY, ls="none", marker="o", mfc="white", ms=4.5, label="not all clips")


def _handle(style: Look, label: str) -> Line2D:
    return Line2D([], [], color=style.colour, lw=style.width, ls=style.dash, marker=style.marker, ms=4.5, label=label)


def quality_time(found: Sequence[Curve], speed: pd.DataFrame, quality: str = "psnr") -> Figure | None:
    """Mean quality over median end-to-end time (log), bars from p20 to p80; None where no setting was timed."""
    look, drawn = looks_of(found), []
    with styled():
        figure = Figure(figsize=(5.2, 3.5))
        axes = figure.subplots()
        for curve in found:
            values = {p.setting: p for p in curve.points}
            mine = speed[(speed["label"] == curve.label) & speed["setting"].isin(values)].sort_values("kept_fraction")
            if mine.empty:
                continue
            drawn.append(curve)
            _timed(
                axes,
                mine["total_ms"],
                mine,
                [values[s][quality] for s in mine["setting"]],
                look[curve.label],
                across=True,
            )
        if not drawn:
            return None
        _time_axis(axes, "x")
        axes.set_xlabel("end-to-end time (ms per clip, median, p20–p80)")
        axes.set_ylabel(f"{MEASURES[quality].axis} {MEASURES[quality].arrow}")
        _heading(axes, f"{drawn[0].dataset}, {clips_text(drawn, quality)}\n{timing_text(speed)}")
        _legend(axes, drawn, look, quality)
    return figure


def timing_text(speed: pd.DataFrame) -> str:
    """Scenario, device, number format and how many clips and launches the times stand on."""
    first, launches = speed.iloc[0], speed["launches"].max()
    counts = f"{speed['clips'].max()} of {first['of']} clips, {launches} launch{'es' if launches != 1 else ''}"
    return f"{first['scenario']}, {first['device']}, {first['dtype']}, timed on {counts}"


def rate_time(speed: pd.DataFrame, bounds: Sequence[str] = ()) -> Figure | None:
    """Median end-to-end time over kept fraction: does time shrink with the tokens? Random weights are named."""
    speed = speed[speed["kept_fraction"].notna()]
    if speed.empty:
        return None
    look = looks(speed["label"], bounds)
    with styled():
        figure = Figure(figsize=(5.2, 3.5))
        axes = figure.subplots()
        handles = []
        for label in sorted(set(speed["label"]), key=order):
            mine, style = speed[speed["label"] == label].sort_values("kept_fraction"), look[label]
            _timed(axes, mine["kept_fraction"], mine, mine["total_ms"], style, across=False)
            named = (
                f"{label}\n(random weights)" if (mine["weights"] == "random").any() and "random" not in label else label
            )
            handles.append(_handle(style, named))
        _time_axis(axes, "y")
        axes.set_xlim(0, 1.03)
        axes.set_xlabel(AXIS_TEXT["kept_fraction"])
        axes.set_ylabel("end-to-end time (ms per clip, median, p20–p80)")
        _heading(axes, f"{speed['dataset'].iloc[0]}\n{timing_text(speed)}")
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6, labelspacing=0.6)
    return figure


def _timed(axes: Axes, x: Sequence[float], times: pd.DataFrame, y: Sequence[float], look: Look, across: bool) -> None:
    spread = np.abs(times[["total_p20", "total_p80"]].to_numpy().T - times["total_ms"].to_numpy())
    errors = {"xerr" if across else "yerr": spread}
    axes.errorbar(
        np.asarray(x),
        np.asarray(y),
        **errors,
        color=look.colour,
        lw=look.width,
        ls=look.dash,
        marker=look.marker,
        ms=4.5 if look.bound else 5.5,
        elinewidth=0.8,
        capsize=2,
        zorder=2 if look.bound else 3,
    )


def _time_axis(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


STAGE_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6D31",
    "#5E4FA2",
    "#44AA99",
    "#882255",
    "#999933",
    "#666666",
)


SECONDS_FROM = 10
"""Seconds above which times are not written in milliseconds."""


def stage_colour(place: int) -> tuple[float, float, float]:
    """RGB of the n-th name: twelve colours, then the same lighter, then darker. Hatched is only what is no stage."""
    lap, at = divmod(place, len(STAGE_COLOURS))
    towards, share = ((1.0, 0.0), (1.0, 0.5), (0.0, 0.45))[lap % 3]
    red, green, blue = (share * towards + (1 - share) * part for part in to_rgb(STAGE_COLOURS[at]))
    return red, green, blue


def stage_breakdown(found: Sequence[StageMeans]) -> Figure:
    """Left: mean time of top-level stages. Right: shares of the total, nested stages below their parents."""
    sides = ("encode", "select", "decode")
    paths = sorted({path for s in found for path in s.stages}, key=lambda path: (path.count("/"), path))
    names = list(dict.fromkeys([*sides, *(path.rpartition("/")[2] for path in paths)]))
    names.sort(key=lambda name: name == UNATTRIBUTED)  # last, so that it takes no colour from the others
    depth = 1 + max((path.count("/") for path in paths), default=0)
    colour = {name: stage_colour(i) for i, name in enumerate(names)}
    unit, scale = ("s", 1.0) if max(s.total for s in found) > SECONDS_FROM else ("ms", 1e3)
    with styled():
        figure = Figure(figsize=(7.2, 0.9 + (0.22 + 0.1 * depth) * len(found)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.7))
        for i, method in enumerate(found):
            _stage_bars(left, right, i, 0.8 / max(depth, 2), method, colour, scale)
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            axes.set_ylim(len(found) - 0.5, -0.5)
        named = [s.label.replace(" (", "\n(") + ("" if math.isnan(s.kept) else f"\nkept {s.kept:.2f}") for s in found]
        left.set_yticks(range(len(found)), named)
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
        left.set_xlabel(f"mean end-to-end time ({unit} per clip)")
        left.margins(x=0.2)
        left.set_xlim(left=0)
        right.set_xlim(0, 100)
        right.set_xlabel("share of end-to-end time (%)")
        shown = [n for n in names if n != UNATTRIBUTED]
        handles = [Patch(facecolor=colour[n], edgecolor="white", label=n) for n in shown]
        handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="////", label=UNATTRIBUTED))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(8, len(handles)), handlelength=1.2, columnspacing=1.2
        )
    return figure


def three_digits(value: float) -> str:
    """Three digits, never an exponent: ``1.27``, ``43.8``, ``1270``."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _stage_bars(
    left: Axes,
    right: Axes,
    at: int,
    height: float,
    method: StageMeans,
    colour: Mapping[str, tuple[float, float, float]],
    scale: float,
) -> None:
    """One method at line ``at``; ``scale`` turns seconds into the unit of the left axis."""
    top = at - height * (1 + max((path.count("/") for path in method.stages), default=0)) / 2
    starts: dict[str, float] = {}
    free: dict[str, float] = {}
    for path, seconds in sorted(method.stages.items(), key=lambda item: item[0].count("/")):
        parent, _, name = path.rpartition("/")
        start = free.get(parent, starts.get(parent, 0.0))
        starts[path], free[parent] = start, start + seconds
        level = path.count("/")
        share = 100 * seconds / method.total
        loose = name == UNATTRIBUTED
        if loose and share < 0.5:
            continue
        bar = {"color": colour[name], "edgecolor": "white", "linewidth": 0.6, "align": "edge"}
        if loose:
            bar |= {"color": "white", "edgecolor": GREY, "hatch": "////"}
        right.barh(top + level * height, share, height, left=100 * start / method.total, **bar)  # type: ignore[arg-type]
        if level == 0:
            left.barh(at - 0.25, scale * seconds, 0.5, left=scale * start, **bar)  # type: ignore[arg-type]
        if share > 4 and not loose:
            right.text(
                100 * start / method.total + share / 2,
                top + (level + 0.5) * height,
                f"{share:.0f}",
                color="white" if np.mean(colour[name]) < 0.6 else "black",
                fontsize=6.5,
                ha="center",
                va="center",
            )
    left.text(scale * method.total, at, f" {three_digits(scale * method.total)}", va="center", fontsize=7)


def motion_scatter(table: pd.DataFrame) -> tuple[Figure, dict[str, tuple[float, int]]] | None:
    """Kept fraction of each clip against its motion, a panel per method at its setting nearest to half of the tokens.

    Views of one data set have panels of their own. Returns the figure and title -> (Spearman rank correlation, number
    of clips); NaN where the method keeps the same share of every clip. None where no method adapts.
    """
    points = quality_points(table)
    points = points[(points["family"] != "bound") & points["motion"].notna()]
    places = datasets_in(points) if views_of_one(points) else [POOLED]
    labels = sorted(set(points["label"]), key=order)
    panels, ranks = {}, {}
    for label, place in itertools.product(labels, places):
        chosen = nearest_setting(of_dataset(points[points["label"] == label], place))
        if len(chosen) >= 3:
            title = label if place == POOLED else f"{label}, {place}"
            panels[title] = chosen
            constant = spread(chosen) < SAME_RATE or chosen["motion"].nunique() < 2
            rank = math.nan if constant else float(spearmanr(chosen["motion"], chosen["kept_fraction"]).statistic)
            ranks[title] = (rank, len(chosen))
    if not panels:
        return None
    look, columns = looks(labels), min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    with styled():
        figure = Figure(figsize=(2.4 * columns + 0.4, 2.3 * lines + 0.3))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for at, (axes, (title, chosen)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
            style, (rank, count) = look[chosen["label"].iloc[0]], ranks[title]
            axes.tick_params(labelbottom=at + columns >= len(panels))  # nothing stands below it
            axes.scatter(
                chosen["motion"],
                chosen["kept_fraction"],
                color=style.colour,
                marker=style.marker,
                s=22,
                alpha=0.85,
                lw=0,
            )
            axes.set_title(f"{title}, setting {chosen['setting'].iloc[0]:.3g}", fontsize=8)
            value = "undefined" if math.isnan(rank) else f"= {rank:+.2f}"
            axes.text(
                0.04, 0.95, f"Spearman ρ {value}\nn = {count} clips", transform=axes.transAxes, va="top", fontsize=7.5
            )
            axes.set_ylim(0, 1.25)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        figure.supxlabel(f"motion ({MEASURES['motion'].unit})", fontsize=8.5)
        figure.supylabel("kept tokens (fraction)", fontsize=8.5)
    return figure, ranks


def token_map(previews: Mapping[str, Preview]) -> Figure:
    """Original, reconstruction, absolute error and keep mask of one clip, one line per method.

    The error is the mean over channels of ``|original - reconstruction|`` on 0..255, all lines on one scale. In the
    last column dropped positions are veiled. A mask whose grid does not follow the frame (prefix masks) is shown as a
    bar of tokens.
    """
    lines = [(p, _pixels(p.original), _pixels(p.reconstruction)) for p in previews.values()]
    errors = [np.abs(a.astype(float) - b).mean(-1) for _, a, b in lines]
    top = max(8.0, float(np.ceil(np.percentile(np.concatenate([e.ravel() for e in errors]), 99.5))))
    height, width = lines[0][1].shape[:2]
    across, down = 1.06 * width, height + 0.14 * width
    inches = 1.62 * max(1.0, width / height) / across
    with styled(), mpl.rc_context({"axes.grid": False}):
        figure = Figure(figsize=(4 * across * inches + 0.75, len(lines) * down * inches + 0.3))
        axes = figure.subplots()  # one for all pictures: dozens of axes would take seconds to lay out
        axes.set_axis_off()

        def put(pixels: np.ndarray, line: int, column: int, **look: Any) -> AxesImage:
            x, y = column * across, line * down
            return axes.imshow(pixels, extent=(x, x + width, y + height, y), interpolation="none", **look)

        for i, (label, (shown, original, rebuilt), error) in enumerate(zip(previews, lines, errors, strict=True)):
            keep = np.asarray(Image.open(io.BytesIO(shown.keep)).convert("L")) > 127
            put(original, i, 0)
            put(rebuilt, i, 1)
            image = put(error, i, 2, cmap="magma", vmin=0, vmax=top)
            put(_mask(original, keep), i, 3)
            mse = float(np.mean((original.astype(float) - rebuilt) ** 2))
            dB = "lossless" if mse == 0 else f"{10 * math.log10(255**2 / mse):.1f} dB"
            kept = f"{keep.sum()} of {keep.size} kept ({keep.mean():.0%})"
            below = i * down + height + 0.02 * width
            name = label.replace(" (", "\n(")
            axes.text(-0.03 * width, i * down + height / 2, name, rotation=90, ha="right", va="center")
            axes.text(across + width / 2, below, f"frame {shown.frame}: {dB}", fontsize=7, ha="center", va="top")
            axes.text(3 * across + width / 2, below, kept, fontsize=7, ha="center", va="top")
        for column, title in enumerate(("original", "reconstruction", "absolute error", "kept tokens")):
            axes.text(column * across + width / 2, -0.04 * width, title, fontsize=8.5, ha="center", va="bottom")
        axes.set_xlim(0, 3 * across + width)
        axes.set_ylim(len(lines) * down, 0)
        bar = figure.colorbar(
            image, ax=axes, location="right", fraction=0.03, pad=0.02, shrink=max(0.4, 1 / len(lines))
        )
        bar.set_label("absolute error (0–255)", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


KEPT, DROPPED, OUTLINE = (0x00, 0x72, 0xB2), (0xD9, 0xD9, 0xD9), (0xD5, 0x5E, 0x00)


def _mask(original: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The original, dropped positions veiled, kept ones outlined; a bar where the mask is no grid of the frame."""
    scale = math.ceil(384 / original.shape[1])
    pixels = original.repeat(scale, 0).repeat(scale, 1)
    height, width = pixels.shape[:2]
    columns = np.arange(width) * keep.shape[1] // width
    if not 0.75 < (keep.shape[1] / keep.shape[0]) / (width / height) < 1.34:
        bar = np.full_like(pixels, 255)
        flat = keep.ravel()[np.arange(width) * keep.size // width]
        bar[int(0.38 * height) : int(0.62 * height)] = np.where(flat[:, None], KEPT, DROPPED)
        return bar
    mask = keep[np.arange(height) * keep.shape[0] // height][:, columns]
    veil = pixels.mean(-1, keepdims=True) * 0.25 + 190
    shown = np.where(mask[..., None], pixels, veil).astype(np.uint8)
    edges = np.zeros((height, width), bool)
    edges[1:] |= mask[1:] != mask[:-1]
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edges[:-1] |= edges[1:]
    edges[:, :-1] |= edges[:, 1:]
    shown[edges] = OUTLINE
    return shown


def _pixels(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
