"""The page: one HTML file with everything inside, which opens from disk without a network and can be mailed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image
from plotly.offline import get_plotlyjs

from avtbench.bench.metrics.measures import MEASURES
from avtbench.reports.curves import Curve
from avtbench.reports.figures import AXIS_TEXT, Picture
from avtbench.reports.frame import QUALITIES, RATES
from avtbench.reports.palette import looks, order
from avtbench.reports.tables import breaks

PARTS = Path(__file__).parent / "page"
TONES = {"good": "ahead", "bad": "behind", "open": "open", "refused": "refused", "plain": ""}
MOST_FAILURES = 60
MOST_CLIPS = 5


def curve_data(panels: Mapping[str, Sequence[Curve]]) -> str:
    """JSON for the interactive plot: panel (data set, tier) -> curves -> points. Safe inside a script element."""
    shown = [curve for found in panels.values() for curve in found]
    look = looks((c.label for c in shown), (c.label for c in shown if c.bound))
    qualities = [q for q in QUALITIES if any(math.isfinite(p[q]) for c in shown for p in c.points)]

    def value(curve: Curve, at: int, quality: str) -> dict[str, Any] | None:
        point, measure = curve.points[at], MEASURES[quality]
        if not math.isfinite(point[quality]):
            return None
        mean = point.means[quality]
        text = f"{measure.label} {mean.text(measure.digits)} {measure.unit}".strip()
        return {"value": round(mean.value, 6), "text": text, "clips": mean.clips, "partial": mean.partial}

    data = {
        "panels": [
            {
                "label": name,
                "curves": [
                    {
                        "label": curve.label,
                        "level": curve.level,
                        "bound": curve.bound,
                        "setting": curve.setting_name or "setting",
                        "colour": look[curve.label].colour,
                        "dash": look[curve.label].plotly_dash,
                        "width": 1.5 if curve.bound else 3,
                        "marker": look[curve.label].plotly_marker,
                        "points": [
                            {"setting": f"{p.setting:g}", **{r: round(p[r], 6) for r in RATES}}
                            | {q: value(curve, at, q) for q in qualities}
                            for at, p in enumerate(curve.points)
                        ],
                    }
                    for curve in found
                ],
            }
            for name, found in panels.items()
        ],
        "qualities": [
            {"name": q, "label": MEASURES[q].label, "axis": f"{MEASURES[q].axis} {MEASURES[q].arrow}"}
            for q in qualities
        ],
        "rates": [{"name": r, "label": MEASURES[r].label, "axis": AXIS_TEXT[r]} for r in RATES],
        "widest": {r: max((p[r] for c in shown for p in c.points), default=1) for r in RATES},
    }
    return json.dumps(data).replace("<", "\\u003c")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def failures(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Points that did not finish, those with one reason on one line."""
    left = table[~table["done"]]
    why = left["reason"].str.replace(
        r"^\S+ at \S+: ", "", regex=True
    )  # what names the point stands in columns of its own
    lines = []
    for (status, dataset, pass_, reason), group in left.groupby(["status", "dataset", "pass", why], sort=False):
        clips = list(dict.fromkeys(group["clip"]))
        named = ", ".join(clips[:MOST_CLIPS]) + (
            f" and {len(clips) - MOST_CLIPS} more" if len(clips) > MOST_CLIPS else ""
        )
        lines.append(
            {
                "status": status.replace("_", " "),
                "dataset": dataset,
                "clip": named,
                "pass_": pass_,
                "reason": reason,
                "methods": ", ".join(sorted(set(group["label"]), key=order)),
                "points": len(group),
            }
        )
    return sorted(lines, key=lambda line: line["status"] == "skipped")


def method_lines(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per method: what it is and how many of its points finished."""
    look = looks(table["label"], table.loc[table["family"] == "bound", "label"])
    lines = []
    for label, mine in table[table["alias"] == ""].groupby("label", sort=False):
        first = mine.iloc[mine["done"].to_numpy().argmax()]
        settings = sorted(mine.loc[mine["done"] & mine["setting"].notna(), "setting"].unique())
        unset = first["setting_name"] in ("", "none")
        named = "" if unset else f"{first['setting_name']}: "
        count = mine["done"].groupby(mine["pass"]).agg(["sum", "size"])
        cell = {
            p: f"{count.loc[p, 'sum']} of {count.loc[p, 'size']}" if p in count.index else "–"
            for p in ("quality", "speed")
        }
        lines.append(
            {
                "label": str(label),
                "colour": look[str(label)].colour,
                "settings": "–" if unset else named + ", ".join(f"{s:g}" for s in settings),
                "failed": int((~mine["done"]).sum()),
                **{k: first[k] for k in ("family", "tier", "weights", "tokenizer")},
                **cell,
            }
        )
    return sorted(lines, key=lambda line: order(line["label"]))


def render(pictures: Mapping[str, Sequence[Picture]], **context: Any) -> str:
    """Fill the template; style, scripts, pictures and tables go inside."""
    loader = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
    )
    every = [p for group in pictures.values() for p in group]
    images = {p.stem: data_uri(p.png.read_bytes(), "image/png") for p in every}
    widths = {p.stem: Image.open(p.png).width // 2 for p in every}  # at 200 dpi, so about print size
    return loader.get_template("report.html.j2").render(
        pictures=pictures,
        images=images,
        widths=widths,
        words=TONES,
        breaks=breaks,
        css=(PARTS / "page.css").read_text(encoding="utf-8"),
        script=(PARTS / "curves.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs() if context.get("curves_json") else "",
        **context,
    )
