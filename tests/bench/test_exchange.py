"""Rows as files: what is exported comes back as it was, in any store."""

import json
from pathlib import Path

import pytest

from avtbench.bench.commands import speed_report
from avtbench.bench.errors import UserError
from avtbench.bench.exchange import bring, frame, read, write
from avtbench.bench.metrics.profiles import ProfileError
from avtbench.bench.rows import Status, Timing
from avtbench.bench.store import Store

MEASURED = Path(__file__).parents[2] / "reports" / "measured"


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def test_two_profiles_never_share_a_column_of_the_exported_table(row):
    one = row("k1")
    other = row("k2").model_copy(update={"quality": one.quality.model_copy(update={"profile": "vidtok/1"})})
    assert len(frame([other])) == 1
    with pytest.raises(ProfileError, match="metric profiles tokenbench/1 and vidtok/1; a table or an axis holds one"):
        frame([one, other])


def test_a_table_for_pandas(row):
    table = frame([row("k1"), row("k2", float("inf")), row("k3", status=Status.FAILED)])

    assert list(table["setting"]) == [0.5, float("inf"), 0.5]
    assert table["psnr"][0] == pytest.approx(48.13, abs=0.01)
    assert table["kept_fraction"].tolist()[:2] == [0.25, 0.25]
    assert table["quality.frame_sse"][0] == "[300, 300]"
    assert table["psnr"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_back_as_they_were(row, tmp_path, suffix):
    rows = [row("k1"), row("k2", float("inf")), row("k3", status=Status.FAILED)]
    assert write(rows, {}, tmp_path / f"rows{suffix}") == 3
    assert read(tmp_path / f"rows{suffix}") == rows


@pytest.mark.parametrize("folder", ["published-size", "speed-shared"])
def test_the_measured_runs_of_the_project_are_read_in_full(tmp_path, folder):
    rows = read(MEASURED / folder / "rows.csv")
    assert any(row.timing and row.timing.encode_side for row in rows)
    write(rows, {}, tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv") == rows


def test_imported_rows_are_a_run_with_its_machines_and_change_nothing_that_is_there(row, store, tmp_path):
    store.begin("mine", "mine", {}, ["s1"])
    own = row("k1").model_copy(update={"seconds": 7.0})
    store.put("mine", "s1", own)
    write([row("k1"), row("k2")], {"e1": {"hardware": {"cores": 2}}}, tmp_path / "theirs" / "rows.csv")

    run, rows, new = bring(store, tmp_path / "theirs")

    assert (rows, new) == (2, 1)
    assert store.find_run("theirs").id == run
    assert store.rows(run) == [own, row("k2")]
    assert store.environments([own]) == {"e1": {"hardware": {"cores": 2}}}
    assert bring(store, tmp_path / "theirs" / "rows.csv", "theirs") == (run, 2, 0), "once more adds nothing"


@pytest.mark.parametrize("folder", ["speed-shared", "speed-overhead"])
def test_an_imported_matched_run_gives_the_tables_that_it_gave_where_it_was_measured(folder, store, tmp_path):
    shown = MEASURED / folder
    run = store.find_run(bring(store, shown)[0])
    levels, counted = speed_report.matched(store, run)
    rows = [row for row in store.rows(run.id) if row.pass_ == "speed"]
    speed_report.write(rows, counted, levels, store.environments([*rows, *counted]), tmp_path)
    for name in (
        "speed-ups.csv",
        "speed-ups.md",
        "speed-overhead.md",
        "speed-times.md",
        "warnings.md",
        "rows.levels.json",
    ):
        assert (tmp_path / name).read_text() == (shown / name).read_text(), name


def test_the_row_that_the_readme_shows_is_a_stored_one():
    """Every field there, lists as far as they are shown."""
    text = (MEASURED.parents[1] / "README.md").read_text()
    shown = json.loads(text.split("```json")[1].split("```")[0])
    (stored,) = (r for r in read(MEASURED / "taef2" / "davis" / "rows.csv") if r.key == shown["key"])

    def compare(here, there):
        for name, value in here.items():
            if isinstance(value, dict):
                compare(value, there[name])
            elif isinstance(value, list):
                assert value[-1] == "..."
                assert value[:-1] == pytest.approx(there[name][: len(value) - 1], abs=5e-5)
            else:
                assert value == there[name], name

    compare(shown, stored.model_dump(mode="json"))


def test_levels_are_those_of_the_rows_beside_them(row, store, tmp_path):
    levels = [("kept=0.5", {"toy": 0.5})]
    write([row("k1")], {}, tmp_path / "rows.csv", levels)
    assert store.find_run(bring(store, tmp_path)[0]).spec["speed"] == {"levels": [["kept=0.5", {"toy": 0.5}]]}
    write([row("k1")], {}, tmp_path / "rows.csv")
    assert not (tmp_path / "rows.levels.json").exists()
    (tmp_path / "rows.levels.json").write_text("[")
    with pytest.raises(UserError, match=r"rows.levels.json: is not JSON .* export the rows again"):
        bring(store, tmp_path)


def test_one_point_of_two_sittings_is_two_points(row, store, tmp_path):
    def timed(sitting, seconds):
        timing = Timing(
            scenario="latency", device="cpu", dtype="float32", launch=0, sitting=sitting, rounds=[0], warmup=[],
            encode_side=[seconds], decode_side=[0.0], stages=[], stop_reason="given", seed=0,
        )  # fmt: skip
        return row("k1").model_copy(update={"pass_": "speed", "rate": None, "quality": None, "timing": timing})

    for day, seconds in (("monday", 1.0), ("tuesday", 2.0)):
        write([timed(day, seconds)], {}, tmp_path / day / "rows.csv")
    runs = [bring(store, tmp_path / day) for day in ("monday", "tuesday", "monday", "tuesday")]
    assert [new for _, _, new in runs] == [1, 1, 0, 0]
    assert [store.rows(run)[0].timing.encode_side for run, _, _ in runs] == [[1.0], [2.0], [1.0], [2.0]]


def test_what_cannot_be_imported_is_told_in_one_line(row, store, tmp_path):
    with pytest.raises(UserError, match=r"does not hold rows; expected rows.csv or rows.parquet from avtbench export"):
        bring(store, tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column key, expected a table written by avtbench export"):
        bring(store, table)
    write([row("k1")], {}, table)
    whole = table.read_text()
    table.write_text(whole.replace("tokenbench/1", "psnr"))
    with pytest.raises(UserError, match=r"table.csv: row 1 is not valid, quality.profile: String should match"):
        bring(store, table)
    table.write_text(whole.replace("[300, 300]", "[300, 300"))
    with pytest.raises(UserError, match=r"table.csv: row 1 is not valid, quality.frame_sse: "):
        bring(store, table)
    (tmp_path / "notes.txt").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"expected a file ending in .csv or .parquet"):
        bring(store, tmp_path / "notes.txt")
    assert store.runs() == []
