"""Rows as files: a table to look at, to compute on, and to put into a store again, here or on another machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from avtbench.bench.errors import UserError
from avtbench.bench.rows import ROW_SCHEMA, Quality, Rate, Row, Status, Timing

if TYPE_CHECKING:
    import pandas

    from avtbench.bench.store import Store

NESTED: Mapping[str, type[BaseModel]] = {"rate": Rate, "quality": Quality, "timing": Timing}
SUFFIXES = (".csv", ".parquet")


def frame(rows: Iterable[Row]) -> pandas.DataFrame:
    """Rows as a table: plain fields, every measure and, where samples are lists, their JSON text.

    Raises :class:`~avtbench.bench.metrics.profiles.ProfileError` where rows of two metric profiles would share
    its columns.
    """
    import pandas

    from avtbench.bench.metrics.measures import MEASURES
    from avtbench.bench.metrics.profiles import require_one

    rows = list(rows)
    profiles = {row.quality.profile for row in rows if row.quality}
    if profiles:
        require_one(profiles)
    records = []
    for row in rows:
        flat = row.model_dump(mode="json", exclude={*NESTED})
        record = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in flat.items()}
        record["setting"] = row.setting
        done = row.status is Status.DONE
        record |= {name: measure.value(row) if done else None for name, measure in MEASURES.items()}
        for part in NESTED:
            value = getattr(row, part)
            fields = value.model_dump(mode="json") if value is not None else {}
            record |= {f"{part}.{k}": json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in fields.items()}
        records.append(record)
    return pandas.DataFrame.from_records(records).rename(columns={"pass_": "pass"})


def write(
    rows: Iterable[Row],
    machines: Mapping[str, Mapping[str, Any]],
    path: Path,
    levels: Sequence[tuple[str, Mapping[str, float]]] = (),
) -> int:
    """Write rows as ``.csv`` or ``.parquet``, beside them their environment records and, of a run that was matched, its
    levels with the setting of each method; returns how many rows.

    Raises :class:`UserError` for any other suffix, and where nothing can be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--to {path}: found {path.suffix or 'no suffix'}, expected .csv or .parquet")
    table = frame(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
        text = json.dumps(machines, indent=1, sort_keys=True) + "\n"
        machines_of(path).write_text(text, encoding="utf-8")
        levels_of(path).unlink(missing_ok=True)
        if levels:
            levels_of(path).write_text(json.dumps(levels, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--to {path}: cannot be written ({error.strerror}); give a writable path") from None
    return len(table)


def machines_of(path: Path) -> Path:
    """The file beside exported rows with the machines they were measured on, by digest: ``rows.environment.json``."""
    return path.with_suffix(".environment.json")


def levels_of(path: Path) -> Path:
    """The file beside exported rows with the levels that a run was matched at: ``rows.levels.json``."""
    return path.with_suffix(".levels.json")


def read(path: Path) -> list[Row]:
    """Rows that :func:`write` wrote. Derived columns are not read: they follow from the raw ones.

    Raises :class:`UserError` for a file that cannot be read, is no such table, or is of another version.
    """
    import pandas

    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file ending in .csv or .parquet, written by avtbench export")
    try:
        if path.suffix == ".csv":
            table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        else:
            table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    if missing := {"key", "status", "pass", "row_schema"} - set(table.columns):
        raise UserError(f"{path}: has no column {min(missing)}, expected a table written by avtbench export")
    return [_row(line, f"{path}: row {place}") for place, line in enumerate(table.to_dict("records"), 1)]


def _row(line: Mapping[Any, Any], where: str) -> Row:
    if int(float(line["row_schema"])) != ROW_SCHEMA:
        raise UserError(f"{where} has schema {line['row_schema']}, expected {ROW_SCHEMA}; export it with this version")
    given = _fields(Row, {**line, "pass_": line["pass"]}, "")
    given |= {part: found for part, model in NESTED.items() if (found := _fields(model, line, f"{part}."))}
    try:
        return Row.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where} is not valid, {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}") from None


def _fields(model: type[BaseModel], line: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What a line says of a model's fields; an empty cell says nothing."""
    found = {}
    for name, field in model.model_fields.items():
        value = line.get(prefix + name)
        if value is None or value == "" or value != value:  # the last: NaN
            continue
        nested = isinstance(value, str) and field.annotation is not str and value[0] in "[{"
        found[name] = _parsed(value) if nested else value
    return found


def _parsed(text: str) -> Any:
    """Lists and dictionaries; what is neither stays text, and the row's own check says what was expected."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def bring(store: Store, path: Path, name: str = "") -> tuple[str, int, int]:
    """Put exported rows into ``store`` as a run of their own; returns its id, how many rows, and how many were new.

    path: the file, or a folder with ``rows.csv`` or ``rows.parquet``; the machines and the levels beside it come along.
    A point that the store has finished stays as it is; one timed in another sitting is another point, because samples
    are pairs only within theirs. name: of the run; the folder's, or else the file's.
    """
    files = [path / f"rows{suffix}" for suffix in SUFFIXES] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(
            f"{path} does not hold rows; expected {' or '.join(f.name for f in files)} from avtbench export"
        )
    rows = read(file)
    if not rows:
        raise UserError(f"{file} holds no row; nothing was imported")
    name = name or (path.name if path.is_dir() else path.stem)
    for digest, record in _beside(machines_of(file), {}).items():
        store.put_environment(digest, record)
    spec: dict[str, Any] = {"summary": f"imported from {file}"}
    if levels := _beside(levels_of(file), []):
        spec["speed"] = {"levels": levels}
    known = store.finished()
    sittings = store.sittings()
    rows = [_apart(row, sittings) for row in rows]
    run = f"{name}-{sha256(''.join(sorted(row.key for row in rows)).encode()).hexdigest()[:6]}"
    store.begin(run, name, spec, [row.key for row in rows])
    for row in rows:
        if row.key in known:
            store.link(run, row.key, row.key)
        else:
            store.put(run, row.key, row)
    return run, len(rows), sum(row.key not in known for row in rows)


def _beside(file: Path, absent: Any) -> Any:
    """What a file beside the rows holds."""
    if not file.is_file():
        return absent
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: is not JSON ({error}); export the rows again, or take the file away") from None


def _apart(row: Row, sittings: Mapping[str, str]) -> Row:
    """The row under a key of its own where the store holds its point from another sitting."""
    from avtbench.bench import identity

    if row.timing is None or sittings.get(row.key, row.timing.sitting) == row.timing.sitting:
        return row
    return row.model_copy(update={"key": identity.digest(row.key, row.timing.sitting)})
