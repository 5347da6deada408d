"""``avtbench speed``: time methods against each other and say in the terminal what the samples say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtbench.bench import cli

if TYPE_CHECKING:
    from avtbench.bench.rows import Row
    from avtbench.bench.spec import RunSpec
    from avtbench.reports.ratios import Level, Timed
    from avtbench.reports.tables import Table


def speed(
    spec: Annotated[str, typer.Argument(help="Preset (see avtbench ls) or a YAML file.")] = "speed",
    method: cli.MethodOption = [],  # noqa: B006
    dataset: cli.DatasetOption = [],  # noqa: B006
    tokenizer: cli.TokenizerOption = "",
    weights: cli.WeightsOption = [],  # noqa: B006
    set_: cli.SetOption = [],  # noqa: B006
    scenario: Annotated[str, typer.Option(help="latency, throughput, stream or cold.", show_default="preset's")] = "",
    budget: Annotated[str, typer.Option(help="For all of it: 10m, 90s, 600.", show_default="preset's")] = "",
    launches: Annotated[
        int, typer.Option(help="Fresh processes per configuration; quote no less than 3.", show_default="preset's")
    ] = 0,
    match: Annotated[
        list[str],
        typer.Option("--match", help="Time at matched levels: kept=0.5, psnr=30, psnr.", show_default=False),
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for reports.")] = cli.RUNS,
    store: cli.OwnStoreOption = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder for rows, tables and environment of all runs of this name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and estimated time, then stop.")] = False,
) -> None:
    """Time methods against each other, in spawned processes, interleaved."""
    from avtbench.bench import spec as specs

    given = {"scenario": scenario, "budget": budget, "launches": launches, "match": list(match)}
    sets = ["passes=[speed]", *(f"speed.{key}={_yaml(value)}" for key, value in given.items() if value), *set_]
    wanted = specs.override(specs.load(spec), method, dataset, sets, tokenizer, weights)
    path = store or out / cli.STORE.name
    levels, counted = _levels(wanted, out, path, dry_run) if wanted.speed.match else ([], [])
    if levels:
        wanted = _at(wanted, levels)
    show = Shown(path, to, levels, counted)
    cli._start(wanted, out, path, dry_run=dry_run, report=False, show=show)


def _yaml(value: object) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def _levels(wanted: RunSpec, out: Path, path: Path, dry_run: bool) -> tuple[list[Level], list[Row]]:
    """The quality pass of the same clips, and the settings at which the methods meet on it."""
    from avtbench.reports import levels

    quality = wanted.model_copy(
        update={"name": f"{wanted.name}-levels", "passes": ["quality"], "lpips": [], "previews": 0}
    )
    kept: list[Row] = []
    if dry_run:
        cli._start(quality, out, path, dry_run=True)
        return [], []
    cli._start(quality, out, path, report=False, show=kept.extend)
    found, left_out = levels.find(kept, wanted.speed.match)
    for text, settings in found:
        print(f"at {text}: " + ", ".join(f"{name} {setting:g}" for name, setting in settings.items()))
    for line in left_out:
        print(f"left out {line}")
    return found, kept


def _at(wanted: RunSpec, levels: Sequence[Level]) -> RunSpec:
    """The run at the settings found; methods that meet no level, and have no curve, keep their own."""
    from avtbench.bench.spec import MethodSpec, shared

    entries = [MethodSpec(name=p.name) for p in shared()] if isinstance(wanted.methods, str) else wanted.methods
    met = {name for _, settings in levels for name in settings}
    timed = []
    for entry in entries:
        settings = list(dict.fromkeys(s[entry.label] for _, s in levels if entry.label in s))
        timed.append(entry.model_copy(update={"settings": settings}) if entry.label in met else entry)
    return wanted.model_copy(update={"methods": timed, "speed": wanted.speed.model_copy(update={"settings": None})})


class Shown:
    """What is said after a run: charts, medians, speed-ups, overhead, warnings; and written, where asked for."""

    def __init__(self, store: Path, to: Path | None, levels: Sequence[Level], counted: Sequence[Row]) -> None:
        self.store, self.to, self.levels, self.counted = store, to, levels, counted

    def __call__(self, rows: list[Row]) -> None:
        from avtbench.bench.store import Store

        with Store(self.store, create=False) as opened:
            environments = opened.environments(rows)
            named = opened.find_run().name
            all_rows = _of_name(opened, named) if self.to else rows
            all_environments = opened.environments(all_rows)
        say(rows, self.counted, self.levels, environments)
        if self.to:
            for path in write(all_rows, self.counted, self.levels, all_environments, self.to):
                print(path)


def _of_name(store: Any, name: str) -> list[Row]:
    """Speed rows of every run of that name, each point once."""
    rows = {row.key: row for run in store.runs() if run.name == name for row in store.rows(run.id)}
    return [row for row in rows.values() if row.pass_ == "speed"]


def say(
    rows: Sequence[Row],
    counted: Sequence[Row],
    levels: Sequence[Level],
    environments: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print a stage chart of every method at one setting, the tables in short, and the warnings in words."""
    from rich.console import Console

    from avtbench.bench import environment, statistics
    from avtbench.bench.stage_chart import stage_chart
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
        console.print()
    for record in environments.values():
        console.print(f"machine: {environment.headline(record)}")
    for line in environment.across(environments):
        console.print(line)
    floor = statistics.noise_floor(list(rows))
    for table in (ratios.times(groups), ratios.speed_ups(groups, levels, floor), ratios.overhead(groups)):
        if len(table.texts):
            console.print()
            _print(console, table)
    warned = findings.speed_warnings(frame(list(rows)))
    if warned:
        console.print("\nwarnings")
    for text in warned:
        console.print(f"  {text}", markup=False)


def _print(console: Any, table: Table) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    shown = table.texts.loc[:, [c for c in table.texts if (table.texts[c] != "").any()]]
    grid = Grid(title=table.caption, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in shown.columns:
        grid.add_column(str(column), overflow="fold")
    for line in shown.itertuples(index=False):
        grid.add_row(*(Text(str(cell)) for cell in line))
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
    """Write ``rows.csv``, the tables as CSV and Markdown, and ``environment.json``."""
    from avtbench.bench import statistics
    from avtbench.bench.store import frame
    from avtbench.reports import ratios, tables

    to.mkdir(parents=True, exist_ok=True)
    frame(rows).to_csv(to / "rows.csv", index=False)
    (to / "environment.json").write_text(json.dumps(environments, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    groups: list[Timed] = ratios.timed([*rows, *counted])
    floor = statistics.noise_floor(list(rows))
    made = (ratios.times(groups), ratios.speed_ups(groups, levels, floor), ratios.overhead(groups))
    written = [to / "rows.csv", to / "environment.json"]
    for table in made:
        if len(table.texts):
            table.values.to_csv(to / f"{table.name}.csv", index=False)
            (to / f"{table.name}.md").write_text(tables.to_markdown(table), encoding="utf-8")
            written += [to / f"{table.name}.csv", to / f"{table.name}.md"]
    return written
