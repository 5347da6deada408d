"""The command line. Each command imports what it needs when it runs, so that help and ``ls`` answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtbench.bench import durations, openmp

if TYPE_CHECKING:
    from avtbench.bench.rows import Row
    from avtbench.bench.runner import Estimate, Event, Outcome, Plan
    from avtbench.bench.spec import RunSpec
    from avtbench.bench.store import Store

openmp.wait_briefly()  # torch is not imported yet
RUNS: Path = Path("runs")
STORE: Path = RUNS / "avtbench.sqlite"
FINDINGS: Path = RUNS / "findings.md"

app = typer.Typer(
    help="The benchmark for adaptive video tokenisers: rate, quality and cost of every way of dropping video tokens.",
    epilog="Start with: avtbench run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"avtbench {version('avtbench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, then stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


MethodOption = Annotated[
    list[str], typer.Option("--method", "-m", help="Name or path/to/file.py; repeat for several.", show_default=False)
]
DatasetOption = Annotated[
    list[str], typer.Option("--dataset", "-d", help="Name or path/to/file.py; repeat for several.", show_default=False)
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", "-s", help="key=value, e.g. view.size=64.", show_default=False),
]
TokenizerOption = Annotated[str, typer.Option(help="Frozen tokeniser of the run.", show_default=False)]
WeightsOption = Annotated[
    list[str],
    typer.Option("--weights", help="NAME=PATH of a checkpoint, or random (timing only).", show_default=False),
]
KnobOption = Annotated[
    list[str], typer.Option("--set", "-s", help="KNOB=value, or tokenizer.KNOB=value.", show_default=False)
]
StoreOption = Annotated[Path, typer.Option("--store", help="SQLite file with every result.")]
OwnStoreOption = Annotated[
    Path | None, typer.Option("--store", help="SQLite file with every result.", show_default="OUT/avtbench.sqlite")
]
RunArgument = Annotated[
    str, typer.Argument(help="Id or name of a run; the latest where none is given.", show_default=False)
]


def _escaped(text: str) -> str:
    """Text with brackets that rich does not take for markup."""
    return text.replace("[", "\\[")


MORE = "Measuring and comparing"


def _verb(
    example: str, panel: str | None = None, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command with an example, which stands in the list of commands as well."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        short = f"{(function.__doc__ or '').splitlines()[0]}\n[dim]{_escaped(example)}[/dim]"
        return app.command(name, epilog=f"Example: {example}", short_help=short, rich_help_panel=panel)(function)

    return register


class _PointsFailed(Exception):
    """Points of a run failed; the message is the one-line summary."""


def main() -> None:
    """Console entry: errors in one line, exit code 2 for what the user can mend, 1 for points that failed."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    try:
        return int(app(arguments, prog_name="avtbench", standalone_mode=False) or 0)
    except _PointsFailed as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("stopped; finished points are stored, the same command takes up from there", 130)
    except Exception as error:
        if os.environ.get("AVTBENCH_DEBUG") == "1":
            raise
        told = _usage(error)
        if told is not None:
            return _say(told, 2) if told else 2
        from avtbench.bench.errors import one_line

        if isinstance(error, ValueError) and type(error).__module__.startswith("avtbench."):
            return _say(" ".join(str(error).split()), 2)
        return _say(f"{one_line(error)} (AVTBENCH_DEBUG=1 shows where)", 1)


def _usage(error: Exception) -> str | None:
    """What the command-line parser complains about, in one line; None where it is not the parser that speaks."""
    if type(error).__name__ == "Abort":
        return "stopped"
    if not hasattr(error, "format_message"):
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    context = getattr(error, "ctx", None)
    return f"{error.format_message()} See: {context.command_path if context else 'avtbench'} --help"


def _say(text: str, code: int) -> int:
    print(f"avtbench: {text}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------------------------------------------------- ls


@_verb("avtbench ls lit")
def ls(
    name: Annotated[
        str, typer.Argument(help="Show one method, tokeniser or data set in full.", show_default=False)
    ] = "",
) -> None:
    """List methods, tokenisers, data sets and presets, broken ones with the reason."""
    from avtbench.bench import plugins

    if name:
        _describe(name)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    titles = {"method": "methods", "tokenizer": "tokenisers", "dataset": "data sets"}
    for kind, title in titles.items():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        table.add_column(kind, style="bold", no_wrap=True)
        if kind == "method":
            table.add_column("tier")
            table.add_column("setting")
        table.add_column("summary")
        for plugin in plugins.find(kind):
            note = plugin.note()
            color = "red" if plugin.state == "broken" else "yellow"
            text = f"{plugin.summary} [{color}]{_escaped(note)}[/]" if note else plugin.summary
            told = [str(plugin.literals.get("tier", "shared")), str(plugin.literals.get("setting_name", "threshold"))]
            table.add_row(plugin.name, *(told if kind == "method" else []), text.strip())
        console.print(table)
        console.print()
    table = Table(title="presets", title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("preset", style="bold", no_wrap=True)
    table.add_column("summary")
    for path in sorted((Path(__file__).parent / "presets").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(path.stem, first.removeprefix("summary:").strip())
    console.print(table)


def _describe(name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from avtbench.bench import plugins
    from avtbench.bench.errors import did_you_mean

    found = [p for kind in plugins.KINDS for p in plugins.find(kind) if p.name == name]
    if not found:
        known = {p.name for kind in plugins.KINDS for p in plugins.find(kind)}
        raise plugins.PluginError(f"nothing is called {name}; {did_you_mean(name, known, 'avtbench ls')}")
    for plugin in found:
        title = f"{plugin.kind} {plugin.name}"
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim")
        table.add_column()
        literals = plugin.literals
        unit = f" ({literals['setting_unit']})" if literals.get("setting_unit") else ""
        lines = {"summary": plugin.summary, "state": plugin.note() or plugin.state}
        if plugin.kind == "method":
            lines |= {
                "tier, family": f"{literals.get('tier', 'shared')}, {literals.get('family', 'threshold')}",
                "setting": f"{literals.get('setting_name', 'threshold')}{unit}",
                "default settings": ", ".join(f"{s:g}" for s in literals.get("default_settings", ())),
            }
        lines["knobs"] = "\n".join(f"{k}={v}" if v else f"{k} (must be given)" for k, v in plugin.knobs.items())
        lines |= {"file": str(plugin.path), "came by": plugin.origin}
        for key, value in lines.items():
            table.add_row(key, _escaped(value))
        Console().print(table)


# --------------------------------------------------------------------------------------------------------------- run


@_verb("avtbench run davis --set dataset.root=DAVIS --method lit")
def run(
    spec: Annotated[str, typer.Argument(help="Preset (see avtbench ls) or a YAML file.")] = "demo",
    method: MethodOption = [],  # noqa: B006
    dataset: DatasetOption = [],  # noqa: B006
    tokenizer: TokenizerOption = "",
    weights: WeightsOption = [],  # noqa: B006
    set_: SetOption = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for reports.")] = RUNS,
    store: Annotated[
        Path | None, typer.Option(help="SQLite file with every result.", show_default="OUT/avtbench.sqlite")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Spawned processes for the quality pass; 0 runs in this one.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and estimated time, then stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is stored already.")] = False,
    lpips_weights: Annotated[
        Path | None,
        typer.Option(help="Backbone of LPIPS: a file, or a folder of them.", show_default="AVTBENCH_WEIGHTS"),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")] = True,
) -> None:
    """Run a sweep, resume a killed one, write its report; the demo by default."""
    from avtbench.bench import spec as specs
    from avtbench.bench.errors import UserError

    if lpips_weights is not None:
        if not lpips_weights.exists():
            raise UserError(f"--lpips-weights {lpips_weights}: there is no such file or folder; check the path")
        os.environ["AVTBENCH_WEIGHTS"] = str(lpips_weights.resolve())  # spawned processes look there as well
    wanted = specs.override(specs.load(spec), method, dataset, set_, tokenizer, weights)
    if "speed" in wanted.passes and wanted.speed.match and not wanted.speed.levels:
        raise UserError(
            f"{spec}: found speed.match={', '.join(wanted.speed.match)}, and run matches no settings; use "
            f"avtbench speed {spec}, or time them as they are with --set speed.match=[]"
        )
    _start(wanted, out, store or out / STORE.name, workers=workers, dry_run=dry_run, fresh=fresh, report=report)


def _start(
    wanted: RunSpec, out: Path, path: Path, *, workers: int = 0, dry_run: bool = False, fresh: bool = False,
    report: bool = True, show: Callable[[list[Row]], None] | None = None,
) -> None:  # fmt: skip
    from avtbench.bench import runner
    from avtbench.bench.store import Store

    todo = runner.plan(wanted)
    if dry_run:
        if path.is_file():
            with Store(path, create=False) as opened:
                _print_plan(todo, _estimate(todo, opened, fresh), path)
        else:
            _print_plan(todo, runner.Estimate(todo, {}), path)
        return
    with Store(path) as opened:
        estimate = _estimate(todo, opened, fresh)
        _print_plan(todo, estimate, path)
        _print_groups(todo)
        outcome = _run_with_progress(todo, opened, estimate, workers, fresh)
        print(f"run {outcome.run}: {outcome.summary()}; {durations.in_minutes(outcome.seconds)}; stored in {path}")
        if outcome.spent:
            print(f"time of the quality pass: {outcome.shares()}")
        for reason, points in sorted(outcome.failed.items(), key=lambda item: -item[1])[:5]:
            print(f"  {points} failed: {reason}")
        if show:
            show(opened.rows(outcome.run))
        if report:
            print(f"report: {_write_report(opened, outcome.run, out)}")
    if outcome.failed:
        failed = sum(outcome.failed.values())
        raise _PointsFailed(f"{failed} of {outcome.planned} points failed; the same command tries them again")


def _estimate(todo: Plan, store: Store, fresh: bool) -> Estimate:
    from avtbench.bench.runner import Estimate, stored

    estimate = Estimate(todo, store.seconds())
    if not fresh:
        estimate.drop(stored(todo, store))
    return estimate


def _print_plan(todo: Plan, estimate: Estimate, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    clips = ", ".join(f"{number} clips of {name}" for name, number in todo.clips().items())
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("method", "tier", "tokeniser", "setting", "values", "points"):
        table.add_column(column, justify="right" if column == "points" else "left")
    points: dict[int, int] = {}
    settings: dict[int, set[float]] = {}
    for job in todo.jobs:
        points[job.entry] = points.get(job.entry, 0) + len(job.slots)
        settings.setdefault(job.entry, set()).update(job.settings)
    for place, entry in enumerate(todo.entries):
        literals = entry.plugin.literals
        tokenizer = (entry.spec.tokenizer or todo.spec.tokenizer).name if "tokenizer" in entry.plugin.knobs else ""
        values = " ".join(f"{s:g}" for s in entry.settings if s in settings[place])
        told = [str(literals.get("tier", "shared")), tokenizer, str(literals.get("setting_name", "threshold")), values]
        table.add_row(entry.label, *told, str(points[place]))
    passes = " and ".join(sorted(set(todo.spec.passes)))
    console.print(f"run [bold]{todo.spec.id}[/]: {passes} on {clips}, store {path}")
    console.print(table)
    for name, reason in todo.left_out.items():
        console.print(f"[yellow]left out: {_escaped(name)}: {_escaped(reason)}[/]")
    for entry in todo.entries:
        note = entry.plugin.note(entry.label)
        if note and not entry.twin and entry.spec.knobs.get("weights") is None:
            console.print(f"[yellow]skips {_escaped(f'{entry.label}: {note}')}[/]")
    seconds, unknown = estimate.remaining()
    left = sum(estimate.left.values())
    known = f"{len(todo.slots)} points, {len(todo.slots) - left} stored"
    if not left:
        console.print(f"{known}: nothing to run")
    elif not unknown:
        console.print(f"{known}; about {durations.in_minutes(seconds)} by the points stored so far")
    elif seconds:
        console.print(
            f"{known}; more than {durations.in_minutes(seconds)}; no stored point tells of {', '.join(unknown)}"
        )
    else:
        console.print(f"{known}; time unknown: no stored point tells")


def _print_groups(todo: Plan) -> None:
    """One line where configurations are timed in several groups."""
    timed = len({(job.entry, setting) for job in todo.jobs if job.pass_ == "speed" for setting in job.settings})
    resident = todo.spec.speed.resident
    if timed > resident:
        print(
            f"{timed} configurations, {resident} in memory at once: timed in {-(-timed // resident)} groups, and not "
            f"compared across them; --set speed.resident={timed} --fresh times all together, where memory allows"
        )


def _run_with_progress(todo: Plan, store: Store, estimate: Estimate, workers: int, fresh: bool) -> Outcome:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from avtbench.bench import runner

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("{task.fields[left]}"), transient=True, disable=not Console().is_terminal
    ) as progress:
        task = progress.add_task("", total=len(todo.slots), left="")

        def show(event: Event) -> None:
            if isinstance(event, runner.Machine):
                return
            estimate.note(event)
            if isinstance(event, runner.Finished):
                row = event.row
                progress.update(task, description=f"{row.method} {row.setting:g} {row.clip}")
            seconds, unknown = estimate.remaining()
            more = " and more" if unknown else " left"
            progress.update(task, advance=1, left=f"{durations.in_minutes(seconds)}{more}" if seconds else "")

        return runner.run(todo, store, workers=workers, fresh=fresh, on_event=show)


# ------------------------------------------------------------------------------------------------- report and export


def _write_report(store: Store, run_id: str, out: Path) -> Path:
    from avtbench.bench.commands.speed_report import matched
    from avtbench.reports.report import write

    rows = store.rows(run_id)
    entry = store.find_run(run_id)
    title = f"{entry.name}: {entry.spec.get('summary', '')}".rstrip(": ")
    return write(rows, store.previews(run_id), store.environments(rows), out / run_id, title, *matched(store, entry))


@_verb("avtbench report demo --out figures")
def report(
    run: RunArgument = "",
    out: Annotated[Path, typer.Option(help="Folder for reports.")] = RUNS,
    store: StoreOption = STORE,
) -> None:
    """Write figures, tables and the HTML page of a stored run."""
    from avtbench.bench.store import Store

    with Store(store, create=False) as opened:
        print(_write_report(opened, opened.find_run(run).id, out))


_ROWS = [Path("rows.csv")]


@_verb("avtbench export demo --to demo.csv --to demo.parquet")
def export(
    run: RunArgument = "",
    to: Annotated[list[Path], typer.Option("--to", help="File ending in .csv or .parquet; repeat for both.")] = _ROWS,
    store: StoreOption = STORE,
    runs: Annotated[bool, typer.Option("--runs", help="Only list the runs of the store.")] = False,
) -> None:
    """Write the rows of a run as CSV or parquet, raw samples included, and their machines."""
    from avtbench.bench import exchange
    from avtbench.bench.commands.speed_report import matched
    from avtbench.bench.store import Store

    for path in to:
        exchange.require_suffix(path)
    with Store(store, create=False) as opened:
        if runs:
            for entry in opened.runs():
                print(f"{entry.id}  {entry.started}  {entry.done} of {entry.planned} points, {entry.failed} failed")
            return
        chosen = opened.find_run(run)
        levels, counted = matched(opened, chosen)
        rows = list({row.key: row for row in [*opened.rows(chosen.id), *counted]}.values())
        machines = opened.environments(rows)
    for path in to:
        print(f"{path}: {exchange.write(rows, machines, path, levels)} rows of run {chosen.id}")


@_verb("avtbench import reports/measured/published-size --store runs/published.sqlite", name="import")
def import_(
    path: Annotated[Path, typer.Argument(help="File written by avtbench export, or a folder with rows.csv.")],
    name: Annotated[str, typer.Option(help="Of the run.", show_default="of the folder or file")] = "",
    store: StoreOption = STORE,
) -> None:
    """Put exported rows into a store, as a run to report, compare and judge claims by; what is there stays."""
    from avtbench.bench import exchange
    from avtbench.bench.store import Store

    found = exchange.exported(path)  # first: what cannot be read leaves no empty store behind
    with Store(store) as opened:
        run, rows, new = exchange.bring(opened, found, name)
    print(f"{store}: run {run}, {rows} rows, {new} of them new")


# --------------------------------------------------------------------------------------------------- check and doctor


@_verb("avtbench check path/to/my_method.py")
def check(
    method: Annotated[list[str], typer.Argument(help="Name or path/to/file.py; several may be given.")],
    tokenizer: Annotated[str, typer.Option(help="Tokeniser under the method.", show_default="embedded")] = "",
    set_: KnobOption = [],  # noqa: B006
) -> None:
    """Prove that a method keeps the contract."""
    from rich.console import Console

    from avtbench.bench import contract_suite

    failed = 0
    for name in method:
        failed += contract_suite.report(_factory(name, tokenizer, set_), name, Console())
    if failed:
        raise _PointsFailed(f"{failed} checks failed")


def _factory(name: str, tokenizer: str, sets: Iterable[str]) -> Any:
    from avtbench.bench import contract_suite
    from avtbench.bench.spec import knobs_of

    knobs, under = knobs_of(sets, tokenizer)
    return contract_suite.Factory(name, under or None, knobs)


@_verb("avtbench doctor")
def doctor() -> None:
    """Tell what is installed, what can run here, and why not."""
    from avtbench.bench import doctor as examination

    examination.print_report()


# ------------------------------------------------------------------------------------------------- speed and comparing


@_verb("avtbench environment demo davis", MORE)
def environment(
    run: RunArgument = "",
    other: Annotated[str, typer.Argument(help="A second run to compare it with.", show_default=False)] = "",
    store: StoreOption = STORE,
    other_store: Annotated[
        Path | None, typer.Option(help="Store of the second run, e.g. of another machine.", show_default=False)
    ] = None,
) -> None:
    """Show the machine that a run was measured on; two runs: what differs, in five lines."""
    from avtbench.bench import environment as records
    from avtbench.bench.store import Store

    def of(path: Path, name: str) -> dict[str, Any]:
        with Store(path, create=False) as opened:
            return dict(opened.environments(opened.rows(opened.find_run(name).id)))

    found = of(store, run)
    if not other and other_store is None:
        for digest, record in found.items():
            print(f"{digest}: {records.headline(record)}")
            for group in records.GROUPS:
                print(f"  {group}: " + ", ".join(f"{k} {v}" for k, v in record.get(group, {}).items() if v is not None))
        return
    for digest, record in found.items():
        for another, compared in of(other_store or store, other).items():
            print(f"{digest} ({records.headline(record)}) -> {another} ({records.headline(compared)})")
            for line in records.diff(record, compared):
                print(line)


@_verb("avtbench compare lit hold --at kept=0.5", MORE)
def compare(
    a: Annotated[str, typer.Argument(help="A method of the run.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    at: Annotated[str, typer.Option(help="Matched rate or quality: kept=0.5, bpp=0.3, psnr=30.")] = "kept=0.5",
    run: Annotated[str, typer.Option(help="Id or name of a run; else the latest.", show_default=False)] = "",
    calibration: Annotated[
        str,
        typer.Option(
            help="Where the settings are found: a run on other clips, or 'half', every other clip of this one.",
            show_default="each clip's own curve",
        ),
    ] = "",
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="One of the run's data sets.", show_default="all")
    ] = "",
    store: StoreOption = STORE,
) -> None:
    """Compare two methods of a run at one rate or one quality, clip by clip."""
    from avtbench.bench.store import Store
    from avtbench.reports.compare import compare as compared
    from avtbench.reports.compare import split

    with Store(store, create=False) as opened:
        rows = opened.rows(opened.find_run(run).id)
        held = opened.rows(opened.find_run(calibration).id) if calibration not in ("", "half") else None
    if calibration == "half":
        held, rows = split(rows)
    for sentence in compared(rows, a, b, at, dataset=dataset, calibration=held).sentences():
        print(sentence)


@_verb("avtbench findings eval --out reports/findings.md", MORE)
def findings(
    runs: Annotated[
        list[str], typer.Argument(help="Ids or names of runs; the latest where none is given.", show_default=False)
    ] = [],  # noqa: B006
    ablation: Annotated[
        list[str],
        typer.Option("--ablation", help="Run of trained variants (lit entries with lit_weights); repeat.",
                     show_default=False),
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Page; figures and tables go into measured/ beside it.")] = FINDINGS,
    store: StoreOption = STORE,
) -> None:  # fmt: skip
    """Write what stored runs say about LIT's claims as a page: verdicts, numbers, figures, ablations."""
    from collections import Counter

    from avtbench.bench.store import Store
    from avtbench.reports.findings_page import Source, write

    with Store(store, create=False) as opened:
        found = [
            [Source(entry.id, {"name": entry.name, **entry.spec}, opened.rows(entry.id)) for entry in entries]
            for entries in ([opened.find_run(run) for run in runs or [""]], [opened.find_run(run) for run in ablation])
        ]
        environments = opened.environments(row for run in found[0] for row in run.rows)
    place = store.name if store.is_absolute() else store.as_posix()
    command = ["avtbench findings", *runs, *(f"--ablation {run}" for run in ablation)]
    command += [f"--store {place}"] if store != STORE else []
    command += [f"--out {out.as_posix()}"] if out != FINDINGS and not out.is_absolute() else []
    answers = write(found[0], out, " ".join(command), ablations=found[1], environments=environments)
    counts = Counter(answer.verdict for answer in answers)
    print(f"{out}: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.items()))


@_verb("avtbench calibrate lit --target psnr=30", MORE)
def calibrate(
    method: Annotated[str, typer.Argument(help="A method of the run.")],
    target: Annotated[str, typer.Option(help="kept=0.5, bpp=0.3, psnr=30 or the like.")] = "kept=0.5",
    run: Annotated[str, typer.Option(help="Id or name of a run; else the latest.", show_default=False)] = "",
    store: StoreOption = STORE,
) -> None:
    """Find the setting at which a method meets a rate or a quality, from stored rows."""
    from avtbench.bench.store import Store
    from avtbench.reports.compare import calibrate as calibrated
    from avtbench.reports.errors import Refused

    with Store(store, create=False) as opened:
        rows = opened.rows(opened.find_run(run).id)
    try:
        print(f"{calibrated(rows, method, target):.6g}")
    except Refused:
        if len({row.setting for row in rows if row.quality and row.method == method}) != 1:
            raise
        raise Refused(
            f"{method} has one setting in this run, which does not meet {target}; sweep several, where it has more"
        ) from None


# ------------------------------------------------------------------------------------------- parts that live elsewhere


@_verb("avtbench conventions clip.mp4 reconstruction.mp4", MORE)
def conventions(
    clip: Annotated[Path, typer.Argument(help="Video file of the original.")],
    recon: Annotated[Path, typer.Argument(help="Video file of the reconstruction.")],
) -> None:
    """Show what each metric profile says about the same pixels."""
    from rich.console import Console
    from rich.table import Table

    from avtbench.bench.metrics import conventions as profiles

    found = profiles.table(clip, recon)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in found.columns:
        table.add_column(str(column))
    for line in found.itertuples(index=False):
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else _escaped(str(v)) for v in line))
    Console().print(table)


@_verb("avtbench fvd originals reconstructions --i3d i3d_torchscript.pt", MORE)
def fvd(
    originals: Annotated[Path, typer.Argument(help="Folder of videos.")],
    recons: Annotated[Path, typer.Argument(help="Folder of their reconstructions under the same names.")],
    i3d: Annotated[
        Path | None, typer.Option(help="The I3D network, i3d_torchscript.pt of StyleGAN-V.", show_default=False)
    ] = None,
) -> None:
    """Fréchet video distance of two folders, as TokenBench takes it; refused below 256 clips."""
    from avtbench.bench.metrics.fvd import fvd_of_folders

    distance, clips = fvd_of_folders(originals, recons, i3d)
    print(f"FVD {distance:.2f}, {clips} clips")


@app.command(epilog="Example: avtbench claims lit-31x")
def claims(
    ids: Annotated[
        list[str],
        typer.Argument(help="Claims to judge, by id or by how ids begin; all where none is given.",
                       show_default=False),
    ] = [],  # noqa: B006
    store: Annotated[
        Path | None, typer.Option("--store", help="SQLite file with every result.", show_default=str(STORE))
    ] = None,
) -> None:  # fmt: skip
    """Judge published claims by what is stored: reproduced or not, by how much, and what would test the rest."""
    from collections import Counter

    from avtbench.bench.store import Store
    from avtbench.reports import claims as ledger

    entries = ledger.load()
    wanted = {claim.id for given in ids for claim in ledger.find(given, entries)}
    rows, environments = [], {}
    if store is not None or STORE.is_file():  # a store that was named has to be there
        with Store(store or STORE, create=False) as opened:
            unique = {row.key: row for entry in opened.runs() for row in opened.rows(entry.id)}
            rows = list(unique.values())
            environments = opened.environments(rows)
    verdicts = ledger.judge(rows, environments, [claim for claim in entries if not ids or claim.id in wanted])
    for verdict in verdicts:
        print(verdict, end="\n\n")
    counts = Counter(verdict.outcome.value for verdict in verdicts)
    print(f"{len(rows)} stored rows: " + ", ".join(f"{number} {outcome}" for outcome, number in counts.items()))


from avtbench.bench.commands.fetch import fetch as _fetch  # noqa: E402
from avtbench.bench.commands.speed import speed as _speed  # noqa: E402
from avtbench.bench.commands.stream import seams as _seams  # noqa: E402
from avtbench.bench.commands.stream import stream as _stream  # noqa: E402
from avtbench.bench.commands.train import app as _training  # noqa: E402

_verb("avtbench speed -m lit -m elastictok-style --match kept=0.5 --budget 10m", MORE)(_speed)
_verb("avtbench fetch davis --to DAVIS", MORE)(_fetch)
_verb("avtbench stream lit film.mp4 --setting 0.2 --out recon.mp4", MORE)(_stream)
_verb("avtbench seams lit hold --data videos --setting 0.2 --out seams", MORE)(_seams)
app.add_typer(_training, name="train")
