"""Quality of one reconstruction, raw first: sums and samples per frame, from which every PSNR convention follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from avtbench.bench.metrics.frame_sums import frame_sums
from avtbench.bench.metrics.frame_sums_cpu import WINDOW
from avtbench.bench.metrics.lpips_net import load
from avtbench.bench.metrics.profiles import CANONICAL
from avtbench.bench.rows import Quality

PROFILE = CANONICAL

_BATCH_PIXELS = 1 << 20


class FrameMetric(Protocol):
    """A column measured frame by frame, such as :class:`avtbench.bench.metrics.lpips_net.Lpips`."""

    column: str

    def unable(self, height: int, width: int) -> str | None:
        """Why frames of this size cannot be measured, or None."""

    def __call__(self, original: Tensor, reconstruction: Tensor) -> list[float]:
        """uint8 ``[F, H, W, 3]`` twice -> one value per frame."""


def measure(original: Tensor, reconstruction: Tensor, lpips: Sequence[str | FrameMetric] = ()) -> Quality:
    """Measure under ``tokenbench/1``: TokenBench's fixed definitions, on frames in memory, never through a codec.

    original: uint8 ``[T, H, W, 3]``. reconstruction: float ``[T, H, W, 3]``, clamped to [0, 1] here, rounded half up to
    uint8; or uint8. Both on the original extent. Works on the device of ``reconstruction``, some rows or frames at a
    time, so that memory does not grow with the clip. ``lpips``: names of nets (``vgg``, ``alex``, ``squeeze``; their
    backbones are looked for as :mod:`avtbench.bench.metrics.lpips_net` says) or such columns themselves. A column that
    cannot be measured is left out, its reason stands in ``absent``.

    Raises ValueError in one line where the two do not fit together or the reconstruction is not finite.
    """
    check_pair(original, reconstruction)
    check_finite(reconstruction)
    sums = frame_sums(original, reconstruction)
    columns = [load(entry) if isinstance(entry, str) else entry for entry in lpips]
    reasons = {metric.column: metric.unable(*original.shape[1:3]) for metric in columns}
    return Quality(
        profile=PROFILE,
        frame_pixels=original[0].numel(),
        frame_sse=sums.sse,
        frame_sse_float=sums.sse_float,
        frame_ssim=sums.ssim,
        frame_lpips={m.column: _by_frame(m, original, reconstruction) for m in columns if not reasons[m.column]},
        absent={column: reason for column, reason in reasons.items() if reason},
    )


def identity(lpips: Sequence[str] = (), profile: str = PROFILE) -> dict[str, Any]:
    """What decides the numbers besides the pixels: the profile, and the backbone of each LPIPS column.

    A part of a row's key, so that a row measured without a backbone is measured again once there is one.
    """
    return {"profile": profile, "lpips": {net: load(net).digest or "absent" for net in sorted(set(lpips))}}


def to_uint8(video: Tensor) -> Tensor:
    """Float in [0, 1] (clamped) -> uint8, rounded half up; uint8 stays as it is."""
    return video if video.dtype == torch.uint8 else video.float().clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8)


def _by_frame(metric: FrameMetric, original: Tensor, reconstruction: Tensor) -> list[float]:
    """Ask a metric for a batch of frames at a time."""
    frames = max(1, _BATCH_PIXELS // (original.shape[1] * original.shape[2]))
    pairs = zip(original.split(frames), reconstruction.split(frames), strict=True)
    return [value for x, y in pairs for value in metric(x, to_uint8(y.to(x.device)))]


def check_finite(reconstruction: Tensor) -> None:
    """Raise ValueError in one line that names the first frame with an infinite value or NaN."""
    # least and largest, several times faster than a mask of all values; a sum would overflow in half precision
    if not bool(torch.isfinite(torch.stack(reconstruction.aminmax())).all()):
        broken = int(torch.isfinite(reconstruction).flatten(1).all(1).logical_not().nonzero()[0])
        raise ValueError(
            f"frame {broken} of the reconstruction holds values that are not finite; expected floats around [0, 1]"
        )


def check_pair(original: Tensor, reconstruction: Tensor) -> None:
    """Raise ValueError in one line unless the two are what :func:`measure` takes."""
    if original.dtype != torch.uint8 or original.ndim != 4 or original.shape[-1] != 3 or original.shape[0] == 0:
        raise ValueError(f"the original is {original.dtype} {tuple(original.shape)}, expected uint8 [T, H, W, 3]")
    if reconstruction.shape != original.shape:
        raise ValueError(
            f"the reconstruction is {tuple(reconstruction.shape)}, the original {tuple(original.shape)}; "
            "crop padding off in decode()"
        )
    if not (reconstruction.is_floating_point() or reconstruction.dtype == torch.uint8):
        raise ValueError(f"the reconstruction is {reconstruction.dtype}, expected float in [0, 1] (or uint8)")
    if min(original.shape[1:3]) < WINDOW:
        raise ValueError(f"frames are {original.shape[1]}x{original.shape[2]}, SSIM needs at least {WINDOW}x{WINDOW}")
