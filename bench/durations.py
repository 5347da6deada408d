"""Durations as people write them: ``10m``, ``90s``, ``2h``, ``600``; and back."""

from __future__ import annotations

import re

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | float) -> float:
    """Seconds of ``90s``, ``10m``, ``1.5h`` or a plain number of seconds; ValueError in one line for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", str(text))
    if found is None:
        raise ValueError("expected a duration such as 10m, 90s or 600")
    return float(found[1]) * UNITS[found[2]]


def in_minutes(value: float) -> str:
    """``47 s``, ``2 min 05 s`` or ``1 h 30 min``."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
