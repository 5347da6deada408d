"""Which stored rows a claim is about: fields by name, with the value or the values that each may have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from avtbench.bench.rows import Row

Selector = dict[str, Any]
"""Field of a row (``method``, ``timing.dtype``, ``parameters.window``) -> value or list of values."""


def select(rows: Iterable[Row], selector: Selector) -> list[Row]:
    """Rows of which every named field has the value, or one of the values, that the selector gives (no A/A twins)."""
    return [row for row in rows if not row.alias and all(_holds(row, k, v) for k, v in selector.items())]


def allows(wanted: Any, value: Any) -> bool:
    """Whether a field may have a value: it is the one wanted, or one of a list; floats to a millionth."""
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(
        math.isclose(value, option, rel_tol=1e-6)
        if isinstance(option, float) and isinstance(value, (int, float))
        else value == option
        for option in options
    )


def words(selector: Selector) -> str:
    """``method infotok, frames 33``: a selector as one reads it."""

    def text(value: Any) -> str:
        return " or ".join(str(v) for v in value) if isinstance(value, list) else str(value)

    return ", ".join(f"{k.removesuffix('_')} {text(v)}" for k, v in selector.items() if k != "pass_")


def _holds(row: Row, field: str, wanted: Any) -> bool:
    value: Any = row
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return allows(wanted, value)
