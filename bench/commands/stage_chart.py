"""A picture in the terminal: where the time of a call goes, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from avtbench.bench.rows import StageCost, Timing
from avtbench.bench.timing.statistics import SIDES, Samples, cost, in_megabytes, in_thousands, in_words

BAR_WIDTH = 16
"""So that a tree of three levels fits a terminal of 80 columns."""


def stage_chart(timings: Sequence[Timing], title: str = "") -> Table:
    """A tree of stages with bars: median time over all launches, share, FLOPs, peak memory, network evaluations (NFE);
    below it the whole and its sides with their spread, and what stands outside the clock.

    timings: the launches of one point (or several clips, whose samples are pooled). Raises ValueError without samples.
    """
    total = Samples([s for t in timings for s in SIDES["end to end"](t)])
    table = Table(title=title or None, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("", width=BAR_WIDTH)
    for heading in ("time", "share", "FLOPs", "peak", "NFE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for path in dict.fromkeys(s.path for t in timings for s in t.stages):
        same = [s for t in timings for s in t.stages if s.path == path]
        seconds = float(np.median([x for s in same for x in s.seconds]))
        share = seconds / total.median if total.median else 0.0
        *parents, name = path.split("/")
        loose = name == "unattributed"
        if loose and share < 0.005:
            continue
        table.add_row(
            Text("  " * len(parents) + name, style="dim" if loose else ""),
            Bar(1.0, 0.0, min(share, 1.0), width=BAR_WIDTH, color="yellow" if loose else "cyan"),
            in_words(seconds),
            f"{share:.0%}",
            _flops(same),
            _peak(same),
            _evaluations(same),
        )
    peak = max((t.peak_bytes for t in timings if t.peak_bytes), default=None)
    table.add_section()
    memory = "" if peak is None else in_megabytes(peak)
    evaluations, flops = max(map(cost, timings), key=lambda counted: counted[1] or 0)
    whole = ("" if flops is None else in_thousands(flops), memory, "" if evaluations is None else str(evaluations))
    table.add_row("end to end", "", in_words(total.median), "100%", *whole)
    spreads = [f"{side} {Samples([s for t in timings for s in samples(t)])}" for side, samples in SIDES.items()]
    outside = {name: [s for t in timings for s in t.outside.get(name, [])] for t in timings for name in t.outside}
    apart = ", ".join(f"{name} {in_words(float(np.median(seconds)))}" for name, seconds in outside.items())
    table.caption = Text("\n".join([*spreads, *([f"outside the clock: {apart}"] if apart else [])]))
    return table


def _flops(stages: Sequence[StageCost]) -> str:
    counted = [s.flops for s in stages if s.flops]
    return in_thousands(float(np.median(counted))) if counted else ""


def _peak(stages: Sequence[StageCost]) -> str:
    known = [s.peak_bytes for s in stages if s.peak_bytes]
    return in_megabytes(max(known)) if known else ""


def _evaluations(stages: Sequence[StageCost]) -> str:
    counted = next((s.evaluations for s in stages if s.evaluations), {})
    return str(sum(counted.values())) if counted else ""
