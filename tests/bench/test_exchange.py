"""Rows as files: what is exported comes back as it was, in any store."""

import json
from pathlib import Path

import pytest

from avtbench.bench import cli
from avtbench.bench.commands import speed_report
from avtbench.bench.errors import UserError
from avtbench.bench.exchange import bring, exported, frame, read, write
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

    run, rows, new = bring(store, exported(tmp_path / "theirs"))

    assert (rows, new) == (2, 1)
    assert store.find_run("theirs").id == run
    assert store.rows(run) == [own, row("k2")]
    assert store.environments([own]) == {"e1": {"hardware": {"cores": 2}}}
    assert bring(store, exported(tmp_path / "theirs" / "rows.csv"), "theirs") == (run, 2, 0), "once more adds nothing"


@pytest.mark.parametrize("folder", ["speed-shared", "speed-overhead"])
def test_an_imported_matched_run_gives_the_tables_that_it_gave_where_it_was_measured(folder, store, tmp_path):
    shown = MEASURED / folder
    run = store.find_run(bring(store, exported(shown))[0])
    levels, counted = speed_report.matched(store, run)
    rows = [row for row in store.rows(run.id) if row.pass_ == "speed"]
    speed_report.write(rows, counted, levels, store.environments([*rows, *counted]), tmp_path)
    for name in ("speed-ups.md", "speed-overhead.md", "speed-times.md", "warnings.md", "rows.levels.json"):
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
    assert store.find_run(bring(store, exported(tmp_path))[0]).spec["speed"] == {"levels": [["kept=0.5", {"toy": 0.5}]]}
    write([row("k1")], {}, tmp_path / "rows.csv")
    assert not (tmp_path / "rows.levels.json").exists()


def test_one_point_of_two_sittings_is_two_points(row, store, tmp_path):
    def timed(sitting, seconds):
        timing = Timing(
            scenario="latency", device="cpu", dtype="float32", launch=0, sitting=sitting, rounds=[0], warmup=[],
            encode_side=[seconds], decode_side=[0.0], stages=[], stop_reason="given", seed=0,
        )  # fmt: skip
        return row("k1").model_copy(update={"pass_": "speed", "rate": None, "quality": None, "timing": timing})

    for day, seconds in (("monday", 1.0), ("tuesday", 2.0)):
        write([timed(day, seconds)], {}, tmp_path / day / "rows.csv")
    runs = [bring(store, exported(tmp_path / day)) for day in ("monday", "tuesday", "monday", "tuesday")]
    assert [new for _, _, new in runs] == [1, 1, 0, 0]
    assert [store.rows(run)[0].timing.encode_side for run, _, _ in runs] == [[1.0], [2.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tokenbench/1", "psnr", r"rows.csv: row 1 is not valid, quality.profile: String should match"),
        ("[300, 300]", "[300, 300", r"rows.csv: row 1 is not valid, quality.frame_sse: "),
        (",no luck,1,", ",no luck,abc,", r"rows.csv: row 2 has schema abc, expected 1; export it with this version"),
        (",no luck,1,", ",no luck,,", r"rows.csv: row 2 has schema none, expected 1; export it with this version"),
        ("k2", "k1", r"rows.csv: rows 1 and 2 have one key, k1; take one of them out"),
        ("key", "kye", r"rows.csv: has no column key, expected a table written by avtbench export"),
    ],
)
def test_a_table_that_was_changed_by_hand_is_told_in_one_line(row, tmp_path, old, new, said):
    write([row("k1"), row("k2", status=Status.FAILED)], {}, tmp_path / "rows.csv")
    whole = (tmp_path / "rows.csv").read_text()
    assert old in whole
    (tmp_path / "rows.csv").write_text(whole.replace(old, new))
    with pytest.raises(UserError, match=said):
        exported(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.levels.json", "[", "is not JSON"),
        ("rows.levels.json", "[1, 2]", "0: found 1, expected a valid tuple"),
        ("rows.levels.json", '{"a": 1}', "all of it: found {'a': 1}, expected a valid list"),
        ("rows.levels.json", '[["kept=0.5", {"toy": "x"}]]', "0.1.toy: found 'x', expected a valid number"),
        ("rows.environment.json", "[1]", "all of it: found [1], expected a valid dictionary"),
        ("rows.environment.json", '{"e1": {"hardware": 2}}', "e1.hardware: found 2, expected a valid dictionary"),
    ],
)
def test_so_is_a_file_beside_it_and_no_empty_store_is_left_behind(row, tmp_path, capsys, name, content, said):
    write([row("k1")], {}, tmp_path / "rows.csv")
    (tmp_path / name).write_text(content)
    code = cli._main(["import", str(tmp_path), "--store", str(tmp_path / "new" / "store.sqlite")])
    told = capsys.readouterr().err
    assert (code, told.count("\n")) == (2, 1)
    assert f"{name}: {said}" in told
    assert told.endswith("; export the rows again, or take the file away\n")
    assert not (tmp_path / "new").exists()


def test_what_is_no_export_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"does not hold rows; expected rows.csv or rows.parquet from avtbench export"):
        exported(tmp_path)
    for absent in ("nowhere", "nowhere.csv"):
        with pytest.raises(UserError, match=rf"{absent} does not exist; expected a file written by avtbench export"):
            exported(tmp_path / absent)
    (tmp_path / "notes.txt").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"expected a file ending in .csv or .parquet"):
        exported(tmp_path / "notes.txt")
