"""What is said after a speed run, in the terminal and as files: charts, medians, speed-ups, overhead, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avtbench.bench.rows import Row
    from avtbench.bench.store import RunEntry, Store
    from avtbench.reports.ratios import Level
    from avtbench.reports.tables import Table


WARNINGS = "warnings.md"


UNBOUNDED = 10_000
"""Columns that no table fills."""
CURVES, REACHED = "{}-levels", "{}-reached"
"""Names of a matched run's quality runs: the sweep in which settings are found, and those tried since."""


class Shown:
    """Called with the rows of a run, the latest of the store; ``to`` is the folder to write to."""

    def __init__(self, store: Path, to: Path | None) -> None:
        self.store, self.to = store, to

    def __call__(self, rows: list[Row]) -> None:
        from avtbench.bench.store import Store

        with Store(self.store, create=False) as opened:
            run = opened.find_run()
            levels, counted = matched(opened, run)
            say(rows, counted, levels, opened.environments(rows))
            if self.to:
                named = [row for row in _of_name(opened, run.name) if row.pass_ == "speed"]
                machines = opened.environments([*named, *counted])
                for path in write(named, counted, levels, machines, self.to):
                    print(path)


def _of_name(store: Store, name: str) -> list[Row]:
    """Rows of every run of that name, each point once."""
    return list({row.key: row for run in store.runs() if run.name == name for row in store.rows(run.id)}.values())


def matched(store: Store, run: RunEntry) -> tuple[list[Level], list[Row]]:
    """Of a run that was matched: the levels of all runs of its name, and the quality rows that tell what was reached
    there, those of the metric profile that was used last; an imported run holds them itself.

    Each size and each set of clips has settings of its own, so that a level may stand there more than once. Levels
    found without one of this run's methods say nothing of it and are left out.
    """
    if not run.spec.get("speed", {}).get("levels"):
        return [], []
    methods = {row.method for row in store.rows(run.id)}
    found: list[Level] = []
    settings: set[tuple[str, float | None]] = set()
    for other in store.runs():
        levels = [(text, met) for text, met in other.spec.get("speed", {}).get("levels", [])]
        rows = store.rows(other.id) if other.name == run.name and levels else []
        if rows and methods <= {row.method for row in rows}:
            found += [level for level in levels if level not in found]
            settings |= {(row.method, row.setting) for row in rows}
    counted = {
        row.key: (row.quality.profile, row)
        for name in ("{}", CURVES, REACHED)
        for row in _of_name(store, name.format(run.name))
        if row.quality and (row.method, row.setting) in settings
    }
    reached = list(counted.values())
    return found, [row for profile, row in reached if profile == reached[-1][0]]


def say(
    rows: Sequence[Row],
    counted: Sequence[Row],
    levels: Sequence[Level],
    environments: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print a stage chart of every method at one setting, the tables in short, and the warnings in words."""
    from rich.console import Console

    from avtbench.bench import environment
    from avtbench.bench.commands.stage_chart import stage_chart
    from avtbench.bench.timing import statistics
    from avtbench.reports import findings, ratios
    from avtbench.reports.frame import frame

    console = Console(highlight=False)
    groups = ratios.timed([*rows, *counted])
    if not groups:
        console.print("no sample was taken; raise --budget")
        return
    for group in ratios.chosen(groups):
        timings = [row.timing for row in group.rows if row.timing]
        setting = "" if group.setting is None else f" at {group.setting:g}"
        console.print(stage_chart(timings, f"{group.name}{setting}"))
        if streamed := statistics.chunks(timings):
            console.print(str(streamed))
        console.print()
    for record in environments.values():
        console.print(f"machine: {environment.headline(record)}")
    for line in environment.across(environments):
        console.print(line)
    for table in (ratios.times(groups), *ratios.comparisons(groups, levels, ratios.floors(rows))):
        console.print()
        _print(console, table)
    warned = findings.speed_warnings(frame(list(rows)))
    if warned:
        console.print("\nwarnings")
    for text in warned:
        console.print(f"  {text}", markup=False)


def _print(console: Any, table: Table) -> None:
    """A table with what is the same in every line above it; line by line where it is wider than the terminal."""
    from rich.table import Table as Grid
    from rich.text import Text

    texts = table.texts.loc[:, [c for c in table.texts if (table.texts[c] != "").any()]]
    same = [c for c in texts if len(texts) > 1 and texts[c].nunique() == 1]
    shown = texts.drop(columns=same)
    console.print(table.caption, markup=False)
    if same:
        console.print("everywhere: " + "; ".join(f"{c} {texts[c].iloc[0]}" for c in same), markup=False)
    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for column in shown.columns:
        grid.add_column(str(column))
    for line in shown.itertuples(index=False):
        grid.add_row(*(Text(str(cell)) for cell in line))
    if console.measure(grid, options=console.options.update(width=UNBOUNDED)).maximum > console.width:
        grid = Grid.grid(padding=(0, 1))
        for record in shown.to_dict("records"):
            grid.add_row("-", Text("; ".join(f"{column} {cell}" for column, cell in record.items() if cell != "")))
    console.print(grid)
    for note in table.notes:
        console.print(note, markup=False)


def write(
    rows: Sequence[Row],
    counted: Sequence[Row],
    levels: Sequence[Level],
    environments: Mapping[str, Mapping[str, Any]],
    to: Path,
) -> list[Path]:
    """Write the rows, those that were counted among them, and their machines; the tables as CSV and Markdown, and what
    speaks against quoting them."""
    from avtbench.bench import exchange
    from avtbench.reports import findings, ratios, tables
    from avtbench.reports.frame import frame

    file = to / "rows.csv"
    exchange.write([*rows, *counted], environments, file, levels)
    written = [file, exchange.machines_of(file), *([exchange.levels_of(file)] if levels else [])]
    groups = ratios.timed([*rows, *counted])
    compared = ratios.comparisons(groups, levels, ratios.floors(rows))
    for table in [ratios.times(groups), *compared] if groups else []:
        table.values.to_csv(to / f"{table.name}.csv", index=False)
        (to / f"{table.name}.md").write_text(tables.to_markdown(table), encoding="utf-8")
        written += [to / f"{table.name}.csv", to / f"{table.name}.md"]
    warned = findings.speed_warnings(frame(list(rows)))
    (to / WARNINGS).write_text("".join(f"- {text}\n" for text in warned) or "None.\n", encoding="utf-8")
    return [*written, to / WARNINGS]
