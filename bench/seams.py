"""What a border between two chunks costs: the same frames at every position in a chunk, border and inside.

A stream is run once for each phase: the first chunk holds one latent frame more each time, so that all borders move by
one latent frame. Over the ``n`` phases of a chunk of ``n`` latent frames every latent frame stands once at each
position ``0 .. n - 1`` after a border. Its frames are counted where that holds and no end of the clip is near (not in
the first ``lead + n`` nor in the last ``n`` latent frames), so that the sets of frames compared are the same, content
included, and only their distance from the border differs.

    seam   PSNR at position 0 minus PSNR at all other positions, in dB; below zero where borders are worse.
    pulse  highest minus lowest PSNR of a position, in dB: what beats at the rate of the chunks.
    jump   RMS, in levels of 0 to 255, of the change of the error from the frame before to the first frame of a latent
           frame; at position 0 that is the step across the border.

PSNR as ``tokenbench/1`` has it, from the summed squared error of all counted frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avtbench.bench.errors import UserError
from avtbench.bench.streams import Error, run
from avtbench.bench.timing.statistics import bootstrap
from avtbench.methods.streaming import Caches, StreamingMethod, split

VARIANTS = (Caches(), Caches(fill=False), Caches(selection=False), Caches(False, False))
AT_ONCE = "clip at once"
"""In the column ``caches``: not streamed at all."""


def seam(
    method: StreamingMethod, video: Tensor, setting: float, chunk: int, caches: Caches = Caches()
) -> Mapping[str, float]:
    """Measure one clip, uint8 ``[T, H, W, 3]``; see the module for the columns. ``chunk``: frames."""
    step, lead, n = method.step, method.lead, chunk // method.step
    method.chunking(chunk)
    counted = _counted(method, video, chunk)
    errors, jumps = [Error() for _ in range(n)], [Error() for _ in range(n)]
    kept = total = values = 0
    for phase in range(1, n + 1):
        sse: list[int] = []
        changes: list[int] = []
        for done in run(method, split(video, lead + phase * step, chunk), setting, caches, video.device):
            sse += done.sse
            changes += done.jumps
            kept, total, values = kept + done.kept, total + done.total, done.values
        for latent in counted:
            start = lead + latent * step
            position = (latent - phase) % n
            errors[position].add(sse[start : start + step])
            jumps[position].add(changes[start : start + 1])
    at = [error.psnr(values) for error in errors]
    inside, steps_inside, every = (_pooled(part) for part in (errors[1:], jumps[1:], errors))
    return {
        "kept_fraction": kept / total,
        "psnr": every.psnr(values),
        "psnr_border": at[0],
        "psnr_inside": inside.psnr(values),
        "seam": at[0] - inside.psnr(values),
        "pulse": max(at) - min(at),
        "jump_border": jumps[0].rms(values),
        "jump_inside": steps_inside.rms(values),
        **{f"psnr_{position}": value for position, value in enumerate(at)},
    }


@torch.inference_mode()
def at_once(method: StreamingMethod, video: Tensor, setting: float, chunk: int) -> Mapping[str, float]:
    """Kept fraction and PSNR of the same frames where the clip is not streamed."""
    from avtbench.bench.metrics.quality import to_uint8

    tokens = method.select(method.encode(video), setting)
    error = to_uint8(method.decode(tokens)).int() - video.int()
    sse = error.square().flatten(1).sum(1, dtype=torch.int64).tolist()
    counted, every = _counted(method, video, chunk), Error()
    every.add(sse[method.lead + counted.start * method.step : method.lead + counted.stop * method.step])
    return {"kept_fraction": tokens.kept / tokens.total, "psnr": every.psnr(video[0].numel())}


def rows(
    methods: Mapping[str, StreamingMethod], clips: Iterable[tuple[str, Tensor]], settings: Sequence[float], chunk: int,
    variants: Sequence[Caches] = VARIANTS,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row per clip, method, setting and state of the caches."""
    for clip, video in clips:
        for name, method in methods.items():
            for setting in settings:
                known = {"method": name, "setting": setting, "clip": clip, "frames": len(video), "chunk": chunk}
                yield {**known, "caches": AT_ONCE, **at_once(method, video, setting, chunk)}
                for caches in variants:
                    yield {**known, "caches": str(caches), **seam(method, video, setting, chunk, caches)}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over clips by method, setting and caches; of the seam its 95 % interval (bootstrap over clips)."""
    lines = []
    for key, group in table.groupby(["method", "setting", "caches"], sort=False):
        line = dict(zip(("method", "setting", "caches"), key, strict=True))
        line |= {"kept": f"{group.kept_fraction.mean():.3f}", "PSNR": f"{group.psnr.mean():.2f}"}
        if group.seam.notna().all():
            low, high = bootstrap(group.seam.tolist(), np.mean)
            told = f"[{low:+.3f}, {high:+.3f}]" if len(group) > 1 else "one clip, no interval"
            line |= {
                "at border": f"{group.psnr_border.mean():.2f}",
                "inside": f"{group.psnr_inside.mean():.2f}",
                "seam (dB)": f"{group.seam.mean():+.3f} {told}",
                "worst clip": f"{group.seam.min():+.3f}",
                "pulse (dB)": f"{group.pulse.mean():.3f}",
                "jump at border": f"{group.jump_border.mean():.2f}",
                "jump inside": f"{group.jump_inside.mean():.2f}",
            }
        lines.append({**line, "clips": len(group)})
    return pd.DataFrame(lines).fillna("")


def least_frames(step: int, lead: int, chunk: int) -> int:
    """Frames a clip needs so that one latent frame is counted."""
    return lead + (2 * (chunk // step) + 1) * step


def _counted(method: StreamingMethod, video: Tensor, chunk: int) -> range:
    """Latent frames, the lead not among them, that stand once at every position after a border."""
    least = least_frames(method.step, method.lead, chunk)
    if len(video) < least or chunk <= method.step:
        raise UserError(
            f"a clip of {len(video)} frames in chunks of {chunk}: expected at least {least} frames and chunks of more "
            f"than {method.step}; give a longer clip"
        )
    n = chunk // method.step
    return range(n, (len(video) - method.lead) // method.step - n)


def _pooled(errors: Sequence[Error]) -> Error:
    return Error(sum(e.sse for e in errors), sum(e.frames for e in errors))
