"""The store keeps every finished point, whoever asked for it, and says no in one line."""

import sqlite3

import pytest
from pydantic import ValidationError

from avtbench.bench.rows import Preview, Quality, Row, Status
from avtbench.bench.store import SCHEMA, Store, StoreError


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "deep" / "store.sqlite") as opened:
        yield opened


def test_rows_come_back_as_they_were(store, row):
    store.begin("demo-1", "demo", {"seed": 0}, ["s1", "s2", "s3"])
    store.put_environment("e1", {"hardware": {"cores": 2}})
    second, first = row("k2", float("inf")), row("k1")
    store.put("demo-1", "s2", second)
    store.put("demo-1", "s1", first, Preview(key="k1", frame=3, original=b"o", reconstruction=b"r", keep=b"k"))

    assert store.rows("demo-1") == [first, second]  # in the order of the plan
    assert [p.frame for p in store.previews("demo-1")] == [3]
    assert store.environments([first]) == {"e1": {"hardware": {"cores": 2}}}
    assert store.finished() == {"k1", "k2"}
    assert store.filled("demo-1") == {"s1": ("k1", ""), "s2": ("k2", "")}
    assert store.seconds() == {("toy", "quality"): 2.0 * 1e6 / 200}
    entry = store.find_run("demo")
    assert (entry.id, entry.planned, entry.done, entry.failed) == ("demo-1", 3, 2, 0)


def test_two_runs_share_a_point(store, row):
    store.begin("a", "a", {}, ["s1"])
    store.put("a", "s1", row("k1"))
    store.begin("b", "b", {}, ["s1", "s2"])
    store.link("b", "s1", "k1")

    assert store.rows("a") == store.rows("b")


def test_a_plan_that_changed_keeps_what_is_still_in_it(store, row):
    store.begin("a", "a", {}, ["s1", "s2"])
    store.put("a", "s1", row("k1"))
    store.put("a", "s2", row("k2"))
    store.begin("a", "a", {}, ["s2", "s3"])

    assert [r.key for r in store.rows("a")] == ["k2"]
    assert store.finished() == {"k1", "k2"}  # nothing is forgotten


def test_a_failed_point_is_kept_until_it_is_tried_again(store, row):
    store.begin("a", "a", {}, ["s1"])
    store.put("a", "s1", row("bad", status=Status.FAILED))
    assert store.find_run().failed == 1
    assert store.finished() == set()

    store.put("a", "s1", row("good"))
    assert [r.key for r in store.rows("a")] == ["good"]
    assert store._db.execute("SELECT count(*) FROM points").fetchone() == (1,)


def test_the_same_key_again_replaces_the_row(store, row):
    store.begin("a", "a", {}, ["s1"])
    store.put("a", "s1", row("k", status=Status.OUT_OF_MEMORY))
    store.put("a", "s1", row("k"))

    assert [r.status for r in store.rows("a")] == [Status.DONE]


def test_a_transaction_that_breaks_leaves_nothing(store, row):
    store.begin("a", "a", {}, ["s1"])
    bad = Preview(key="another", frame=0, original=b"", reconstruction=b"", keep=b"")
    with pytest.raises(StoreError, match=r"cannot hold this beside what it has \(FOREIGN KEY .*; give another"):
        store.put("a", "s1", row("k1"), bad)

    assert store.rows("a") == []


def test_a_row_without_a_profile_cannot_be_stored(store, row):
    """Not by leaving it out, and not past the checks of the row either."""
    store.begin("a", "a", {}, ["s1"])
    whole = row("k1")
    with pytest.raises(ValidationError, match="a finished quality row needs quality and rate"):
        Row(**{**whole.model_dump(), "quality": None})
    bare = Quality.model_construct(**{**whole.quality.model_dump(), "profile": None})
    for missing, said in ((bare, "quality.profile: Input should be a valid string"), (None, "needs quality and rate")):
        with pytest.raises(StoreError, match=f"k1: cannot be stored, .*{said}"):
            store.put("a", "s1", whole.model_copy(update={"quality": missing}))
    assert store.rows("a") == []


def test_what_is_no_store_is_refused_in_one_line(tmp_path):
    text = tmp_path / "notes.sqlite"
    text.write_text("these are my notes, and quite long ones so that they fill a header of a hundred bytes " * 3)
    with pytest.raises(StoreError, match="is not an avtbench store"):
        Store(text)

    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(StoreError, match="SQLite file of another program"):
        Store(foreign)
    with pytest.raises(StoreError, match=r"does not exist; expected a store written by: avtbench run"):
        Store(tmp_path / "none.sqlite", create=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened or written"):
        Store(tmp_path / "file" / "store.sqlite")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"is a folder; expected an SQLite file, such as .*avtbench.sqlite"):
            Store(tmp_path, create)


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store._db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(StoreError, match=f"has schema {SCHEMA + 1}, expected at most {SCHEMA}; update avtbench"):
        Store(path)


def test_unknown_runs_get_a_hint(store):
    with pytest.raises(StoreError, match="holds no run; start one"):
        store.find_run()
    store.begin("demo-1", "demo", {}, [])
    with pytest.raises(StoreError, match="holds no run dmo; did you mean demo"):
        store.find_run("dmo")
    for number in range(2, 7):
        store.begin(f"demo-{number}", "demo", {}, [])
    with pytest.raises(StoreError, match=r"there is demo, demo-1, demo-2, demo-3, demo-4, demo-5, demo-6$"):
        store.find_run("zzz")
    for number in range(7, 30):
        store.begin(f"demo-{number}", "demo", {}, [])
    with pytest.raises(StoreError, match=r"there is demo, .*, demo-14, demo-15, … see avtbench export --runs --store "):
        store.find_run("zzz")


def test_many_may_open_a_new_store_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def open_and_look(number: int) -> list:
        with Store(tmp_path / f"{number // 8}.sqlite") as opened:
            return opened.runs()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_look, range(80))) == [[]] * 80
