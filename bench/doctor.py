"""What is installed, and which methods, tokenisers and data sets can run here: by really setting them up."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

from avtbench.bench import plugins
from avtbench.bench.errors import one_line
from avtbench.bench.openmp import WAITING
from avtbench.bench.plugins import Plugin


def versions() -> dict[str, str]:
    """Installed version of every dependency, extras included; ``absent`` with the command that brings it."""
    found = {"python": platform.python_version(), "avtbench": importlib.metadata.version("avtbench")}
    for line in importlib.metadata.requires("avtbench") or ():
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        extra = marker.partition("extra ==")[2].strip(" \"'")
        if extra in ("test", "dev") or name == "avtbench" or name in found:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = f"absent: pip install 'avtbench[{extra}]'" if extra else "absent: pip install avtbench"
    return found


def machine() -> dict[str, str]:
    """Cores, threads, cards and the settings that decide about speed."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": str(cores),
        "torch threads": str(torch.get_num_threads()),
        **{name: os.environ.get(name, f"not set, expected {value}") for name, value in WAITING.items()},
        "CUDA": ", ".join(cards) or "none",
    }


def examine(plugin: Plugin) -> str:
    """Why a plugin cannot run here as it stands, or an empty text."""
    if plugin.state != "ready":
        return plugin.reason
    try:
        cls = plugins.load(plugin)
        if plugin.kind != "dataset" or not _needs_knobs(cls):
            made = plugins.create(plugin.kind, plugin.name)
            if plugin.kind == "dataset":
                made.clips()
    except Exception as error:
        return one_line(error)
    return plugin.note()


def _needs_knobs(cls: type) -> bool:
    import inspect

    named = inspect.signature(cls).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in named)


def findings() -> Iterator[tuple[Plugin, str]]:
    """Every plugin with what keeps it from running."""
    for kind in plugins.KINDS:
        for plugin in plugins.find(kind):
            yield plugin, examine(plugin)


def print_report() -> None:
    """Print all of it as tables."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for title, facts in (("installed", versions()), ("machine", machine())):
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, value in facts.items():
            table.add_row(name, escape(value))
        console.print(table)
        console.print()
    table = Table(title="can run here", title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in ("kind", "name", "state", "reason"):
        table.add_column(column)
    for plugin, reason in findings():
        state = (
            "[green]ready[/]" if not reason else "[yellow]not here[/]" if plugin.state != "broken" else "[red]broken[/]"
        )
        table.add_row(plugin.kind, plugin.name, state, escape(reason))
    console.print(table)
