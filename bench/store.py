"""The store: one SQLite file with every finished point, each written in one transaction.

A point is kept under its key, whatever run it was measured for; a run is a list of slots (places in its plan), each
linked to the point that fills it. So two runs share what they have in common, and changing a run forgets nothing.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from avtbench.bench.errors import UserError, did_you_mean
from avtbench.bench.rows import Preview, Row, Status

SCHEMA = 1
APPLICATION_ID = 0x61767462  # "avtb", so that other SQLite files are told apart

_TABLES = """
CREATE TABLE environments (digest TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, started TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE points (
    key TEXT PRIMARY KEY, status TEXT NOT NULL, pass TEXT NOT NULL, method TEXT NOT NULL, dataset TEXT NOT NULL,
    clip TEXT NOT NULL, setting REAL, pixels INTEGER NOT NULL, seconds REAL NOT NULL, row TEXT NOT NULL,
    stored TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX points_by_method ON points (method, pass, status);
CREATE TABLE slots (
    run TEXT NOT NULL REFERENCES runs (id), slot TEXT NOT NULL, place INTEGER NOT NULL,
    key TEXT REFERENCES points (key), PRIMARY KEY (run, slot)
) WITHOUT ROWID;
CREATE INDEX slots_by_key ON slots (key);
CREATE TABLE previews (
    key TEXT PRIMARY KEY REFERENCES points (key) ON DELETE CASCADE, frame INTEGER NOT NULL, original BLOB NOT NULL,
    reconstruction BLOB NOT NULL, keep BLOB NOT NULL
);
"""

FINISHED = (Status.DONE.value, Status.SKIPPED.value)
"""Outcomes that are not tried again."""


class StoreError(UserError):
    """The store cannot be opened, read or written."""


@dataclass(frozen=True)
class RunEntry:
    """One run as listed: how many places its plan has, and how they stand."""

    id: str
    name: str
    started: str
    spec: Mapping[str, Any]
    planned: int
    done: int
    failed: int


class Store:
    """``with Store(path) as store:``; ``create=False`` only opens what is there."""

    def __init__(self, path: Path | str, create: bool = True):
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(
                f"{self.path} is a folder; expected an SQLite file, such as {self.path / 'avtbench.sqlite'}"
            )
        if not create and not self.path.is_file():
            raise StoreError(
                f"{self.path} does not exist; expected a store written by: avtbench run --store {self.path}, or by: "
                f"avtbench import FILE --store {self.path}"
            )
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA foreign_keys = ON")
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from None

    def _open(self) -> None:
        tables = self._tables()  # before the marks, which another process may be writing in one transaction with them
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreError(f"{self.path} is an SQLite file of another program; give another path with --store")
        if schema > SCHEMA:
            raise StoreError(
                f"{self.path} has schema {schema}, expected at most {SCHEMA}; update avtbench or give another --store"
            )
        if tables and schema < SCHEMA:
            raise StoreError(
                f"{self.path} has schema {schema}, expected {SCHEMA}; move it away, or give another --store"
            )
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # locked: another process is opening the same new store and sets it
                raise
        self._db.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            with self._transaction():
                if self._tables():  # made by another process while this one waited for the lock
                    return
                for statement in filter(str.strip, _TABLES.split(";\n")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _tables(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _told(self, error: Exception) -> StoreError:
        said = error.strerror if isinstance(error, OSError) else str(error)
        if "not a database" in str(error) or "malformed" in str(error):
            return StoreError(f"{self.path} is not an avtbench store ({said}); give another path with --store")
        if isinstance(error, sqlite3.IntegrityError):
            return StoreError(f"{self.path} cannot hold this beside what it has ({said}); give another --store")
        return StoreError(f"{self.path} cannot be opened or written ({said}); give a writable path with --store")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._told(error) from None
            raise

    # writing

    def begin(self, run: str, name: str, spec: Mapping[str, Any], slots: Iterable[str]) -> None:
        """Open a run, or open it again: its plan becomes ``slots``; links of places that stay in it are kept."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO runs (id, name, spec) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET started = CURRENT_TIMESTAMP, spec = excluded.spec",
                (run, name, json.dumps(spec)),
            )
            linked = dict(self._db.execute("SELECT slot, key FROM slots WHERE run = ?", (run,)))
            self._db.execute("DELETE FROM slots WHERE run = ?", (run,))
            self._db.executemany(
                "INSERT INTO slots (run, slot, place, key) VALUES (?, ?, ?, ?)",
                ((run, slot, place, linked.get(slot)) for place, slot in enumerate(slots)),
            )

    def put(self, run: str, slot: str, row: Row, preview: Preview | None = None) -> None:
        """Store a finished point and link it, in one transaction; what failed at that place before is dropped.

        Raises :class:`StoreError` for a row that does not validate, such as a quality row without a metric profile.
        """
        text = row.model_dump_json(warnings=False)
        try:
            Row.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "row"
            raise StoreError(f"{row.key}: cannot be stored, {place}: {first['msg']}") from None
        with self._transaction():
            self._db.execute(
                "INSERT INTO points (key, status, pass, method, dataset, clip, setting, pixels, seconds, row) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET status = excluded.status, "
                "seconds = excluded.seconds, pixels = excluded.pixels, row = excluded.row, stored = CURRENT_TIMESTAMP",
                (row.key, row.status.value, row.pass_, row.method, row.dataset, row.clip, row.setting,
                 row.frames * row.height * row.width, row.seconds, text),
            )  # fmt: skip
            if preview is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO previews VALUES (?, ?, ?, ?, ?)",
                    (preview.key, preview.frame, preview.original, preview.reconstruction, preview.keep),
                )
            self._relink(run, slot, row.key)

    def link(self, run: str, slot: str, key: str) -> None:
        """Fill a place of a run with a point that is there already."""
        with self._transaction():
            self._relink(run, slot, key)

    def _relink(self, run: str, slot: str, key: str) -> None:
        old = self._db.execute("SELECT key FROM slots WHERE run = ? AND slot = ?", (run, slot)).fetchone()
        self._db.execute("UPDATE slots SET key = ? WHERE run = ? AND slot = ?", (key, run, slot))
        if old and old[0] and old[0] != key:
            self._db.execute(
                f"DELETE FROM points WHERE key = ? AND status NOT IN {FINISHED} AND key NOT IN "
                "(SELECT key FROM slots WHERE key IS NOT NULL)",
                old,
            )

    def put_environment(self, digest: str, record: Mapping[str, Any]) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO environments VALUES (?, ?)", (digest, json.dumps(record, default=str))
            )

    # reading

    def finished(self) -> set[str]:
        """Keys of points that need not run again."""
        return {key for (key,) in self._db.execute(f"SELECT key FROM points WHERE status IN {FINISHED}")}

    def sittings(self) -> dict[str, str]:
        """In which sitting each finished point of the speed pass was timed, by key."""
        query = (
            "SELECT key, coalesce(json_extract(row, '$.timing.sitting'), '') FROM points "
            f"WHERE pass = 'speed' AND status IN {FINISHED}"
        )
        return dict(self._db.execute(query))

    def previewed(self) -> set[str]:
        """Keys of points whose pictures are stored, or that have none to give."""
        query = "SELECT key FROM previews UNION SELECT key FROM points WHERE status = 'skipped'"
        return {key for (key,) in self._db.execute(query)}

    def filled(self, run: str) -> dict[str, tuple[str, str]]:
        """Slots of a run whose point is finished, with its key and the digest of its clip."""
        query = (
            "SELECT slot, key, json_extract(row, '$.clip_digest') FROM slots JOIN points USING (key) "
            f"WHERE run = ? AND status IN {FINISHED}"
        )
        return {slot: (key, digest) for slot, key, digest in self._db.execute(query, (run,))}

    def seconds(self) -> dict[tuple[str, str], float]:
        """Mean seconds per million pixels of finished points, by (method, pass)."""
        query = (
            "SELECT method, pass, sum(seconds) * 1e6 / sum(pixels) FROM points "
            "WHERE status = 'done' AND pixels > 0 GROUP BY method, pass"
        )
        return {(method, pass_): value for method, pass_, value in self._db.execute(query)}

    def runs(self) -> list[RunEntry]:
        """Every run, the latest started last."""
        query = (
            "SELECT runs.id, runs.name, runs.started, runs.spec, count(slot), "
            f"coalesce(sum(status IN {FINISHED}), 0), coalesce(sum(status NOT IN {FINISHED}), 0) FROM runs "
            "LEFT JOIN slots ON slots.run = runs.id LEFT JOIN points USING (key) "
            "GROUP BY runs.id ORDER BY runs.started, runs.rowid"
        )
        return [RunEntry(i, n, s, json.loads(spec), p, d, f) for i, n, s, spec, p, d, f in self._db.execute(query)]

    def find_run(self, given: str = "") -> RunEntry:
        """A run by its id, by its name (the latest of that name) or, with nothing given, the latest."""
        listed = self.runs()
        if not listed:
            raise StoreError(f"{self.path} holds no run; start one with: avtbench run --store {self.path}")
        matching = [r for r in listed if given in ("", r.id, r.name)]
        if not matching:
            known = {r.id for r in listed} | {r.name for r in listed}
            hint = did_you_mean(given, known, f"avtbench export --runs --store {self.path}")
            raise StoreError(f"{self.path} holds no run {given}; {hint}")
        return matching[-1]

    def rows(self, run: str) -> list[Row]:
        """The rows of a run in the order of its plan, failed ones included."""
        query = "SELECT row FROM slots JOIN points USING (key) WHERE run = ? ORDER BY place"
        return [Row.model_validate_json(text) for (text,) in self._db.execute(query, (run,))]

    def previews(self, run: str) -> list[Preview]:
        """Pictures of a run's points in the order of its plan."""
        query = "SELECT previews.* FROM slots JOIN previews USING (key) WHERE run = ? ORDER BY place"
        names = ("key", "frame", "original", "reconstruction", "keep")
        return [Preview(**dict(zip(names, found, strict=True))) for found in self._db.execute(query, (run,))]

    def environments(self, rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
        """The environment records that rows refer to, by digest."""
        wanted = {row.environment for row in rows}
        return {d: json.loads(record) for d, record in self._db.execute("SELECT * FROM environments") if d in wanted}
