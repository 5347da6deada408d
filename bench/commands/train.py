"""``avtbench train``: from folders of videos to a checkpoint with its training card."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtbench.bench import devices

if TYPE_CHECKING:
    from avtbench.methods.threshold import Reference
    from avtbench.methods.tokenizers.contract import FrozenTokenizer
    from avtbench.methods.training.decoded import Perceptual
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
Device = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:N; several GPUs through accelerate launch.", callback=devices.given)
]
Size = Annotated[int, typer.Option(help="Shorter side to which videos are resized, in pixels.")]
Checks = Annotated[int, typer.Option(min=1, help="Checkpoints, each with a look at the held-out clips.")]


def _duration(text: str) -> str:
    from avtbench.bench.durations import seconds

    try:
        return text and str(seconds(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}") from None


Budget = Annotated[
    str,
    typer.Option(help="Shorten the schedule to this time, e.g. 40m; empty keeps --steps.", callback=_duration),
]
TokenizerName = Annotated[str, typer.Option("--tokenizer", help="Frozen tokeniser (see avtbench ls).")]
Knobs = Annotated[
    list[str], typer.Option("--set", "-s", help="KNOB=value of the tokeniser, e.g. weights=PATH.", show_default=False)
]
Frames = Annotated[int, typer.Option(min=1, help="Frames of a training crop.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of encoded crops, shared by several runs; else --out."),
]
Precision = Annotated[
    str, typer.Option(help="float32 or bfloat16 (autocast).", show_default="bfloat16 on CUDA, else float32")
]
Loss = Annotated[
    str, typer.Option(help="latent-l2, latent-l1 (not elastic), or pixel, lpips, relative, which add to the first.")
]
Lpips = Annotated[
    str, typer.Option(help="Backbone (vgg, alex, squeeze) for --loss lpips and relative, and for held-out LPIPS.")
]
LpipsWeights = Annotated[str, typer.Option(help="File or folder of that backbone.")]
LpipsWeight = Annotated[
    float | None,
    typer.Option(help="Of LPIPS in --loss lpips and relative.", show_default="what suits LIT"),
]
Judder = Annotated[
    float, typer.Option(min=0, max=1, help="Share of crops that repeat frames, as frame-rate conversion does.")
]
Codec = Annotated[
    float, typer.Option(min=0, max=1, help="Share of crops that go through H.264, as videos at their own size have.")
]
Still = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of crops from the half whose latents change least, beside chance."),
]
Crops = Annotated[int, typer.Option(help="Training crops that are encoded once and cached.")]


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
    checks: Checks = 24,
    budget: Budget = "",
) -> None:
    """Train the embedded tokeniser: it starts as a fitted linear transform and learns the nonlinear rest."""
    from avtbench.bench.training import read_apart
    from avtbench.methods.tokenizers.embedded_network import EmbeddedConfig
    from avtbench.methods.training.tokenizer import TokenizerTask

    train, held = read_apart(data, held_out, size)
    task = TokenizerTask(train, held, EmbeddedConfig(), crop=crop, batch=batch, seed=seed, candidates=candidates)
    _train(task, out, steps, learning_rate, seed, device, precision, checks, budget)


@app.command(
    epilog="Example: avtbench train statistics --tokenizer taef2 -s weights=DIR --data videos --out taef2.json"
)
def statistics(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="JSON file to write; give it to the tokeniser: statistics=FILE.")],
    tokenizer: TokenizerName = "embedded",
    set_: Knobs = [],  # noqa: B006
    crops: Annotated[int, typer.Option(min=1, help="Training crops to encode.")] = 256,
    frames: Frames = 17,
    size: Size = 128,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure mean and deviation of every latent channel, the unit of thresholds, for a tokeniser that states none."""
    from avtbench.bench.training import read_training
    from avtbench.methods.training.crops import CropSampler
    from avtbench.methods.training.statistics import measure_statistics, write_statistics

    base = _base(tokenizer, set_, device)
    sampler = CropSampler(read_training(data, size), frames, _crop(base, size), 1, seed)
    found = measure_statistics(base, sampler, crops)
    write_statistics(out, found, base, sampler, crops)
    print(
        f"{out}: {base.channels} channels over {crops} crops, deviations {found.std.min():.3g} to {found.std.max():.3g}"
    )
    print(f"give it to the tokeniser: --set tokenizer.statistics={out}")


def _crop(base: FrozenTokenizer, size: int) -> int:
    """Side of the training crops: whole latent positions within the resized clips, 128 pixels at most."""
    return min(128, size) // base.spatial * base.spatial


def adapter(
    name: str,
    data: Data,
    out: Out,
    held_out: HeldOut = [],  # noqa: B006
    tokenizer: TokenizerName = "embedded",
    set_: Knobs = [],  # noqa: B006
    width: Annotated[int, typer.Option(help="Of the transformer.")] = 64,
    depth: Annotated[int, typer.Option(help="Blocks.")] = 1,
    attention: Annotated[str, typer.Option(help="factorised, or joint over a tile of all frames.")] = "factorised",
    window: Annotated[int, typer.Option(help="Side of an attention tile, in latent positions.")] = 8,
    input_: Annotated[
        str, typer.Option("--input", help="held (last and next kept value, corrected) or mask (mask embedding alone).")
    ] = "held",
    reference: Annotated[
        str, typer.Option(help="What masks in training compare with: last_kept, previous or both.")
    ] = "both",
    latents: Annotated[str, typer.Option(help="Units inside the network: standardised or raw.")] = "standardised",
    bound: Annotated[
        float, typer.Option(help="Largest correction, in units of the smallest change kept in its frame; 0 for none.")
    ] = 0.0,
    centred: Annotated[
        bool, typer.Option("--centred", help="Corrections of a frame add up to zero in every channel.")
    ] = False,
    loss: Loss = "latent-l2",
    lpips: Lpips = "",
    lpips_weights: LpipsWeights = "",
    lpips_weight: LpipsWeight = None,
    steps: Steps = 3000,
    batch: Batch = 8,
    learning_rate: Rate = 2e-3,
    crops: Crops = 1200,
    judder: Judder = 0.0,
    codec: Codec = 0.0,
    still: Still = 0.0,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint of the same shape to fine-tune, for the same tokeniser.")
    ] = None,
    frames: Frames = 17,
    size: Size = 128,
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "",
    checks: Checks = 24,
    budget: Budget = "",
) -> None:
    """Train the network of method ``name`` on the cached latents of a frozen tokeniser."""
    from avtbench.bench.errors import UserError
    from avtbench.bench.training import read_apart
    from avtbench.methods.calibration import latent_statistics
    from avtbench.methods.elastic.network import ElasticConfig
    from avtbench.methods.lit.network import LITConfig
    from avtbench.methods.training.elastic import ElasticTask
    from avtbench.methods.training.inpainting import InpaintingTask

    compared: dict[str, tuple[Reference, ...]] = {
        "both": ("last_kept", "previous"), "last_kept": ("last_kept",), "previous": ("previous",)
    }  # fmt: skip
    if reference not in compared:
        raise UserError(f"--reference {reference}: expected last_kept, previous or both")
    base = _base(tokenizer, set_, device)
    shape: dict[str, Any] = {
        "attention": attention,
        "window": window,
        "input": input_,
        "latents": latents,
        "bound": bound,
        "centred": centred,
    }
    config = LITConfig(base.channels, width, depth, heads=max(width // 16, 1), **shape)
    options: dict[str, Any] = {
        "frames": frames, "crop": _crop(base, size), "batch": batch, "count": crops, "seed": seed,
        "cache": cache or out, "objective": loss, "perceptual": _perceptual(loss, lpips, lpips_weights),
        "lpips_weight": lpips_weight, "judder": judder, "codec": codec,
    }  # fmt: skip
    latent_statistics(base)  # says what lacks before an hour of reading and encoding
    train, held = read_apart(data, held_out, size)
    task: Task
    if name == "elastictok-style":
        task = ElasticTask(base, train, held, ElasticConfig(channels=base.channels), **options)
    else:
        masks: Masks = "error" if name == "infotok-style" else "threshold"
        task = InpaintingTask(
            base, train, held, config, masks=masks, references=compared[reference], start=start, still=still, **options
        )
    _train(task, out, steps, learning_rate, seed, device, precision, checks, budget)


NETWORK = (
    "width", "depth", "attention", "window", "input_", "reference", "latents", "bound", "centred", "start", "still",
)  # fmt: skip
"""Options of ``lit`` alone: the others have its network as it is, or one of their own."""


def _command(name: str, summary: str, without: Collection[str] = NETWORK, example: str = "", **fixed: Any) -> None:
    """A command that trains method ``name``, with the options of :func:`adapter` but for some."""

    def command(**given: Any) -> None:
        adapter(name, **fixed, **given)

    options = [
        o for o in inspect.signature(adapter, eval_str=True).parameters.values() if o.name not in ("name", *without)
    ]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    command.__doc__ = summary
    shown = f"Example: avtbench train {name} --tokenizer embedded --data videos {example}--out run"
    app.command(name, epilog=shown)(command)


_command(
    "lit",
    "Train a Latent Inpainting Transformer on the cached latents of a frozen tokeniser.",
    without=(),
    example="--held-out davis=DAVIS/JPEGImages/480p ",
)
_command(
    "lit-plain",
    "LIT as the abstract has it: a mask embedding instead of the held value and the residual output.",
    input_="mask",
)
_command("infotok-style", "Train the inpainting adapter of infotok-style: LIT's network on masks of InfoTok's rule.")
_command("elastictok-style", "Train the elastic adapter of elastictok-style: nested tail drop.")


def _base(name: str, knobs: list[str], device: str) -> FrozenTokenizer:
    from avtbench.bench import plugins
    from avtbench.bench.spec import pair

    if device == "cuda" and "LOCAL_RANK" in os.environ:  # one process for every GPU
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    given = dict(pair(text, "KNOB=value, e.g. weights=PATH") for text in knobs)
    return plugins.create("tokenizer", name, device=device, **given)


def _perceptual(loss: str, net: str, weights: str) -> Perceptual | None:
    """LPIPS as a callable for the trainer, which cannot import it; None where no backbone was named."""
    from avtbench.bench.errors import UserError
    from avtbench.bench.metrics.lpips_net import BACKBONES, load
    from avtbench.methods.training.decoded import LPIPS_WEIGHT, OBJECTIVES

    if loss not in OBJECTIVES:
        raise UserError(f"--loss {loss}: expected one of {', '.join(OBJECTIVES)}")
    if not net and loss in LPIPS_WEIGHT:
        raise UserError(f"--loss {loss} needs a backbone: give --lpips with one of {', '.join(BACKBONES)}")
    if not net:
        return None
    if net not in BACKBONES:
        raise UserError(f"--lpips {net}: expected one of {', '.join(BACKBONES)}")
    found = load(net, weights or None)
    if found.absent:
        raise UserError(found.absent)
    return found.distance


def _train(
    task: Task,
    out: Path,
    steps: int,
    learning_rate: float,
    seed: int,
    device: str,
    precision: str,
    checks: int,
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
        steps, learning_rate, warmup=min(300, steps // 10), check_every=max(steps // checks, 1), seed=seed,
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

        card = train(task, out, schedule, device, show, budget_s=float(budget) if budget else None)
    print(f"{out / 'model.safetensors'}: {card['parameters']:,} parameters, {card['steps_done']} steps, "
          f"{card['seconds']:.0f} s; card.json, log.csv and curve.png beside it")  # fmt: skip
