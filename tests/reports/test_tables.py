"""Tables: matched rate, best in bold, nothing partial ever best, LaTeX that compiles."""

import math
import shutil
import subprocess

import pandas as pd
import pytest

from avtbench.reports import findings, tables
from avtbench.reports.errors import ReportError
from avtbench.reports.frame import frame
from avtbench.reports.tables import heading
from avtbench.reports.times import speed_summary


def bold(table):
    return {(table.texts.loc[line, "method"], column) for line, column in table.bold}


def level(make, **psnr):
    return [
        make.quality_row(m.replace("_", "-"), s, c, psnr=p + 4 * s)
        for m, p in psnr.items()
        for s in (0.4, 0.6)
        for c in range(2)
    ]


def test_the_best_of_a_level_is_bold_and_the_oracle_never_is(make):
    table = tables.matched(frame(level(make, lit=27, hold=25, oracle=29)), "shared", levels=(0.5,))
    assert ("lit", "PSNR (dB) ↑") in bold(table)
    assert {method for method, _ in bold(table)} == {"lit"}


def test_hold_is_bold_when_it_is_best(make):
    table = tables.matched(frame(level(make, lit=24, hold=25)), "shared", levels=(0.5,))
    assert ("hold", "PSNR (dB) ↑") in bold(table)


def test_a_partial_mean_has_a_star_and_is_never_best(make):
    rows = level(make, lit=27, hold=25, infotok_style=26)
    rows = [r for r in rows if (r.method, r.clip) != ("lit", "clip-01")]
    table = tables.matched(frame(rows), "shared", levels=(0.5,))
    assert ("infotok-style", "PSNR (dB) ↑") in bold(table)
    line = table.texts.set_index("method").loc["lit"]
    assert line["clips"] == "1 of 2"
    assert line["PSNR (dB) ↑"] == "29.00*"


def test_equal_in_print_shares_the_mark_and_all_equal_has_none(make):
    shared = tables.matched(frame(level(make, lit=27, infotok_style=27, hold=25)), "shared", levels=(0.5,))
    assert {m for m, _ in bold(shared)} == {"lit", "infotok-style"}
    assert not tables.matched(frame(level(make, lit=27, hold=27)), "shared", levels=(0.5,)).bold


def test_no_time_is_bold(make):
    table = tables.matched(frame(make.sweep(["lit", "elastictok-style"], clips=4)), "shared", levels=(0.5,))
    line = table.texts.set_index("method")["total (ms) ↓"]
    assert float(line["lit"]) < float(line["elastictok-style"])
    assert {column for _, column in bold(table)} == {heading(m) for m in ("psnr", "ssim", "lpips_squeeze")}


def test_a_single_sample_has_no_spread(make):
    row = make.speed_row("lit", 0.5, 0, cost=0.1)
    once = row.timing.model_copy(update={"rounds": [0], "encode_side": [0.0405], "decode_side": [0.0927]})
    column = "end to end (ms) ↓"
    assert "–" in tables.timing(speed_summary(frame([row]))).texts[column].iloc[0]
    single = tables.timing(speed_summary(frame([row.model_copy(update={"timing": once})]))).texts
    assert single[column].iloc[0] == "133"
    assert single["encode side (ms) ↓"].iloc[0] == "40.5"


def test_tiers_never_share_a_table(make):
    rows = level(make, lit=27, hold=25) + [
        make.quality_row("infotok", s, c, tier="faithful") for s in (0.4, 0.6) for c in range(2)
    ]
    table = frame(rows)
    assert set(tables.matched(table, "shared").texts["method"]) == {"lit", "hold"}
    assert set(tables.matched(table, "faithful").texts["method"]) == {"infotok"}


def test_a_metric_without_weights_has_no_column_but_a_reason(make):
    table = tables.matched(frame(level(make, lit=27, hold=25)), "shared", levels=(0.5,))
    assert "LPIPS-Squeeze ↓" in table.texts
    assert not any("VGG" in column for column in table.texts)
    assert any("LPIPS (VGG) is absent on 8 of 8 points: no backbone weights" in note for note in table.notes)


def test_csv_keeps_every_digit_and_the_counts(make, tmp_path):
    rows = [*level(make, lit=27, hold=25), make.failed_row("lit", 2)]
    csv, _, _ = tables.write(tables.matched(frame(rows), "shared", levels=(0.5,)), tmp_path)
    line = pd.read_csv(csv).set_index("method").loc["lit"]
    assert line["psnr"] == pytest.approx(29, abs=1e-3)
    assert (line["psnr_n"], line["clips"], line["of"]) == (2, 2, 3)


def test_lossless_is_a_word_in_print_and_inf_in_csv(make, tmp_path):
    rows = [make.quality_row("lit", s, c, psnr=math.inf) for s in (0.4, 0.6) for c in range(2)]
    csv, markdown, _ = tables.write(tables.swept(frame(rows), "shared"), tmp_path)
    assert "lossless" in markdown.read_text()
    assert pd.read_csv(csv)["psnr"].tolist() == [math.inf, math.inf]


def test_markdown_escapes_what_it_would_read(make):
    text = tables.to_markdown(tables.swept(frame([make.quality_row("a|b*c", 0.5, 0)]), "shared"))
    assert "a\\|b\\*c" in text


NASTY = "a_b & 50% $x$ #1 {y} ~ ^ \\ <é> --flag 文"


def test_latex_escapes_every_special_character():
    text = tables.latex_text(NASTY)
    assert text.startswith("a\\_b \\& 50\\% \\$x\\$ \\#1 \\{y\\}")
    assert "é" in text
    assert text.endswith("-{}-flag ?")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_table_compiles(make, tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "BD_RESAMPLES", 20)
    rows = make.sweep(["full-rate", "lit", "hold"], clips=3)
    rows += [make.quality_row(NASTY, s, c) for s in (0.2, 0.8) for c in range(3)]
    table = frame(rows)
    made = [tables.matched(table, "shared"), tables.swept(table, "shared"), tables.timing(speed_summary(table))]
    made.append(findings.comparison_table(findings.pairs(table, "shared"), "shared"))
    for one in made:
        tables.write(one, tmp_path)
    inputs = "".join(f"\\input{{{one.name}.tex}}" for one in made)
    packages = "\\usepackage[utf8]{inputenc}\\usepackage{booktabs,graphicx}"
    (tmp_path / "main.tex").write_text(
        f"\\documentclass{{article}}{packages}\\begin{{document}}{inputs}\\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_a_method_that_never_meets_the_level_is_named(make):
    rows = [make.quality_row("lit", s, 0) for s in (0.4, 0.6)] + [make.quality_row("hold", s, 0) for s in (0.7, 0.9)]
    table = tables.matched(frame(rows), "shared", levels=(0.5,))
    assert list(table.texts["method"]) == ["lit"]
    assert table.notes[-1] == "davis: hold reaches kept tokens 0.700 to 0.900 on the mean, not 0.5"


def test_levels_move_to_where_the_methods_of_a_run_meet(make):
    rows = [make.quality_row(m, s, 0) for m in ("lit", "hold") for s in (0.26, 0.35, 0.49)]
    table = tables.matched(frame(rows), "shared")
    assert list(dict.fromkeys(table.texts["kept"])) == ["0.45", "0.4", "0.3"]
    (pair,) = findings.pairs(frame(rows), "shared")
    assert pair.level == 0.45


def test_methods_that_never_meet_are_told_so(make):
    rows = [make.quality_row("lit", s, 0) for s in (0.1, 0.2)] + [make.quality_row("hold", s, 0) for s in (0.7, 0.9)]
    (pair,) = findings.pairs(frame(rows), "shared")
    assert str(pair.at_rate) == "lit reaches kept tokens 0.100 to 0.200 on the mean, not 0.5"


def test_a_refused_delta_shows_the_overlap_in_its_place(make):
    rows = level(make, lit=27, hold=20, oracle=27.5)
    table = findings.comparison_table(findings.pairs(frame(rows), "shared"), "shared")
    cells = table.texts.set_index("against")["BD-rate (%)"]
    assert cells["hold"] == "refused (0%)"
    assert table.values["refused"].str.contains("at least 50% is needed").any()


def test_two_profiles_cannot_share_a_column(make):
    rows = [make.quality_row("lit", s, 0, profile="tokenbench/1") for s in (0.4, 0.6)]
    rows += [make.quality_row("hold", s, 0, profile="frame-mean/1") for s in (0.4, 0.6)]
    for build in (tables.matched, tables.swept):
        with pytest.raises(ReportError, match="metric profiles frame-mean/1 and tokenbench/1; a table or an axis"):
            build(frame(rows), "shared")
