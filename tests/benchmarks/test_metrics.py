"""PSNR and SSIM of a clip of 882x1568 frames beside TokenBench's loop over scikit-image.

``pytest tests/benchmarks/test_metrics.py --benchmark-enable --benchmark-only``; ``AVTBENCH_BENCH_FRAMES=120`` takes the
length of the published clip (default 8; both sides grow in proportion). On two cores set ``OMP_NUM_THREADS=2``.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from avtbench.bench import quality
from avtbench.bench.profiles import psnr

FRAMES = int(os.environ.get("AVTBENCH_BENCH_FRAMES", "8"))


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    original = torch.empty(FRAMES, 882, 1568, 3, dtype=torch.uint8)
    reconstruction = torch.empty_like(original)
    for x, y in zip(original, reconstruction, strict=True):
        coarse = torch.rand(1, 3, 60, 100, generator=random) * 255
        x.copy_(torch.nn.functional.interpolate(coarse, (882, 1568), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 255))
        y.copy_((x + 5 * torch.randn(x.shape, generator=random)).clamp(0, 255))
    return original, reconstruction


def loop_over_scikit_image(original: np.ndarray, reconstruction: np.ndarray) -> tuple[float, float]:
    """The steps of TokenBench's tool: float32, MSE of the clip, frames handed to a pool of threads."""
    x, y = original.astype(np.float32), reconstruction.astype(np.float32)
    error = ((x - y) ** 2).mean()

    def similarity(pair: tuple[np.ndarray, np.ndarray]) -> float:
        return structural_similarity(*pair, data_range=255, channel_axis=-1)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(similarity, zip(x, y, strict=True)))
    return 10 * float(np.log10(255**2 / error)), float(np.mean(found))


@pytest.mark.benchmark(group="PSNR and SSIM of a clip")
def test_quality_measure(benchmark, clip):
    found = benchmark.pedantic(quality.measure, clip, rounds=3, warmup_rounds=1)
    expected = loop_over_scikit_image(clip[0][:1].numpy(), clip[1][:1].numpy())
    assert np.mean(found.frame_ssim[:1]) == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.benchmark(group="PSNR and SSIM of a clip")
def test_loop_over_scikit_image(benchmark, clip):
    found = benchmark.pedantic(loop_over_scikit_image, [v.numpy() for v in clip], rounds=3, warmup_rounds=1)
    ours = quality.measure(*clip)
    assert found[0] == pytest.approx(psnr(ours), abs=1e-3)
    assert found[1] == pytest.approx(np.mean(ours.frame_ssim), abs=1e-5)
