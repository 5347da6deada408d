"""The findings page from rows alone: every figure and table that it links is there, and its verdicts are the rows'."""

import json
import re
import subprocess
import sys

import pytest

from avtbench.bench import cli
from avtbench.bench.store import Store
from avtbench.reports import answers, figures, findings
from avtbench.reports.errors import ReportError
from avtbench.reports.findings_page import Source, write

METHODS = ("full-rate", "hold", "lit", "elastictok-style")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(findings, "BD_RESAMPLES", 5)
    monkeypatch.setattr(findings, "RESAMPLES", 50)
    monkeypatch.setattr(answers, "RESAMPLES", 50)
    monkeypatch.setitem(figures.STYLE, "savefig.dpi", 40)


@pytest.fixture
def rows(make):
    return [
        *make.sweep(METHODS, clips=8, dataset="davis", speed=False),
        *make.sweep(METHODS, clips=3, dataset="synthetic", speed=False),
    ]


def test_the_page_links_what_it_wrote(rows, tmp_path):
    out = tmp_path / "findings.md"
    found = write([Source("eval-1", {}, rows)], out, "avtbench findings eval")
    page = out.read_text()
    assert "Written by `avtbench findings eval` from" in page
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert {"measured/findings/embedded-rd.png", "measured/findings/embedded-fill.csv"} <= set(links)
    assert all((tmp_path / link).is_file() for link in links)
    assert "Clips: 8 davis, 3 synthetic" in page
    claims = [answer.claim for answer in found]
    assert "davis: at equal masks lit beats hold in PSNR at 25, 50 and 75 % kept." in claims
    assert "synthetic: at equal masks lit beats hold in PSNR at 25, 50 and 75 % kept." in claims
    for answer in found:
        assert f"- {answer.verdict.capitalize()}: {answer.claim}" in page  # in short
        assert str(answer) in page
    content = next(a for a in found if a.claim.startswith("Content drives"))
    assert "8 of 8 clips" in content.text  # procedural clips are not among them


def test_two_tokenisers_are_two_chapters(rows, tmp_path):
    other = [row.model_copy(update={"tokenizer": "taef2", "key": f"t{row.key}"}) for row in rows]
    write([Source("a", {}, rows), Source("b", {}, other)], tmp_path / "findings.md", "c")
    page = (tmp_path / "findings.md").read_text()
    assert page.count("### LIT against holding the last kept value") == 2
    assert "## Tokeniser `taef2`" in page
    assert (tmp_path / "measured/findings/taef2-rd.png").is_file()


def test_settings_that_not_every_clip_was_asked_for_are_left_out_and_named(make, rows, tmp_path):
    write([Source("a", {}, rows)], tmp_path / "findings.md", "c")
    before = (tmp_path / "measured/findings/embedded-results.csv").read_text()
    extra = [make.quality_row("lit", 0.42, clip, setting=0.58) for clip in range(2)]
    write([Source("a", {}, rows), Source("b", {}, extra)], tmp_path / "findings.md", "c")
    assert (tmp_path / "measured/findings/embedded-results.csv").read_text() == before
    assert (
        "Left out, run on fewer clips than their method's others: lit at 0.58."
        in (tmp_path / "findings.md").read_text()
    )


def test_data_sets_swept_at_other_settings_are_told_apart_and_never_pooled(make, tmp_path):
    davis = make.sweep(METHODS, clips=8, dataset="davis", speed=False)
    other = make.sweep(METHODS, clips=5, dataset="tokenbench", speed=False)
    moved = [r if r.setting is None else r.model_copy(update={"setting": r.setting + 0.01}) for r in other]
    found = write([Source("a", {}, [*davis, *moved])], tmp_path / "findings.md", "c")
    claims = [answer.claim for answer in found]
    for dataset in ("davis", "tokenbench"):
        assert f"{dataset}: at equal masks lit beats hold in PSNR at 25, 50 and 75 % kept." in claims
    page = (tmp_path / "findings.md").read_text()
    assert "all data sets" not in page
    assert '"Content and rate" and "Bounds" speak of davis alone' in page
    assert "Left out" not in page
    assert (tmp_path / "measured/findings/embedded-results-tokenbench.csv").is_file()


def test_two_views_of_one_data_set_are_told_apart_and_never_pooled(make, tmp_path):
    rows = [
        row.model_copy(update={"view": {"size": size}, "width": size, "key": f"{size}{row.key}"})
        for size in (128, 256)
        for row in make.sweep(METHODS, clips=6, dataset="davis", speed=False)
    ]
    found = write([Source("a", {}, rows)], tmp_path / "findings.md", "c")
    assert "davis (size=256): at equal masks lit beats hold in PSNR at 25, 50 and 75 % kept." in [
        a.claim for a in found
    ]
    page = (tmp_path / "findings.md").read_text()
    assert "all data sets" not in page
    assert "speak of davis (size=128) alone: davis (size=128) and davis (size=256) hold the same clips." in page
    assert "6 of 6 clips" in next(a for a in found if a.claim.startswith("Content drives")).text


def test_what_cannot_make_a_page_is_one_line(make, rows, tmp_path):
    with pytest.raises(ReportError, match="hold no rows of lit"):
        write([Source("a", {}, [row for row in rows if row.method != "lit"])], tmp_path / "f.md", "c")
    other = [
        row.model_copy(update={"key": f"o{row.key}", "parameters": {"lit_digest": "other"}, "setting": row.setting + 1})
        for row in rows
        if row.method == "lit"
    ]
    with pytest.raises(ReportError, match="hold 2 variants of lit on tokeniser embedded"):
        write([Source("a", {}, [*rows, *other])], tmp_path / "f.md", "c")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write([Source("a", {}, rows)], tmp_path / "file" / "f.md", "c")


def test_the_command_reads_runs_of_a_store(rows, tmp_path, capsys):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.begin("eval-1", "eval", {"methods": "shared"}, [row.key for row in rows])
        for row in rows:
            store.put("eval-1", row.key, row)
    code = cli._main(["findings", "eval", "--store", str(path), "--out", str(tmp_path / "findings.md")])
    assert code == 0
    assert re.search(r"findings\.md: .*\d+ holds", capsys.readouterr().out)
    page = (tmp_path / "findings.md").read_text()
    assert "Written by `avtbench findings eval --store s.sqlite`" in page
    assert str(tmp_path) not in page


def test_the_page_needs_no_torch():
    code = "import sys, avtbench.reports.findings_page; assert not {'torch', 'avtbench.methods'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- ablation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ablated(make, tmp_path):
    """A run of three variants: the default gains 0.4 dB over hold, depth 8 0.6 dB, the mask token alone loses 0.2."""
    spec = {"name": "ablation", "methods": [{"name": "hold", "knobs": {}}]}
    rows = [make.quality_row("hold", s, c, psnr=20 + 8 * s) for s in (0.2, 0.5, 0.8) for c in range(6)]
    for name, gain, config in (
        ("default", 0.4, {"depth": 4, "residual": True}),
        ("depth-8", 0.6, {"depth": 8, "residual": True}),
        ("mask-token", -0.2, {"depth": 4, "residual": False}),
    ):
        folder = tmp_path / "ablations" / name
        folder.mkdir(parents=True)
        card = {"config": config, "loss": "latent", "parameters": 1000 * config["depth"], "seconds": gain, "curve": []}
        (folder / "card.json").write_text(json.dumps(card))
        knobs = {"lit_weights": str(folder / "model.safetensors")}
        spec["methods"].append({"name": "lit", "alias": name, "knobs": knobs})
        rows += [
            make.quality_row("lit", s, c, psnr=20 + 8 * s + gain, parameters={**knobs, "reference": "last_kept"}, key=
                             f"{name}-{s}-{c}")
            for s in (0.2, 0.5, 0.8)
            for c in range(6)
        ]  # fmt: skip
    return Source("ablation-1", spec, rows)


def test_an_ablation_tells_what_differs_and_who_is_ahead(rows, ablated, tmp_path):
    found = write([Source("a", {}, rows)], tmp_path / "findings.md", "c", ablations=[ablated])
    page = (tmp_path / "measured/ablation/ablation-ablation-1.md").read_text()
    lines = {line.split("|")[2].strip(): line for line in page.splitlines() if line.startswith("| davis")}
    assert set(lines) == {"default", "depth-8", "mask-token"}
    assert "depth 8 (4)" in lines["depth-8"]
    assert "8,000" in lines["depth-8"]
    assert "residual False (True)" in lines["mask-token"]
    assert "+0.40 [+0.40, +0.40]" in lines["default"]
    assert "-0.20 [-0.20, -0.20]" in lines["mask-token"]
    told = {a.claim: a for a in found}
    better = told["At matched rate depth-8 is ahead of default in PSNR at 25, 50 and 75 % kept."]
    worse = told["At matched rate mask-token is ahead of default in PSNR at 25, 50 and 75 % kept."]
    assert (better.verdict, worse.verdict) == ("holds", "does not hold")
    assert str(worse) in (tmp_path / "findings.md").read_text()


def test_one_checkpoint_with_another_reference_is_a_variant_with_its_own_hold(make, ablated):
    from avtbench.reports.ablation import ablation

    knobs = {**ablated.spec["methods"][1]["knobs"], "reference": "previous"}
    spec = {**ablated.spec, "methods": [*ablated.spec["methods"], {"name": "lit", "alias": "previous", "knobs": knobs}]}
    rows = list(ablated.rows)
    for method, extra, psnr in (("hold", {}, 22), ("lit", {"lit_weights": knobs["lit_weights"]}, 23)):
        rows += [
            make.quality_row(method, s, c, psnr=psnr + 8 * s, parameters={**extra, "reference": "previous"}, key=
                             f"{method}-previous-{s}-{c}")
            for s in (0.2, 0.5, 0.8)
            for c in range(6)
        ]  # fmt: skip
    made = ablation(rows, spec)
    (line,) = made.table.values.loc[made.table.values["variant"] == "previous"].to_dict("records")
    assert line["differs"] == "reference previous (last_kept)"
    assert line["psnr_50_over_hold"] == pytest.approx(1.0, abs=1e-3)
    (default,) = made.table.values.loc[made.table.values["variant"] == "default"].to_dict("records")
    assert default["psnr_50_over_hold"] == pytest.approx(0.4, abs=1e-3)
    assert default["same_masks"] == default["points"] == 18


def test_a_run_without_variants_says_what_is_expected(rows, tmp_path):
    with pytest.raises(ReportError, match="0 lit entries with lit_weights, expected two or more"):
        write([Source("a", {}, rows)], tmp_path / "f.md", "c", ablations=[Source("b", {"name": "b"}, rows)])
