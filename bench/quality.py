"""Quality of one reconstruction, raw first: sums and samples per frame, from which every PSNR convention follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from avtbench.bench.rows import Quality

CANONICAL = "tokenbench/1"

WINDOW = 7
_SAMPLES = WINDOW * WINDOW
_C1 = (0.01 * 255 * _SAMPLES) ** 2
_C2 = (0.03 * 255) ** 2 * _SAMPLES * (_SAMPLES - 1)
_CHUNK_PIXELS = 1 << 21
_STRIP_VALUES = 1 << 16


class FrameMetric(Protocol):
    """A column measured frame by frame, such as :class:`avtbench.bench.lpips_net.Lpips`."""

    column: str
    absent: str | None
    """Why the column cannot be measured, or None."""

    def __call__(self, original: Tensor, reconstruction: Tensor) -> list[float]:
        """uint8 ``[F, H, W, 3]`` twice -> one value per frame."""


def measure(original: Tensor, reconstruction: Tensor, lpips: Sequence[FrameMetric] = ()) -> Quality:
    """Measure under ``tokenbench/1``: TokenBench's fixed definitions, on frames in memory.

    original: uint8 ``[T, H, W, 3]``. reconstruction: float ``[T, H, W, 3]``, clamped to [0, 1] here, rounded half up to
    uint8; or uint8. Both on the original extent. Works on the device of ``original``, some frames at a time, so that
    memory does not grow with the clip. ``lpips``: one object per network (:mod:`avtbench.bench.lpips_net`).

    Raises ValueError in one line where the two do not fit together or the reconstruction is not finite.
    """
    _check(original, reconstruction)
    sse: list[int] = []
    sse_float: list[float] = []
    similarity: list[float] = []
    present = [metric for metric in lpips if metric.absent is None]
    perceptual: dict[str, list[float]] = {metric.column: [] for metric in present}
    with torch.inference_mode():
        for first, x, exact in _chunks(original, reconstruction):
            y = to_uint8(exact)
            difference = exact - x
            sums = difference.square_().sum(dim=(1, 2, 3), dtype=torch.float64)
            if not bool(sums.isfinite().all()):
                frame = first + int((~sums.isfinite()).nonzero()[0])
                raise ValueError(f"frame {frame} of the reconstruction holds NaN; expected finite values in [0, 1]")
            sse_float += sums.tolist()
            errors, indices = ssim_frames(x, y)
            sse += errors
            similarity += indices
            for metric in present:
                perceptual[metric.column] += metric(x, y)
    return Quality(
        profile=CANONICAL,
        frame_pixels=original[0].numel(),
        frame_sse=sse,
        frame_sse_float=sse_float,
        frame_ssim=similarity,
        frame_lpips=perceptual,
        absent={metric.column: metric.absent for metric in lpips if metric.absent is not None},
    )


def to_uint8(exact: Tensor) -> Tensor:
    """Values in 0..255 (float) -> uint8, rounded half up."""
    return exact.add(0.5).floor_().to(torch.uint8)


def _chunks(original: Tensor, reconstruction: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First frame, uint8 original and float32 reconstruction in units of 255, a few frames at a time."""
    frames = max(1, _CHUNK_PIXELS // (original.shape[1] * original.shape[2]))
    for first in range(0, original.shape[0], frames):
        x = original[first : first + frames]
        y = reconstruction[first : first + frames].to(x.device)
        yield first, x, y.float() if y.dtype == torch.uint8 else y.float().clamp(0, 1).mul_(255)


def _check(original: Tensor, reconstruction: Tensor) -> None:
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


def ssim_frames(original: Tensor, reconstruction: Tensor) -> tuple[list[int], list[float]]:
    """Squared error and SSIM of every frame of two uint8 ``[F, H, W, 3]`` tensors.

    SSIM equals scikit-image's ``structural_similarity(data_range=255, channel_axis=-1)``: uniform 7x7 window, sample
    covariance, interior only. Window sums are exact integers, only the last ratio is float32.
    """
    errors, indices = [], []
    for x, y in zip(original, reconstruction, strict=True):
        height, width = x.shape[:2]
        a, b = x.reshape(height, -1).to(torch.int32), y.reshape(height, -1).to(torch.int32)
        squared = (a - b).square_()
        errors.append(int(squared.sum(dtype=torch.int64)))
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        rows = max(WINDOW, _STRIP_VALUES // (3 * width))
        for top in range(0, height - WINDOW + 1, rows):
            part = slice(top, top + rows + WINDOW - 1)
            total += _similarity(a[part], b[part], squared[part])
        indices.append(float(total) / (3 * (height - WINDOW + 1) * (width - WINDOW + 1)))
    return errors, indices


def _similarity(a: Tensor, b: Tensor, squared: Tensor) -> Tensor:
    """Sum of the SSIM map of int32 ``[rows, width * 3]`` values and their squared difference."""
    sa, sb, sab, sdd = _window(a), _window(b), _window(a * b), _window(squared)
    product = sa * sb
    covariance = (_SAMPLES * sab).sub_(product)
    spread = (sa - sb).square_()
    # x^2 + y^2 = (x - y)^2 + 2 x y, so the two variances need no filter of their own
    variances = (_SAMPLES * sdd).sub_(spread).add_(covariance, alpha=2)
    means = product.float()
    numerator = means.mul(2).add_(_C1).mul_(covariance.float().mul_(2 * _F).add_(_C2 * _F))
    denominator = spread.float().add_(means, alpha=2).add_(_C1).mul_(variances.float().mul_(_F).add_(_C2 * _F))
    return numerator.div_(denominator).sum(dtype=torch.float64)


_F = 2.0**-16  # keeps the products inside float32's comfortable range


def _window(values: Tensor) -> Tensor:
    """7x7 sums of interleaved ``[rows, width * 3]`` values, in four additions per direction."""
    return _seven(_seven(values, 0, 1), 1, 3)


def _seven(values: Tensor, dim: int, step: int) -> Tensor:
    n = values.shape[dim]
    two = values.narrow(dim, 0, n - step) + values.narrow(dim, step, n - step)
    four = two.narrow(dim, 0, n - 3 * step) + two.narrow(dim, 2 * step, n - 3 * step)
    out = n - 6 * step
    return (four.narrow(dim, 0, out) + two.narrow(dim, 4 * step, out)).add_(values.narrow(dim, 6 * step, out))
