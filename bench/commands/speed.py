"""``avtbench speed``: time methods against each other, at their own settings or at matched levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avtbench.bench import cli

if TYPE_CHECKING:
    from avtbench.bench.rows import Row
    from avtbench.bench.spec import RunSpec
    from avtbench.reports.ratios import Level


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
        int | None,
        typer.Option(min=1, help="Fresh processes per configuration; quote no less than 3.", show_default="preset's"),
    ] = None,
    match: Annotated[
        list[str],
        typer.Option("--match", help="Time at matched levels: kept=0.5, psnr=30, psnr.", show_default=False),
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for reports.")] = cli.RUNS,
    store: cli.OwnStoreOption = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder for rows, tables and environment of all runs of this name, pooled.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and estimated time, then stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Time again what is stored already.")] = False,
) -> None:
    """Time methods against each other, in spawned processes, interleaved."""
    from avtbench.bench import spec as specs
    from avtbench.bench.commands.speed_report import Shown
    from avtbench.bench.errors import UserError

    given = {"scenario": scenario, "budget": budget, "launches": launches, "match": list(match)}
    keys = {text.partition("=")[0] for text in set_}
    if double := next((key for key, value in given.items() if value and f"speed.{key}" in keys), None):
        raise UserError(f"--{double} is given a second time by --set speed.{double}; expected one of the two")
    sets = ["passes=[speed]", *(f"speed.{key}={_yaml(value)}" for key, value in given.items() if value), *set_]
    wanted = specs.override(specs.load(spec), method, dataset, sets, tokenizer, weights)
    if "speed" not in wanted.passes:
        raise UserError(
            f"passes: found {' and '.join(wanted.passes) or 'none'}, expected speed among them; use avtbench run for "
            "quality alone"
        )
    path = store or out / cli.STORE.name
    if wanted.speed.match:
        _require_levels(wanted.speed.match)
        _require_one_each(wanted)
    levels = _levels(wanted, out, path, dry_run) if wanted.speed.match else []
    if levels:
        wanted = _at(wanted, levels)
    cli._start(wanted, out, path, dry_run=dry_run, fresh=fresh, report=False, show=Shown(path, to))


def _yaml(value: object) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


CLOSER = 4
"""Times that settings are found, each on what the ones before reached: curves bend, and some step."""


def _levels(wanted: RunSpec, out: Path, path: Path, dry_run: bool) -> list[Level]:
    """Run the quality pass of the same clips, and again at the settings at which the methods meet on it."""
    from avtbench.bench.commands.speed_report import CURVES, REACHED
    from avtbench.reports import levels

    quality = wanted.model_copy(
        update={"name": CURVES.format(wanted.name), "passes": ["quality"], "lpips": [], "previews": 0}
    )
    known: list[Row] = []
    if dry_run:
        cli._start(quality, out, path, dry_run=True)
        return []
    cli._start(quality, out, path, report=False, show=known.extend)
    found, left_out = levels.find(known, wanted.speed.match)
    for _ in range(CLOSER):
        there = _at(quality, found).model_copy(update={"name": REACHED.format(wanted.name)})
        reached: list[Row] = []
        cli._start(there, out, path, report=False, show=reached.extend)
        known = list({row.key: row for row in [*known, *reached]}.values())
        missed = levels.missed(known, found)
        if not missed:
            break
        found = levels.closer(known, found, missed)
    found = levels.nearest(known, found)
    missed = levels.missed(known, found)
    for text, settings in found:
        print(f"at {text}: " + ", ".join(f"{name} {setting:g}" for name, setting in settings.items()))
    for line in left_out:
        print(f"left out {line}")
    for (text, name), mean in missed.items():
        print(f"missed at {text}: {name} reaches {mean:.4g}")
    return found


def _require_levels(match: Sequence[str]) -> None:
    """What names no level, or one that cannot be, is told before the sweep in which settings are found."""
    from avtbench.bench.errors import UserError
    from avtbench.reports.compare import ANCHORS, At

    for text in match:
        if text in ANCHORS:
            continue
        try:
            at = At.parse(text)
        except UserError as error:
            raise UserError(f"--match: {error}; NAME alone is the middle of what all reach") from None
        if at.measure == "kept_fraction" and not 0 < at.level <= 1:
            raise UserError(f"--match {text}: expected a share of the tokens above 0, and 1 at most")
        if at.measure == "bpp" and not at.level > 0:
            raise UserError(f"--match {text}: expected bits per pixel above 0")


def _require_one_each(wanted: RunSpec) -> None:
    """Levels are found by method: a second entry of one may only be its twin, which shows the noise floor."""
    from avtbench.bench.errors import UserError

    entries = [] if isinstance(wanted.methods, str) else wanted.methods
    plain = [(e.name, e.knobs, e.tokenizer) for e in entries if not e.alias]
    others = [e.label for e in entries if e.alias and (e.name, e.knobs, e.tokenizer) not in plain]
    if others:
        raise UserError(
            f"--match finds one setting for each method, and {', '.join(others)} is a variant under an alias; "
            "time variants at their own settings, or each in a run of its own"
        )


def _at(wanted: RunSpec, levels: Sequence[Level]) -> RunSpec:
    """The run at the settings found; methods that meet no level, and have no curve, keep their own."""
    from avtbench.bench.spec import MethodSpec, shared

    entries = [MethodSpec(name=p.name) for p in shared()] if isinstance(wanted.methods, str) else wanted.methods
    met = {name for _, settings in levels for name in settings}
    timed = []
    for entry in entries:
        settings = list(dict.fromkeys(s[entry.plain] for _, s in levels if entry.plain in s))
        timed.append(entry.model_copy(update={"settings": settings}) if entry.plain in met else entry)
    speed = wanted.speed.model_copy(update={"settings": None, "levels": list(levels)})
    return wanted.model_copy(update={"methods": timed, "speed": speed})
