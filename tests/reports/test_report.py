"""A run becomes a folder and a page that holds everything and asks the network for nothing."""

import json
import os
import re
import shutil
import subprocess

import pytest

from avtbench.bench.rows import Extrapolation
from avtbench.reports import findings
from avtbench.reports.errors import ReportError
from avtbench.reports.frame import frame
from avtbench.reports.html import failures
from avtbench.reports.report import write

PARTS = (
    "report.html",
    "tables/results-shared.csv",
    "tables/results-shared.md",
    "tables/results-shared.tex",
    "tables/time.tex",
    "tables/speed-ups.csv",
    "tables/speed-overhead.tex",
)
FIGURES = (
    "rd-psnr-kept-davis",
    "rd-ssim-bpp-davis",
    "rd-lpips-squeeze-kept-davis",
    "stages",
    "motion",
    "tokens-davis-clip-01-8",
)


@pytest.fixture(scope="module")
def page(make, tmp_path_factory):
    rows = make.sweep(["full-rate", "lit", "hold"], clips=3)
    rows += [make.failed_row(m, 3, "cannot decode <b>clip</b>: no video stream") for m in ("lit", "hold")]
    rows += [make.quality_row("infotok", s, c, tier="faithful", lpips=False) for s in (0.4, 0.6) for c in range(3)]
    shown = [r for r in rows if r.pass_ == "quality" and r.clip == "clip-01" and r.setting in (0.1, 0.5)]
    previews = [make.preview(r) for r in shown]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "BD_RESAMPLES", 20)
        return write(rows, previews, {"env0": make.environment}, tmp_path_factory.mktemp("run"), "A <demo> & more")


def test_everything_is_written(page):
    for part in PARTS:
        assert (page.parent / part).stat().st_size > 0
    for figure in FIGURES:
        for ending in ("pdf", "png"):
            assert (page.parent / "figures" / f"{figure}.{ending}").stat().st_size > 0


def test_ratios_of_times_stand_with_the_times(page):
    text = own(page)
    assert text.index('id="time"') < text.index("Paired speed-ups and what explains them") < text.index('id="stages"')
    assert "What a threshold adds to its frozen tokeniser." in text


def test_token_maps_show_each_choosing_method_once_near_half_of_its_tokens(page):
    captions = re.findall(r"<figcaption>davis, clip-01, frame 8: (.+?)\. Dropped", own(page))
    assert captions == ["lit at threshold 0.5, hold at threshold 0.5"]


def own(page):
    """The page without the plotly bundle and the pictures."""
    text = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r'"data:[^"]+"', '"data:"', text)


def test_the_page_asks_the_network_for_nothing(page):
    text = own(page)
    assert "http" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert page.read_text(encoding="utf-8").count("plotly.js v") <= 1


def test_the_summary_comes_first_and_says_what_is_missing(page):
    text = own(page)
    assert text.index('id="summary"') < text.index('id="curves"') < text.index('id="time"') < text.index('id="tokens"')
    assert "3 of 4" in text
    assert "lit against hold on davis, at 0.5 of the tokens: PSNR +" in text
    assert "It beats copying the last kept token." in text
    assert "Bounds not in this run: random, oracle" in text
    assert "a processor with two cores" in text


def test_reasons_and_titles_are_escaped(page):
    text = own(page)
    assert "cannot decode &lt;b&gt;clip&lt;/b&gt;: no video stream" in text
    assert "<title>A &lt;demo&gt; &amp; more</title>" in text


def test_the_interactive_curves_hold_setting_and_clips(page):
    found = re.search(r'id="curve-data">(.*?)</script>', page.read_text(encoding="utf-8"), flags=re.DOTALL)
    data = json.loads(found.group(1))
    panel = data["panels"][0]
    lit = next(c for c in panel["curves"] if c["label"] == "lit")
    assert len(lit["points"]) == 7
    assert lit["points"][0]["psnr"]["clips"] == "3 of 4 clips"
    assert lit["points"][0]["psnr"]["partial"]
    assert [q["name"] for q in data["qualities"]] == ["psnr", "ssim", "lpips_squeeze"]


def test_tiers_stand_in_sections_of_their_own(page):
    text = own(page)
    assert "Shared backbone: rules on one common tokeniser" in text
    assert "Faithful: published architectures" in text
    assert (page.parent / "figures" / "rd-psnr-kept-davis-faithful.pdf").exists()
    shared, faithful = ((page.parent / "tables" / f"results-{tier}.csv").read_text() for tier in ("shared", "faithful"))
    assert "infotok" not in shared
    assert "infotok" in faithful
    assert "lit" not in faithful


def test_a_run_that_only_failed_still_has_a_page_with_the_reasons(make, tmp_path):
    text = own(write([make.failed_row("lit", 0), make.failed_row("lit", 1)], [], {}, tmp_path, "failed"))
    assert "cannot decode: no video stream" in text
    assert "0 of 2" in text


def test_a_speed_run_with_random_weights_has_times_but_no_quality(make, tmp_path):
    rows = [
        make.speed_row(
            "elastictok-cv", s, c, weights="random", tier="faithful", parameters={"size": size}, key=f"{s}{c}{size}"
        )
        for s in (0.2, 1.0)
        for c in range(2)
        for size in ("6x384", "12x512")
    ]
    text = own(write(rows, [], {}, tmp_path, "speed"))
    assert '<div class="tile"><b>2 of 2</b><span>clips of davis, timed</span></div>' in text
    assert "<b>1</b><span>method in 2 configurations</span>" in text
    assert "Results at matched rate" not in text
    assert "Where the time goes" in text
    assert (tmp_path / "figures" / "stages.pdf").exists()
    assert "random" in (tmp_path / "tables" / "time.csv").read_text()


def test_the_caption_of_the_stages_says_what_is_random_and_what_was_extrapolated(make, tmp_path):
    part = Extrapolation(stages={"select/search": 11}, evaluations=18, of=98, measured=[0.1] * 8)
    long = make.speed_row("elastictok-cv", 0.5, 0, weights="random", tier="faithful")
    long = long.model_copy(update={"timing": long.timing.model_copy(update={"extrapolated": part})})
    text = own(write([long, make.speed_row("lit", 0.5, 0)], [], {}, tmp_path, "speed"))
    caption = next(c for c in re.findall("<figcaption>(.+?)</figcaption>", text, re.DOTALL) if "Nested" in c)
    assert "Random weights: elastictok-cv. Not measured in full: elastictok-cv, extrapolated from 18 of 98" in caption


def test_many_points_with_one_reason_stand_on_one_line(make):
    rows = [make.failed_row(m, c, f"{m} at 0.{c}: out of time") for m in ("lit", "hold") for c in range(7)]
    (line,) = failures(frame(rows))
    assert (line["points"], line["methods"], line["reason"]) == (14, "lit, hold", "out of time")
    assert line["clip"] == "clip-00, clip-01, clip-02, clip-03, clip-04 and 2 more"


def test_a_second_report_leaves_nothing_of_the_first_behind(make, tmp_path):
    rows = [make.quality_row("lit", s, c) for s in (0.4, 0.6) for c in range(3)]
    (tmp_path / "figures").mkdir()
    for name in ("rd-psnr-kept-gone.pdf", "mine.pdf"):
        (tmp_path / "figures" / name).touch()
    write(rows, [], {}, tmp_path, "second")
    assert not (tmp_path / "figures" / "rd-psnr-kept-gone.pdf").exists()
    assert (tmp_path / "figures" / "mine.pdf").exists()
    assert (tmp_path / "figures" / "rd-psnr-kept-davis.pdf").exists()


def test_no_rows_is_one_line(tmp_path):
    with pytest.raises(ReportError, match="there are no rows to report on"):
        write([], [], {}, tmp_path, "empty")


def test_two_profiles_are_refused_in_one_line(make, tmp_path):
    rows = [make.quality_row("lit", 0.5, c, profile=p) for c, p in enumerate(("tokenbench/1", "vidtok/1"))]
    with pytest.raises(ReportError, match="metric profiles tokenbench/1 and vidtok/1"):
        write(rows, [], {}, tmp_path, "mixed")


def test_a_folder_that_cannot_be_written_is_one_line(make, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReportError, match=r"cannot be written .*; give another folder"):
        write([make.quality_row("lit", s, 0) for s in (0.4, 0.6)], [], {}, tmp_path / "file" / "out", "blocked")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_draws_its_curves_from_disk(page, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.stdout.count("scatterlayer") >= 1
    assert '<text class="legendtext"' in done.stdout
