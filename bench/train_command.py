"""``avtbench train``: from folders of videos to a checkpoint with its training card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from avtbench.methods.tokenizers.contract import FrozenTokenizer
    from avtbench.methods.training.crops import TrainingClip
    from avtbench.methods.training.inpainting import Masks
    from avtbench.methods.training.loop import Task

app = typer.Typer(
    help="Train the embedded tokeniser, or a method's own network on any frozen tokeniser; resumes where it stopped.",
    no_args_is_help=True,
)

Data = Annotated[
    list[str],
    typer.Option("--data", help="Folder of videos, or MANIFEST.csv:SPLIT; repeat for several.", show_default=False),
]
HeldOut = Annotated[
    list[str],
    typer.Option("--held-out", help="NAME=FOLDER or NAME=MANIFEST.csv:SPLIT, measured but never trained on; repeat."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoint, log, curve, model and card.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(min=1, help="Crops per step.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(help="Of initialisation and data order.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; several GPUs through accelerate launch.")]
Size = Annotated[int, typer.Option(help="Shorter side to which videos are resized, in pixels.")]
Budget = Annotated[str, typer.Option(help="Shorten the schedule to this time, e.g. 40m; empty keeps --steps.")]
TokenizerName = Annotated[str, typer.Option("--tokenizer", help="Frozen tokeniser (see avtbench ls).")]
Knobs = Annotated[
    list[str], typer.Option("--set", "-s", help="KNOB=value of the tokeniser, e.g. weights=PATH.", show_default=False)
]
Precision = Annotated[
    str, typer.Option(help="float32 or bfloat16 (autocast).", show_default="bfloat16 on CUDA, else float32")
]
Crops = Annotated[int, typer.Option(help="Training crops that are encoded once and cached.")]

LONGEST = 120
"""Frames read of a window; longer recordings give up to three windows."""


@app.command(epilog="Example: avtbench train tokenizer --data videos --held-out davis=DAVIS/JPEGImages/480p --out run")
def tokenizer(
    data: Data,
    out: Out,
    held_out: HeldOut = [],  # noqa: B006
    steps: Steps = 6000,
    batch: Batch = 6,
    learning_rate: Rate = 1e-3,
    crop: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 96,
    size: Size = 128,
    candidates: Annotated[int, typer.Option(min=1, help="Crops drawn for each taken, the busiest one.")] = 2,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "",
    budget: Budget = "",
) -> None:
    """Train the embedded tokeniser: it starts as a fitted linear transform and learns the nonlinear rest."""
    from avtbench.methods.tokenizers.embedded_network import EmbeddedConfig
    from avtbench.methods.training.tokenizer import TokenizerTask

    train, held = _read(data, held_out, size)
    task = TokenizerTask(train, held, EmbeddedConfig(), crop=crop, batch=batch, seed=seed, candidates=candidates)
    _train(task, out, steps, learning_rate, seed, device, precision, budget)


def _adapter(
    name: str, data: list[str], out: Path, held_out: list[str], base: FrozenTokenizer, size: int, **options: Any
) -> Task:
    from avtbench.methods.elastic.network import ElasticConfig
    from avtbench.methods.lit.network import LITConfig
    from avtbench.methods.training.elastic import ElasticTask
    from avtbench.methods.training.inpainting import InpaintingTask

    train, held = _read(data, held_out, size)
    options |= {"crop": min(128, size) // base.spatial * base.spatial, "cache": out}
    if name == "elastictok-style":
        return ElasticTask(base, train, held, ElasticConfig(channels=base.channels), **options)
    plain = name == "lit-plain"
    config = LITConfig(channels=base.channels, residual=not plain)
    masks: Masks = "error" if name == "infotok-style" else "threshold"
    return InpaintingTask(base, train, held, config, masks=masks, **options)


def _command(name: str, summary: str) -> None:
    def command(
        data: Data,
        out: Out,
        held_out: HeldOut = [],  # noqa: B006
        tokenizer: TokenizerName = "embedded",
        set_: Knobs = [],  # noqa: B006
        steps: Steps = 3000,
        batch: Batch = 8,
        learning_rate: Rate = 2e-3,
        crops: Crops = 1200,
        frames: Annotated[int, typer.Option(help="Frames of a training crop.")] = 17,
        size: Size = 128,
        seed: Seed = 0,
        device: Device = "cpu",
        precision: Precision = "",
        budget: Budget = "",
    ) -> None:
        from avtbench.bench import plugins

        base = plugins.create("tokenizer", tokenizer, device=device, **_knobs(set_))
        task = _adapter(
            name, data, out, held_out, base, size, frames=frames, batch=batch, count=crops, seed=seed
        )  # fmt: skip
        _train(task, out, steps, learning_rate, seed, device, precision, budget)

    command.__doc__ = summary
    app.command(name, epilog=f"Example: avtbench train {name} --tokenizer embedded --data videos --out run")(command)


_command("lit", "Train a Latent Inpainting Transformer on the cached latents of a frozen tokeniser.")
_command("lit-plain", "The same with a mask embedding alone instead of the held value and a residual output.")
_command("infotok-style", "Train the inpainting adapter of infotok-style: LIT's network on masks of InfoTok's rule.")
_command("elastictok-style", "Train the elastic adapter of elastictok-style: nested tail drop.")


def _knobs(pairs: list[str]) -> dict[str, Any]:
    import yaml

    from avtbench.bench.errors import UserError

    knobs = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--set {pair}: expected KNOB=value, e.g. weights=PATH")
        knobs[key] = yaml.safe_load(value)
    return knobs


def _read(
    data: list[str], held_out: list[str], size: int
) -> tuple[list[TrainingClip], Mapping[str, list[TrainingClip]]]:
    from avtbench.bench.errors import UserError
    from avtbench.bench.training import read_clips, require_apart
    from avtbench.datasets.contract import View

    train: list[TrainingClip] = []
    for place in data:
        clips, refused = read_clips(_dataset(place, windows=3), View(size, square=False, frames=LONGEST))
        train += clips
        ended = sum("expected more than" in line for line in refused)
        print(f"{place}: {len(clips)} clips; {ended} windows begin after the end of their recording")
        for line in refused:
            if "expected more than" not in line:
                print(f"  left out: {line}")
    held: dict[str, list[TrainingClip]] = {}
    for pair in held_out:
        name, sign, place = pair.partition("=")
        if not sign:
            raise UserError(f"--held-out {pair}: expected NAME=FOLDER or NAME=MANIFEST.csv:SPLIT")
        held[name], refused = read_clips(_dataset(place), View(size, frames=17))
        print(f"held out {name}: {len(held[name])} clips")
        for line in refused:
            print(f"  left out: {line}")
    require_apart(train, [clip for group in held.values() for clip in group])
    return train, held


def _dataset(place: str, windows: int = 1) -> Any:
    from avtbench.bench import plugins

    manifest, colon, split = place.rpartition(":")
    if colon and manifest.endswith(".csv"):
        return plugins.create("dataset", "folder", manifest=manifest, split=split, windows=windows)
    return plugins.create("dataset", "folder", root=place, windows=windows)


def _train(
    task: Task,
    out: Path,
    steps: int,
    learning_rate: float,
    seed: int,
    device: str,
    precision: str,
    budget: str,
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    from avtbench.bench.errors import UserError
    from avtbench.methods.training.loop import Progress, Schedule, train

    precision = precision or ("bfloat16" if device.startswith("cuda") else "float32")
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"--precision is {precision}, expected float32 or bfloat16")
    schedule = Schedule(
        steps, learning_rate, warmup=min(300, steps // 10), check_every=max(steps // 24, 1), seed=seed,
        precision=precision,
    )  # fmt: skip
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns) as bar:
        line = bar.add_task("training", total=steps)

        def show(now: Progress) -> None:
            held = " ".join(f"{name} {value:.2f}" for name, value in now.held_out.items())
            said = "start" if now.loss is None else f"loss {now.loss:.4f}"
            bar.update(line, completed=now.step, total=now.steps, description=f"{said} {held}")
            if now.checked:
                bar.console.print(f"step {now.step}: {said} {held}", highlight=False)

        card = train(task, out, schedule, device, show, budget_s=_seconds(budget) if budget else None)
    print(f"{out / 'model.safetensors'}: {card['parameters']:,} parameters, {card['steps_done']} steps, "
          f"{card['seconds']:.0f} s; card.json, log.csv and curve.png beside it")  # fmt: skip


def _seconds(text: str) -> float:
    import pandas as pd

    from avtbench.bench.errors import UserError

    try:
        return float(pd.Timedelta(text).total_seconds())
    except ValueError:
        raise UserError(f"--budget {text}: expected a time such as 40m or 2h") from None
