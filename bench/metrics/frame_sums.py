"""Squared error and SSIM of every frame in one pass over the pixels, in a fixed amount of memory.

SSIM equals scikit-image's ``structural_similarity(data_range=255, channel_axis=-1)``: uniform 7x7 window, sample
covariance, interior only (Wang et al. 2004, with a box for a window). All window sums are integers below 2^31, so that
nothing is rounded before the last ratio, which is float32. With ``d = x - y`` the sums of d^2 and x y give both
variances, so four filters do instead of five; a 7-sum takes four additions (two, four, then seven neighbours).

On the CPU :mod:`avtbench.bench.metrics.frame_sums_cpu` does the same in the processor's cache; here stands the plain
version for every other device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avtbench.bench.metrics.frame_sums_cpu import HALF_C1, HALF_C2, LOST, SAMPLES, FrameSums, cpu_frame_sums

_VALUES_AT_ONCE = 1 << 24


def frame_sums(original: Tensor, reconstruction: Tensor) -> FrameSums:
    """uint8 ``[T, H, W, 3]`` against float ``[T, H, W, 3]`` (clamped to [0, 1], rounded half up) or uint8.

    H and W at least 7. NaN in the reconstruction shows as NaN in ``sse_float``.
    """
    if reconstruction.device.type != "cpu":
        return torch_frame_sums(original, reconstruction)
    y = reconstruction.detach()
    y = y.float() if y.dtype == torch.bfloat16 else y
    return cpu_frame_sums(original.cpu().numpy(), y.numpy(), threads=torch.get_num_threads())


@torch.inference_mode()
def torch_frame_sums(original: Tensor, reconstruction: Tensor) -> FrameSums:
    """:func:`frame_sums` in torch, a batch of frames at a time, on the device of ``reconstruction``."""
    found = FrameSums()
    batch = max(1, _VALUES_AT_ONCE // original[0].numel())
    for x, y in zip(original.split(batch), reconstruction.split(batch), strict=True):
        x, exact = x.to(y.device), y.float()
        if y.is_floating_point():
            exact = exact.clamp(0, 1).mul_(255)
        a, b = x.flatten(2).int(), exact.add(0.5).int().flatten(2)
        squared = (a - b) ** 2
        found.sse.extend(squared.sum(dim=(1, 2), dtype=torch.int64).tolist())
        found.sse_float.extend((exact - x).square_().sum(dim=(1, 2, 3), dtype=torch.float64).tolist())
        found.ssim.extend(_similarity(a, b, squared, x.shape[-1]).tolist())
    return found


def _similarity(a: Tensor, b: Tensor, squared: Tensor, channels: int) -> Tensor:
    """Mean SSIM of each of ``[frames, H, W * channels]`` integers and their squared difference."""
    sum_a, sum_b, products, squares = (_seven(_seven(v, 1, 1), 2, channels) for v in (a, b, a * b, squared))
    means = sum_a * sum_b
    spread = (sum_a - sum_b) ** 2
    covariance = (SAMPLES * products - means).double()
    variances = (SAMPLES * squares - spread).double() + 2 * covariance
    shared = means.double() + HALF_C1
    ratio = 4 * shared * (covariance + HALF_C2) / ((spread + 2 * shared) * (variances + 2 * HALF_C2))
    return ratio.mean(dim=(1, 2))


def _seven(values: Tensor, dim: int, step: int) -> Tensor:
    n = values.shape[dim] - LOST * step
    return sum((values.narrow(dim, k * step, n) for k in range(1, 7)), values.narrow(dim, 0, n))
