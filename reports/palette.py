"""One look per method, the same in every figure of every report: colour-blind-safe colour, marker and line.

Colours are those of Okabe and Ito (2008, "Color Universal Design"); marker and line style tell methods apart without
any colour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#7A7A7A"

Dash = Literal["solid", "dashed", "dotted", "dashdot"]


@dataclass(frozen=True)
class Look:
    """``marker`` and ``dash`` in matplotlib's words; ``bound`` curves are drawn thin."""

    colour: str
    marker: str
    dash: Dash = "solid"
    bound: bool = False

    @property
    def width(self) -> float:
        return 1.1 if self.bound else 2.0

    @property
    def plotly_marker(self) -> str:
        return _PLOTLY_MARKERS[self.marker]

    @property
    def plotly_dash(self) -> str:
        return {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}[self.dash]


KNOWN: dict[str, Look] = {
    "full-rate": Look(BLACK, "d", "dashed", bound=True),
    "hold": Look(GREY, "v", "dashed", bound=True),
    "random": Look(GREY, "X", "dotted", bound=True),
    "oracle": Look(PURPLE, "*", "dashdot", bound=True),
    "lit": Look(BLUE, "o"),
    "elastictok-style": Look(VERMILLION, "s"),
    "infotok-style": Look(GREEN, "^"),
    "elastictok-cv": Look(VERMILLION, "D", "dashed"),
    "elastictok-fsq": Look(VERMILLION, "h", "dashdot"),
    "infotok": Look(GREEN, "P", "dashed"),
}
UPPER = frozenset({"full-rate", "oracle"})
"""Bounds that know more than a method may know: printed, never counted as best."""

_PLOTLY_MARKERS = {
    "d": "diamond-tall", "v": "triangle-down", "*": "star", "o": "circle", "s": "square", "^": "triangle-up",
    "D": "diamond", "P": "cross", "X": "x", "<": "triangle-left",
    ">": "triangle-right", "h": "hexagon", "p": "pentagon",
}  # fmt: skip
_FREE_COLOURS = (ORANGE, SKY, BLUE, GREEN, VERMILLION, PURPLE)
_FREE_MARKERS = ("D", "P", "<", ">", "p", "h", "v", "X")
_DASHES: tuple[Dash, ...] = ("solid", "dashed", "dashdot", "dotted")


def base_name(label: str) -> str:
    """Return the method's name of a label: ``lit (reference=previous)`` -> ``lit``."""
    return label.partition(" (")[0]


def look(method: str, bound: bool = False) -> Look:
    """Return the look of a method by name alone: from the table of known names, else from a stable hash of the name."""
    if method in KNOWN:
        return KNOWN[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    colour = _FREE_COLOURS[number % len(_FREE_COLOURS)]
    marker = _FREE_MARKERS[number // len(_FREE_COLOURS) % len(_FREE_MARKERS)]
    return Look(colour, marker, "dashed" if bound else "solid", bound)


def looks(labels: Iterable[str], bounds: Iterable[str] = ()) -> dict[str, Look]:
    """Return label -> look. Variants of one method share its colour; marker and line style tell them apart.

    ``bounds`` names the labels whose family is ``bound``. Two unknown names whose hashes meet are moved apart by
    marker.
    """
    thin = set(bounds)
    chosen: dict[str, Look] = {}
    for label in sorted(set(labels), key=order):
        wanted = look(base_name(label), label in thin)
        taken = {(seen.colour, seen.marker) for seen in chosen.values()}
        step = 0
        while (wanted.colour, wanted.marker) in taken and step < len(_FREE_MARKERS):
            wanted = replace(wanted, marker=_FREE_MARKERS[step], dash=_DASHES[(step + 1) % len(_DASHES)])
            step += 1
        chosen[label] = wanted
    return chosen


def order(label: str) -> tuple[int, str]:
    """Sort key: methods first (known ones in the table's order), bounds last."""
    names = [
        *(n for n, known in KNOWN.items() if not known.bound),
        "",
        *(n for n, known in KNOWN.items() if known.bound),
    ]
    base = base_name(label)
    return (names.index(base) if base in names else names.index(""), label)
