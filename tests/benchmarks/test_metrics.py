"""PSNR and SSIM of a clip of 882x1568 frames beside TokenBench's loop over scikit-image.

``pytest tests/benchmarks/test_metrics.py --benchmark-only -o addopts=--import-mode=importlib``, on two cores with
``OMP_NUM_THREADS=2``; ``AVTBENCH_BENCH_FRAMES=120`` takes the length of the published clip, 882 pixels wide and 1568
high (default 8; both sides grow in proportion, and the loop needs 9 GB for 120). ``-m timing`` judges the ratio.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from avtbench.bench.metrics import quality
from avtbench.bench.metrics.profiles import psnr

FRAMES = int(os.environ.get("AVTBENCH_BENCH_FRAMES", "8"))


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    original = torch.empty(FRAMES, 1568, 882, 3, dtype=torch.uint8)
    reconstruction = torch.empty_like(original)
    for x, y in zip(original, reconstruction, strict=True):
        coarse = torch.rand(1, 3, 100, 60, generator=random) * 255
        x.copy_(torch.nn.functional.interpolate(coarse, (1568, 882), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 255))
        y.copy_((x + 5 * torch.randn(x.shape, generator=random)).clamp(0, 255))
    return original, reconstruction


def loop_over_scikit_image(original: np.ndarray, reconstruction: np.ndarray) -> tuple[float, float]:
    """The steps of TokenBench's ``metrics_cli.py``: float32, MSE of the clip, frames handed to a pool of threads of the
    default size, which is more than there are cores."""
    x, y = original.astype(np.float32), reconstruction.astype(np.float32)
    error = ((x - y) ** 2).mean()

    def similarity(pair: tuple[np.ndarray, np.ndarray]) -> float:
        return structural_similarity(*pair, data_range=255, channel_axis=-1)

    with ThreadPoolExecutor() as pool:
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


@pytest.mark.timing
def test_five_times_as_fast_as_the_loop(clip):
    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    arrays = [video.numpy() for video in clip]
    ours, loop = [], []
    for _ in range(5):  # in turn, so that whatever else runs slows both
        ours.append(seconds(lambda: quality.measure(*clip)))
        loop.append(seconds(lambda: loop_over_scikit_image(*arrays)))
    assert min(loop) > 5 * min(ours), f"{min(loop):.2f} s against {min(ours):.2f} s"
