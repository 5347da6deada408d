"""``avtbench stream``: a video of any length, chunk by chunk; ``avtbench seams``: what borders between chunks cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtbench.bench import devices

if TYPE_CHECKING:
    from torch import Tensor

    from avtbench.bench.streams import Chunk, Totals
    from avtbench.methods.streaming import StreamingMethod

Setting = Annotated[
    float | None, typer.Option(help="Setting of the method, e.g. LIT's threshold.", show_default="its middle one")
]
Frames = Annotated[int, typer.Option(min=1, help="Frames of a chunk; the first has one more where it stands alone.")]
Size = Annotated[int, typer.Option(min=0, help="Side of the centred square, in pixels; 0 keeps the recording's size.")]
Tokenizer = Annotated[str, typer.Option(help="Tokeniser under the method.", show_default="embedded")]
Knobs = Annotated[
    list[str], typer.Option("--set", "-s", help="KNOB=value, or tokenizer.KNOB=value.", show_default=False)
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", callback=devices.given)]


def stream(
    method: Annotated[str, typer.Argument(help="Name or path/to/file.py of a method that streams.")],
    video: Annotated[Path, typer.Argument(help="Video file, or folder of frames, of any length.")],
    setting: Setting = None,
    chunk: Frames = 16,
    out: Annotated[Path | None, typer.Option(help="Write the reconstruction as H.264.", show_default=False)] = None,
    no_caches: Annotated[bool, typer.Option("--no-caches", help="Neither of the two below.")] = False,
    no_c_sel: Annotated[
        bool, typer.Option("--no-c-sel", help="Select every chunk anew, its first latent frame whole.")
    ] = False,
    no_c_fill: Annotated[
        bool, typer.Option("--no-c-fill", help="Fill every chunk without the latents before it.")
    ] = False,
    size: Size = 128,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", show_default="all")] = None,
    each: Annotated[bool, typer.Option("--each", help="Print a line per chunk.")] = False,
    tokenizer: Tokenizer = "",
    set_: Knobs = [],  # noqa: B006
    device: Device = "cpu",
) -> None:
    """Run a video of any length through a method, chunk by chunk, in a fixed amount of memory."""
    import torch

    from avtbench.bench.streams import Totals, run
    from avtbench.datasets.contract import View
    from avtbench.datasets.video import opened, writing_h264
    from avtbench.methods.streaming import Caches, split

    made = _method(method, tokenizer, set_, device)
    value = _setting(made, setting)
    caches = Caches(selection=not (no_caches or no_c_sel), fill=not (no_caches or no_c_fill))
    totals, written = Totals(made.step), 0.0
    with ExitStack() as stack:
        reel = stack.enter_context(opened(video, View(size=size or None, frames=frames)))
        pixels = (torch.from_numpy(frame.copy()) for frame in reel)
        write = None
        for done in run(made, split(pixels, *made.chunking(chunk)), value, caches, torch.device(device)):
            if out is not None:
                if write is None:
                    height, width = done.reconstruction.shape[1:3]
                    write = stack.enter_context(writing_h264(out, height, width, reel.fps or 24.0))
                began = time.perf_counter()
                write(done.reconstruction.cpu().numpy())
                written += time.perf_counter() - began
            if each:
                print(_line(totals, done))
            totals.add(done)
        if write is not None:
            began = time.perf_counter()
            stack.close()  # the encoder gives out its last frames
            written += time.perf_counter() - began
    print(f"{made.name} at {value:g} on {video}: chunks of {chunk} frames, caches {caches}")
    _print(totals, written)
    if out is not None:
        print(f"{out}: {totals.whole.frames} frames; the numbers above are of frames in memory, before H.264")


def _line(totals: Totals, chunk: Chunk) -> str:
    from avtbench.bench.streams import Error

    error = Error(sum(chunk.sse), len(chunk.sse))
    first = totals.whole.frames
    return (
        f"chunk {totals.chunks}, frames {first}-{first + error.frames - 1}: kept {chunk.kept / chunk.total:.3f}, "
        f"PSNR {error.psnr(chunk.values):.2f} dB, {1e3 * (chunk.encode_side + chunk.decode_side):.0f} ms"
    )


def _print(totals: Totals, written: float) -> None:
    """written: seconds spent in writing the reconstruction."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from avtbench.bench.timing.clock import peak_bytes
    from avtbench.bench.timing.statistics import in_words

    count, values, seconds = totals.whole.frames, totals.values, totals.encode_side + totals.decode_side
    peak = peak_bytes(torch.device("cpu"))
    lines = {
        "frames": f"{count} in {totals.chunks} chunks",
        "kept fraction": f"{totals.kept / totals.total:.4f}",
        "PSNR (tokenbench/1)": f"{totals.whole.psnr(values):.3f} dB",
        "  first frames after a border": f"{totals.border.psnr(values):.3f} dB, {totals.border.frames} frames",
        "  inside chunks": f"{totals.inside.psnr(values):.3f} dB, {totals.inside.frames} frames",
        "speed": f"{count / seconds:.1f} frames/s; first chunk after {1e3 * totals.first_chunk:.0f} ms; "
        f"encode side {totals.encode_side / seconds:.0%}",
        "  outside that": f"reading {in_words(totals.read)}, writing {in_words(written)}",
        "peak resident memory": f"{peak / 2**20:.1f} MiB" if peak else "not told by this system",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, text in lines.items():
        table.add_row(key, text)
    Console().print(table)


def seams(
    method: Annotated[list[str], typer.Argument(help="Methods that stream.")],
    data: Annotated[str, typer.Option(help="Folder of videos, or MANIFEST.csv:SPLIT.")],
    setting: Annotated[
        list[float], typer.Option(help="Repeat for several.", show_default="the middle one of the first")
    ] = [],  # noqa: B006
    chunk: Frames = 16,
    frames: Annotated[int, typer.Option(min=1, help="Taken of every clip; shorter ones are left out.")] = 65,
    out: Annotated[Path | None, typer.Option(help="Folder for seams.csv and seams.md.", show_default=False)] = None,
    size: Size = 128,
    tokenizer: Tokenizer = "",
    set_: Knobs = [],  # noqa: B006
    device: Device = "cpu",
) -> None:
    """Measure what borders between chunks cost, with LIT's two caches and without: each frame against itself."""
    import shlex
    import sys

    import pandas as pd

    from avtbench.bench import seams as measuring
    from avtbench.bench.errors import UserError

    made = {name: _method(name, tokenizer, set_, device) for name in method}
    settings = setting or [_setting(made[method[0]], None)]
    shortest = max(measuring.least_frames(one.step, one.lead, chunk) for one in made.values())
    if frames < shortest:
        raise UserError(f"--frames {frames}: expected at least {shortest} for chunks of {chunk}")
    lines: list[dict[str, Any]] = []
    for row in measuring.rows(made, _clips(data, frames, size, device), settings, chunk):
        lines.append(row)
        if "seam" in row:
            print(f"{row['method']} {row['setting']:g} {row['clip']} {row['caches']}: seam {row['seam']:+.3f} dB")
    if not lines:
        raise UserError(f"--data {data}: no clip has {frames} frames; lower --frames")
    table = pd.DataFrame(lines)
    means = measuring.summary(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "seams.csv", index=False, float_format="%.6g")
        command = shlex.join(["avtbench", *(Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:])])
        digests = {f"{name}.{k}": v for name, one in made.items() for k, v in one.parameters.items()}
        (out / "seams.md").write_text(_page(means, command, chunk, frames, size, digests), encoding="utf-8")
        print(f"{out / 'seams.csv'}: {len(table)} rows; seams.md beside it")
    else:
        print(means.to_string(index=False))


def _page(means: Any, command: str, chunk: int, frames: int, size: int, digests: dict[str, Any]) -> str:
    from avtbench.bench import seams as measuring

    definition = (measuring.__doc__ or "").strip()
    made_of = "\n".join(f"- {key}: {value}" for key, value in digests.items())
    return (
        f"# Borders between chunks\n\nWritten by `{command}`: chunks of {chunk} frames, {frames} frames of every clip "
        f"at {size}x{size}, means over clips, seam with its 95 % interval over clips.\n\n"
        f"{means.to_markdown(index=False, disable_numparse=True)}\n\n## How it is measured\n\n{definition}\n\n"
        f"## What was measured\n\n{made_of}\n"
    )


def _clips(data: str, frames: int, size: int, device: str) -> Iterator[tuple[str, Tensor]]:
    import torch

    from avtbench.bench.training import videos_at
    from avtbench.datasets.contract import View

    dataset = videos_at(data)
    for ref in dataset.clips():
        clip = dataset.read(ref, View(size=size or None, frames=frames))
        if len(clip.video) == frames:
            yield clip.name, torch.from_numpy(clip.video.copy()).to(device)


def _method(name: str, tokenizer: str, sets: list[str], device: str) -> StreamingMethod:
    from avtbench.bench import plugins
    from avtbench.bench.errors import UserError
    from avtbench.bench.spec import knobs_of
    from avtbench.methods.streaming import StreamingMethod

    knobs, under = knobs_of(sets, tokenizer or "embedded")
    takes_one = "tokenizer" in plugins.get("method", name).knobs
    made = plugins.create("method", name, tokenizer=under if takes_one else None, defaults={"device": device}, **knobs)
    reason = made.no_stream if isinstance(made, StreamingMethod) else f"{made.name} takes a clip as a whole"
    if reason:
        raise UserError(f"{name} does not stream: {reason}")
    return made


def _setting(method: StreamingMethod, setting: float | None) -> float:
    if setting is None:
        setting = method.default_settings[len(method.default_settings) // 2]
    return method.check_setting(setting)
