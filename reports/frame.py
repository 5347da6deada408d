"""Rows as a data frame: one line per point, with readable names and every measure as a column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.metrics.profiles import ProfileError, require_one
from avtbench.bench.rows import Row, Status
from avtbench.reports.errors import ReportError

QUALITIES = tuple(name for name in MEASURES if name in ("psnr", "ssim") or name.startswith("lpips"))
"""Measures that go on the vertical axis of a rate-distortion curve."""
RATES = ("kept_fraction", "bpp")
TIMES = ("encode_ms", "decode_ms", "total_ms")
POOLED = "all data sets"

_IDENTITY = ("key", "method", "alias", "family", "tier", "weights", "tokenizer", "clip", "setting", "setting_name")


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one line per row.

    Columns: the fields of the row that identify the point, ``label`` (method name, with what differs where a method
    was run in several variants), ``dataset`` (with the view where a data set was cut in several ways), ``cluster``
    (clips cut from one source share it, in whatever view), ``profile``, ``status``, ``done``, and one float column per
    measure (NaN where the row does not hold it, ``inf`` for the PSNR of a lossless clip).
    """
    variant, view = _variants(rows), _views(rows)
    lines = []
    for row in rows:
        dataset = view(row)
        done = row.status is Status.DONE
        values = {name: m.value(row) if done else None for name, m in MEASURES.items()}
        lines.append(
            {name: getattr(row, name) for name in _IDENTITY}
            | {
                "label": variant(row),
                "dataset": dataset,
                "cluster": f"{row.dataset}/{row.source or row.clip}",
                "pass": row.pass_,
                "status": row.status.value,
                "reason": row.reason,
                "done": done,
                "profile": row.quality.profile if row.quality else "",
                "scenario": row.timing.scenario if row.timing else "",
                "device": row.timing.device if row.timing else "",
                "dtype": row.timing.dtype if row.timing else "",
                "launch": row.timing.launch if row.timing else -1,
                "row": row,
            }
            | {name: math.nan if value is None else float(value) for name, value in values.items()}
        )
    columns = [*_IDENTITY, "label", "dataset", "cluster", "pass", "status", "reason", "done", "profile"]
    columns += ["scenario", "device", "dtype", "launch", "row", *MEASURES]
    table = pd.DataFrame(lines, columns=columns)
    table["setting"] = table["setting"].astype(float)
    return _with_rates(table)


def _with_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Give a speed point the rate that the quality pass counted for the same method, setting and clip."""
    where = ["label", "setting", "dataset", "clip"]
    counted = table[(table["pass"] == "quality") & table["done"]].drop_duplicates(where)
    for rate in RATES:
        known = table[where].merge(counted[[*where, rate]], on=where, how="left")[rate].to_numpy()
        table[rate] = table[rate].where(table[rate].notna() | (table["pass"] == "quality"), known)
    return table


def quality_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished points of the quality pass: never random weights, one metric profile only.

    Raises :class:`ReportError` where two profiles meet.
    """
    points = table[(table["pass"] == "quality") & table["done"] & (table["weights"] != "random")]
    if len(points):
        try:
            require_one(points["profile"])
        except ProfileError as error:
            raise ReportError(str(error)) from None
    return points.drop_duplicates(["label", "setting", "dataset", "clip"])


def speed_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished points of the speed pass that hold a sample, one line per launch, one name per A/A pair."""
    timed = table[(table["pass"] == "speed") & table["done"]]
    timed = timed[np.array([bool(row.timing.encode_side) for row in timed["row"]], dtype=bool)]
    first = timed.groupby("label")["alias"].transform("min")
    return timed[timed["alias"] == first]


def clips_of(table: pd.DataFrame, dataset: str) -> int:
    """Count the clips that the quality pass, else the speed pass, was asked for, finished or not; ``POOLED`` adds all
    data sets up."""
    asked = of_dataset(table, dataset)
    if (asked["pass"] == "quality").any():
        asked = asked[asked["pass"] == "quality"]
    return int(asked.loc[asked["clip"] != "", ["dataset", "clip"]].drop_duplicates().shape[0])


def of_dataset(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return table if dataset == POOLED else table[table["dataset"] == dataset]


def views_of_one(points: pd.DataFrame) -> list[str]:
    """Return the names of data sets that are views of one: they hold the same clips, which no mean may count twice."""
    names = points["dataset"].groupby(points["row"].map(lambda row: row.dataset), sort=False).unique()
    return [str(name) for views in names if len(views) > 1 for name in views]


def datasets_in(points: pd.DataFrame) -> list[str]:
    """Return the data sets in order of appearance, with ``POOLED`` at the end where there are several, none of them a
    view of another."""
    names = list(dict.fromkeys(points["dataset"]))
    return [*names, POOLED] if len(names) > 1 and not views_of_one(points) else names


def nearest_setting(mine: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """Return the lines of one method at its setting whose mean kept fraction is closest to ``share``, or at its middle
    one where no fraction is known."""
    shares = mine.groupby("setting", dropna=False)["kept_fraction"].mean()
    if shares.empty:
        return mine
    chosen = (shares - share).abs().idxmin() if shares.notna().any() else shares.index[len(shares) // 2]
    return mine[mine["setting"].isna() if pd.isna(chosen) else mine["setting"] == chosen]


def flat(record: Any, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Nested mappings as ``key.key`` -> text, or None where nothing is known."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(record, (list, tuple)):
        yield prefix, ", ".join(map(str, record))
    else:
        yield prefix, None if record is None else str(record)


def _variants(rows: Sequence[Row]) -> Any:
    """Return row -> label; where a method ran in several variants, the fewest differing parameters tell them apart."""

    def traits(row: Row) -> dict[str, str]:
        return {"tokenizer": row.tokenizer, **{k: str(v) for k, v in flat(row.parameters)}, "weights": row.weights}

    seen: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row.status is Status.DONE and (found := traits(row)) not in seen.setdefault(row.method, []):
            seen[row.method].append(found)
    telling: dict[str, list[str]] = {}
    for method, kinds in seen.items():
        keys = sorted({k for kind in kinds for k in kind}, key=lambda k: (_is_digest(k), k != "tokenizer", k))
        chosen: list[str] = []
        for key in keys:
            if len({tuple(kind.get(k) for k in chosen) for kind in kinds}) == len(kinds):
                break
            if len({tuple(kind.get(k) for k in [*chosen, key]) for kind in kinds}) > len(
                {tuple(kind.get(k) for k in chosen) for kind in kinds}
            ):
                chosen.append(key)
        telling[method] = chosen

    def label(row: Row) -> str:
        found = traits(row) if row.status is Status.DONE else {}
        parts = [f"{k.rpartition('.')[2]}={found[k][:24]}" for k in telling.get(row.method, ()) if found.get(k)]
        return f"{row.method} ({', '.join(parts)})" if parts else row.method

    return label


def _is_digest(key: str) -> bool:
    return any(word in key.lower() for word in ("digest", "sha", "hash"))


def _views(rows: Sequence[Row]) -> Any:
    """Return row -> data set name, with the view's differing fields where one data set was cut in several ways."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.view and row.view not in seen.setdefault(row.dataset, []):
            seen[row.dataset].append(row.view)

    def name(row: Row) -> str:
        views = seen.get(row.dataset, [])
        if len(views) < 2 or not row.view:
            return row.dataset
        differing = [k for k in row.view if len({str(v.get(k)) for v in views}) > 1]
        return f"{row.dataset} ({', '.join(f'{k}={row.view[k]}' for k in differing)})"

    return name


def outcomes(table: pd.DataFrame) -> Counter[str]:
    """Count rows by status."""
    return Counter(table["status"])
