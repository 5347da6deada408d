"""Figures: units on every axis, one look per method everywhere, hollow where clips are missing."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from avtbench.reports import figures
from avtbench.reports.curves import curves
from avtbench.reports.errors import ReportError
from avtbench.reports.frame import frame
from avtbench.reports.palette import KNOWN, look, looks
from avtbench.reports.times import speed_summary


def lines_of(figure):
    return [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]


def test_a_method_has_one_look_whatever_else_is_drawn(make):
    everything = looks(make.methods)
    for name in make.methods:
        assert looks([name])[name] == everything[name]
    assert look("a-method-of-yours") == look("a-method-of-yours")
    assert len({(v.colour, v.marker) for v in KNOWN.values()}) == len(KNOWN)


def test_variants_share_the_colour_and_differ_in_marker():
    first, second = looks(["lit (reference=previous)", "lit (reference=last_kept)"]).values()
    assert first.colour == second.colour == KNOWN["lit"].colour
    assert first.marker != second.marker


def test_many_unknown_methods_never_look_the_same():
    names = [f"method-{i}" for i in range(30)]
    assert len({(v.colour, v.marker) for v in looks(names).values()}) == 30


def test_axes_carry_label_unit_and_direction(make):
    found = curves(frame(make.sweep(clips=2, speed=False)), "davis")
    axes = figures.rate_distortion(found, "psnr", "bpp").axes[0]
    assert axes.get_ylabel() == "PSNR (dB) ↑"
    assert axes.get_xlabel() == "rate with mask (bits per pixel)"
    assert axes.get_title(loc="left") == "davis, 2 of 2 clips"


def test_bounds_are_thin_methods_are_bold_and_full_rate_is_level(make):
    found = curves(frame(make.sweep(clips=2, speed=False)), "davis")
    drawn = [
        line
        for line in lines_of(figures.rate_distortion(found, "psnr", "kept_fraction"))
        if line.get_linestyle() != "None"
    ]
    widths = {to_hex(line.get_color()).upper(): line.get_linewidth() for line in drawn}
    assert widths[KNOWN["lit"].colour] > widths[KNOWN["oracle"].colour]
    level = [line for line in drawn if list(line.get_xdata()) == [0, 1]]
    assert len(level) == 1
    assert len(set(level[0].get_ydata())) == 1


def test_a_mean_that_lacks_clips_is_hollow(make):
    rows = [make.quality_row("lit", s, c) for s in (0.2, 0.8) for c in range(2)]
    rows = [r for r in rows if (r.clip, r.setting) != ("clip-01", 0.2)]
    markers = [
        m
        for m in lines_of(figures.rate_distortion(curves(frame(rows), "davis"), "psnr", "bpp"))
        if m.get_marker() == "o"
    ]
    faces = {to_hex(m.get_markerfacecolor()): list(m.get_ydata()) for m in markers}
    assert len(faces["#ffffff"]) == 1
    assert len(faces[KNOWN["lit"].colour.lower()]) == 1


def test_a_lossless_point_is_a_word_not_a_height(make):
    rows = [make.quality_row("lit", 0.4, 0), make.quality_row("lit", 0.9, 0, psnr=math.inf)]
    axes = figures.rate_distortion(curves(frame(rows), "davis"), "psnr", "bpp").axes[0]
    assert [t.get_text() for t in axes.texts] == ["lossless"]
    assert all(np.isfinite(line.get_ydata()).all() for line in axes.get_lines())


def test_motion_is_ranked_per_method_over_clips(make):
    figure, ranks = figures.motion_scatter(frame(make.sweep(["lit", "hold"], clips=6, speed=False)))
    assert ranks == {"lit": (pytest.approx(1.0), 6)}
    assert "n = 6 clips" in figure.axes[0].texts[0].get_text()


def test_no_rank_is_told_where_a_method_keeps_the_same_share_of_every_clip(make):
    rows = [make.quality_row("infotok-style", 0.5 + 0.001 * c, c, setting=0.5) for c in range(6)]
    figure, ranks = figures.motion_scatter(frame(rows))
    assert math.isnan(ranks["infotok-style"][0])
    assert figure.axes[0].texts[0].get_text().startswith("Spearman ρ undefined")


def test_every_column_of_the_motion_figure_has_an_axis_and_every_view_a_panel(make):
    rows = make.sweep(["lit", "lit-plain"], clips=3, speed=False)
    views = [r.model_copy(update={"view": {"size": s}, "key": f"{s}{r.key}"}) for s in (128, 256) for r in rows]
    figure, ranks = figures.motion_scatter(frame(views))
    assert list(ranks)[:2] == ["lit, davis (size=128)", "lit, davis (size=256)"]
    assert {count for _, count in ranks.values()} == {3}
    figure.draw_without_rendering()
    shown = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes if axes.get_visible()]
    assert shown == [False, True, True, True]


def test_the_heading_of_times_fits_the_figure(make):
    table = frame(make.sweep(["lit", "hold"], clips=4, dataset="videos of a garden (size=256)"))
    speed = speed_summary(table)
    for figure in (figures.quality_time(curves(table, speed["dataset"].iloc[0]), speed), figures.rate_time(speed)):
        figure.draw_without_rendering()
        assert figure.get_tightbbox().x1 <= figure.get_size_inches()[0]


def test_token_map_shows_four_pictures_per_method(make):
    figure = figures.token_map({m: make.preview(make.quality_row(m, 0.5, 0)) for m in ("lit", "hold")})
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words[-4:] == ["original", "reconstruction", "absolute error", "kept tokens"]
    assert {"lit", "hold"} < set(words)
    assert words.count("52 of 256 kept (20%)") == 2
    assert len(figure.axes[0].get_images()) == 8


def test_files_are_the_same_for_the_same_rows(make, tmp_path):
    found = curves(frame(make.sweep(["lit", "hold"], clips=2, speed=False)), "davis")
    for name in ("one", "two"):
        figures.save(figures.rate_distortion(found, "psnr", "bpp"), tmp_path / name, "rd", "", "curves")
    for ending in ("pdf", "png"):
        assert (tmp_path / "one" / f"rd.{ending}").read_bytes() == (tmp_path / "two" / f"rd.{ending}").read_bytes()
    assert Image.open(tmp_path / "one" / "rd.png").width >= 1000


def test_two_profiles_cannot_share_an_axis(make):
    rows = make.sweep(["lit"], clips=3) + make.sweep(["hold"], clips=3)
    mixed = frame([row.model_copy(update={"quality": other(row)}) if row.method == "hold" else row for row in rows])
    for draw in (lambda: curves(mixed, "davis"), lambda: figures.motion_scatter(mixed), lambda: speed_summary(mixed)):
        with pytest.raises(ReportError, match="metric profiles tokenbench/1 and vidtok/1; a table or an axis"):
            draw()


def test_a_historical_profile_is_never_drawn(make):
    rows = [make.quality_row("lit", s, 0, profile="tokenbench-uint8wrap/0") for s in (0.4, 0.6)]
    with pytest.raises(ReportError, match="historical and never plotted"):
        curves(frame(rows), "davis")


def other(row):
    """The quality of a row as if measured under another profile."""
    return row.quality and row.quality.model_copy(update={"profile": "vidtok/1"})
