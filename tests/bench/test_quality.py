"""Quality under tokenbench/1: the same numbers as TokenBench's own tool, raw sums first."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import structural_similarity

from avtbench.bench.metrics import quality
from avtbench.bench.metrics.frame_sums import frame_sums, torch_frame_sums
from avtbench.bench.metrics.profiles import psnr

DATA = Path(__file__).resolve().parents[1] / "data" / "metrics"
PRINTED = {crop["name"]: crop for crop in json.loads((DATA / "tokenbench_pairs.json").read_text())["crops"]}


@pytest.fixture(scope="module")
def pairs() -> dict[str, torch.Tensor]:
    return load_file(DATA / "tokenbench_pairs.safetensors")


def by_scikit_image(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    pairs = zip(x.numpy(), y.numpy(), strict=True)
    return [structural_similarity(a, b, data_range=255, channel_axis=-1) for a, b in pairs]


def noisy(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A ramp with texture in uint8 and a float reconstruction that leaves [0, 1] here and there."""
    random = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 255, shape[2])[None, None, :, None].expand(shape)
    original = (ramp + 30 * torch.randn(shape, generator=random)).clamp(0, 255).to(torch.uint8)
    return original, original / 255 + 0.05 * torch.randn(shape, generator=random)


@pytest.mark.parametrize("name", PRINTED)
def test_the_values_that_tokenbench_printed(pairs, name):
    printed = PRINTED[name]
    found = quality.measure(pairs[f"{name}/gt"], pairs[f"{name}/target"].float() / 255)
    assert found.profile == "tokenbench/1"
    assert psnr(found) == pytest.approx(printed["PSNR"], abs=1e-3)
    assert np.mean(found.frame_ssim) == pytest.approx(printed["SSIM"], abs=1e-4)
    if "SSIM_per_frame" in printed:
        assert found.frame_ssim == pytest.approx(printed["SSIM_per_frame"], abs=1e-5)


@pytest.mark.shared
def test_every_frame_stack_of_the_reference(shared):
    pairs = load_file(shared / "parity" / "metrics_inputs.safetensors")
    crops = json.loads((shared / "parity" / "metrics_reference.json").read_text())["crops"]
    assert len(crops) == 8
    for crop in crops:
        found = quality.measure(pairs[f"{crop['name']}/gt"], pairs[f"{crop['name']}/target"])
        assert np.mean(found.frame_ssim) == pytest.approx(crop["SSIM"], abs=1e-4), crop["name"]
        if crop["mse_float64"] == 0:
            assert psnr(found) == float("inf")
        else:
            assert psnr(found) == pytest.approx(crop["PSNR"], abs=1e-3), crop["name"]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("codec", ["CV8x8x8", "DV8x8x8", "720p"])
def test_the_published_mp4_pairs(shared, codec):
    import av

    reference = json.loads((shared / "parity" / "metrics_reference.json").read_text())["published_pairs"]
    printed = next(pair for pair in reference if codec in pair["target"])
    folder = shared / "data" / "reference"
    sums, similarity, values = 0, [], 0
    with (
        av.open(str(folder / "cosmos_video.mp4")) as original,
        av.open(str(folder / f"cosmos_video_{codec}.mp4")) as coded,
    ):
        for frames in zip(original.decode(video=0), coded.decode(video=0), strict=True):
            x, y = (torch.from_numpy(frame.to_ndarray(format="rgb24")[None]) for frame in frames)
            found = quality.measure(x, y)
            sums, values = sums + found.frame_sse[0], values + found.frame_pixels
            similarity += found.frame_ssim
    assert len(similarity) == 120
    assert 10 * np.log10(255**2 / (sums / values)) == pytest.approx(printed["PSNR"], abs=1e-3)
    assert np.mean(similarity) == pytest.approx(printed["SSIM"], abs=1e-4)


@pytest.mark.parametrize(
    "shape",
    [(1, 7, 7, 3), (3, 7, 30, 3), (5, 31, 44, 3), (40, 64, 64, 3), (2, 150, 1001, 3), (1, 40, 12000, 3)],
    ids=lambda shape: "x".join(map(str, shape[:3])),
)
@pytest.mark.parametrize("sums", [frame_sums, torch_frame_sums], ids=["cpu", "torch"])
def test_ssim_is_scikit_images_wherever_frames_are_cut(shape, sums):
    x, y = noisy(shape)
    rounded = quality.to_uint8(y)
    for given in (y, rounded):
        found = sums(x, given)
        assert found.ssim == pytest.approx(by_scikit_image(x, rounded), abs=1e-5)
        assert found.sse == ((x.long() - rounded.long()) ** 2).sum((1, 2, 3)).tolist()
    exact = ((x.double() - 255 * y.double().clamp(0, 1)) ** 2).sum((1, 2, 3)).tolist()
    assert sums(x, y).sse_float == pytest.approx(exact, rel=1e-5)


def test_flat_bright_frames_keep_their_precision():
    x = torch.full((1, 20, 20, 3), 254, dtype=torch.uint8)
    x[0, ::2] = 255
    y = torch.full_like(x, 255)
    assert frame_sums(x, y).ssim == pytest.approx(by_scikit_image(x, y), abs=1e-5)


def test_rounds_half_up_and_clamps():
    x = torch.zeros(1, 7, 7, 3, dtype=torch.uint8)
    y = torch.full((1, 7, 7, 3), 0.5 / 255)
    assert quality.measure(x, y).frame_sse == [147]  # 0.5 becomes 1
    assert quality.measure(x, y).frame_sse_float == pytest.approx([147 / 4])
    assert quality.measure(x, torch.full_like(y, -3.0)).frame_sse == [0]
    assert quality.measure(x, torch.full_like(y, 7.0)).frame_sse == [147 * 255**2]


def test_half_precision_reconstructions_are_taken_as_they_are():
    x, y = noisy((2, 16, 16, 3))
    for dtype in (torch.float16, torch.bfloat16):
        assert quality.measure(x, y.to(dtype)).frame_sse == quality.measure(x, y.to(dtype).float()).frame_sse


def test_memory_does_not_grow_with_the_clip():
    def peak(frames: int) -> int:
        x, y = noisy((frames, 120, 160, 3))
        tracemalloc.start()
        quality.measure(x, y)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)  # imports
    # how many chunks are alive at once depends on the threads' timing: the best of a few against the worst of a few
    assert min(peak(80) for _ in range(3)) < 1.2 * max(peak(16) for _ in range(3))


def test_an_original_is_not_touched():
    x, y = noisy((2, 16, 16, 3))
    before = x.clone(), y.clone()
    quality.measure(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize(
    ("original", "reconstruction", "told"),
    [
        (torch.zeros(2, 8, 8, 3), torch.zeros(2, 8, 8, 3), "original is torch.float32"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 8, 10, 3), "crop padding off"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 8, 8, 3, dtype=torch.int64), "expected float"),
        (torch.zeros(2, 6, 8, 3, dtype=torch.uint8), torch.zeros(2, 6, 8, 3), "at least 7x7"),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), torch.zeros(0, 8, 8, 3), r"expected uint8 \[T, H, W, 3\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.full((2, 8, 8, 3), torch.nan), "frame 0 .* not finite"),
    ],
)
def test_says_in_one_line_what_does_not_fit(original, reconstruction, told):
    with pytest.raises(ValueError, match=told) as caught:
        quality.measure(original, reconstruction)
    assert "\n" not in str(caught.value)


class Brightness:
    """A column of one's own."""

    column = "brightness"

    def unable(self, height: int, width: int) -> str | None:
        return None if min(height, width) >= 8 else f"brightness: frames are {height}x{width}, needs 8x8"

    def __call__(self, original: torch.Tensor, reconstruction: torch.Tensor) -> list[float]:
        assert original.dtype == reconstruction.dtype == torch.uint8
        return (reconstruction.float() - original.float()).mean((1, 2, 3)).tolist()


def test_a_column_of_ones_own_beside_one_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("AVTBENCH_WEIGHTS", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    x, y = noisy((3, 16, 16, 3))
    found = quality.measure(x, y, lpips=[Brightness(), "squeeze"])
    rounded = quality.to_uint8(y)
    assert found.frame_lpips == {"brightness": pytest.approx((rounded.float() - x.float()).mean((1, 2, 3)).tolist())}
    assert list(found.absent) == ["lpips_squeeze"]
    assert quality.measure(x[:, :7], y[:, :7], lpips=[Brightness()]).absent == {
        "brightness": "brightness: frames are 7x16, needs 8x8"
    }
