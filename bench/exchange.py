"""Rows as files: a table to look at, to compute on, and to put into a store again, here or on another machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from avtbench.bench.errors import UserError
from avtbench.bench.rows import ROW_SCHEMA, Quality, Rate, Row, Status, Timing
from avtbench.bench.spec import Levels

if TYPE_CHECKING:
    import pandas

    from avtbench.bench.store import Store

NESTED: Mapping[str, type[BaseModel]] = {"rate": Rate, "quality": Quality, "timing": Timing}
SUFFIXES = (".csv", ".parquet")
MACHINES = TypeAdapter(dict[str, dict[str, dict[str, Any]]])
LEVELS = TypeAdapter(Levels)


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
    require_suffix(path)
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


def require_suffix(path: Path) -> None:
    """Raise :class:`UserError` for a file that rows cannot be written as."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--to {path}: found {path.suffix or 'no suffix'}, expected .csv or .parquet")


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
    rows = [_row(line, f"{path}: row {place}") for place, line in enumerate(table.to_dict("records"), 1)]
    first: dict[str, int] = {}
    for place, row in enumerate(rows, 1):
        if (known := first.setdefault(row.key, place)) != place:
            raise UserError(f"{path}: rows {known} and {place} have one key, {row.key}; take one of them out")
    return rows


def _row(line: Mapping[Any, Any], where: str) -> Row:
    if str(line["row_schema"]) not in (f"{ROW_SCHEMA}", f"{ROW_SCHEMA}.0"):  # as parquet and spreadsheets have it
        found = line["row_schema"] or "none"
        raise UserError(f"{where} has schema {found}, expected {ROW_SCHEMA}; export it with this version")
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


@dataclass(frozen=True)
class Exported:
    """Rows of a file with the machines and the levels beside it."""

    name: str
    file: Path
    rows: list[Row]
    machines: Mapping[str, Mapping[str, Any]]
    levels: Levels


def exported(path: Path) -> Exported:
    """What ``avtbench export`` left at ``path``: a file, or a folder with ``rows.csv`` or ``rows.parquet``.

    Raises :class:`UserError` where anything of it is not as it was written.
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a file written by avtbench export, or a folder with rows.csv in it"
        )
    files = [path / f"rows{suffix}" for suffix in SUFFIXES] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(
            f"{path} does not hold rows; expected {' or '.join(f.name for f in files)} from avtbench export"
        )
    rows = read(file)
    if not rows:
        raise UserError(f"{file} holds no row; nothing was imported")
    name = (path.name or path.resolve().name) if path.is_dir() else path.stem
    return Exported(name, file, rows, _beside(machines_of(file), MACHINES, {}), _beside(levels_of(file), LEVELS, []))


def bring(store: Store, found: Exported, name: str = "") -> tuple[str, int, int]:
    """Put exported rows into ``store`` as a run of their own; returns its id, how many rows, and how many were new.

    A point that the store has finished stays as it is; one timed in another sitting is another point, because samples
    are pairs only within theirs. name: of the run; the folder's, or else the file's.
    """
    name = name or found.name
    for digest, record in found.machines.items():
        store.put_environment(digest, record)
    spec: dict[str, Any] = {"summary": f"imported from {found.file.parent.name}/{found.file.name}"}
    if found.levels:
        spec["speed"] = {"levels": found.levels}
    known = store.finished()
    sittings = store.sittings()
    rows = [_apart(row, sittings) for row in found.rows]
    run = f"{name}-{sha256(''.join(sorted(row.key for row in rows)).encode()).hexdigest()[:6]}"
    store.begin(run, name, spec, [row.key for row in rows])
    for row in rows:
        if row.key in known:
            store.link(run, row.key, row.key)
        else:
            store.put(run, row.key, row)
    return run, len(rows), sum(row.key not in known for row in rows)


def _beside(file: Path, kind: TypeAdapter[Any], absent: Any) -> Any:
    """What a file beside the rows holds."""
    if not file.is_file():
        return absent
    try:
        return kind.validate_python(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        said = f"{place}: found {repr(first['input'])[:60]}, {first['msg'].replace('Input should be', 'expected')}"
    except ValueError as error:
        said = f"is not JSON ({error})"
    raise UserError(f"{file}: {said}; export the rows again, or take the file away")


def _apart(row: Row, sittings: Mapping[str, str]) -> Row:
    """The row under a key of its own where the store holds its point from another sitting."""
    from avtbench.bench import identity

    if row.timing is None or sittings.get(row.key, row.timing.sitting) == row.timing.sitting:
        return row
    return row.model_copy(update={"key": identity.digest(row.key, row.timing.sitting)})
