"""``avtbench fetch``: published data sets and weights for those who have the internet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def fetch(
    name: Annotated[str, typer.Argument(help="What to fetch; nothing lists all there is.", show_default=False)] = "",
    to: Annotated[
        Path | None, typer.Option(help="Folder; default below $AVTBENCH_DATA or data, or weights.", show_default=False)
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the licence it shows.")
    ] = False,
    mirror: Annotated[
        str | None, typer.Option(help="Address that stands in for the owner's, e.g. https://host.", show_default=False)
    ] = None,
) -> None:
    """Fetch a published data set or weights: licence first, verified, resumed where it broke off."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from avtbench.bench import fetch as fetching

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not name:
        return _list(console)
    fetching.entry(name)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    tasks = {}

    def show(file: str, there: int, due: int | None) -> None:
        if file not in tasks:
            bar.start()
            tasks[file] = bar.add_task(file, total=due)
        bar.update(tasks[file], completed=there, total=due)
        if there == due:
            bar.remove_task(tasks.pop(file))

    ask = accept_licence or (sys.stdin.isatty() and (lambda: typer.confirm("Do you accept it?")))
    try:
        fetching.fetch(name, to, ask, mirror, say=console.print, progress=show)
    finally:
        bar.stop()


def _list(console) -> None:  # type: ignore[no-untyped-def]
    from rich.table import Table

    from avtbench.bench.fetch import catalogue

    table = Table("name", "kind", "what it is", "licence", box=None, pad_edge=False)
    for one in catalogue().values():
        table.add_row(one.name, one.kind, one.summary, one.licence)
    console.print(table)
    console.print("fetch one: avtbench fetch NAME")
