"""Metric profiles: each as its source defines it, read from stored sums where that can be, never mixed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from avtbench.bench.metrics import conventions, profiles
from avtbench.bench.metrics import quality as canonical
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Quality, Rate, Row, Status

DATA = Path(__file__).resolve().parents[1] / "data" / "metrics"
NAMES = [
    "tokenbench/1", "frame-mean/1", "vidtok/1", "elastictok-mse/1", "as-published-mp4/1", "tokenbench-uint8wrap/0",
]  # fmt: skip


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Nine real frames and a float reconstruction whose error grows from frame to frame."""
    stacks = load_file(DATA / "tokenbench_pairs.safetensors")
    name = json.loads((DATA / "tokenbench_pairs.json").read_text())["crops"][0]["name"]
    original = stacks[f"{name}/gt"]
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    return original, original / 255 + noise * torch.linspace(0.01, 0.1, 9)[:, None, None, None]


def sums(frame_sse: list[int], profile: str = "tokenbench/1") -> Quality:
    return Quality(
        profile=profile, frame_pixels=300, frame_sse=frame_sse, frame_sse_float=[float(s) for s in frame_sse],
        frame_ssim=[1.0] * len(frame_sse),
    )  # fmt: skip


def row(quality: Quality) -> Row:
    rate = Rate(kept=1, total=4, payload_bits=256, mask_bits=4, mask_bits_coded=8)
    return Row(
        key="k", status=Status.DONE, pass_="quality", method="m", tier="shared", family="threshold", weights="none",
        dataset="d", clip="c", frames=2, height=10, width=10, rate=rate, quality=quality,
    )  # fmt: skip


def test_the_profiles():
    assert list(profiles.PROFILES) == NAMES
    assert [name for name in NAMES if not profiles.get(name).plotted] == ["tokenbench-uint8wrap/0"]


@pytest.mark.parametrize("name", NAMES)
def test_each_measures_pixels_under_its_own_name(pair, name):
    found = conventions.measure(name, *pair)
    assert found.profile == name
    assert 10 < profiles.psnr(found) < 50


def test_whole_clip_and_frame_mean():
    found = sums([300, 30000])  # MSE 1 and 100
    assert profiles.psnr(found) == pytest.approx(10 * math.log10(255**2 / 50.5))
    by_frame = profiles.reread(found, "frame-mean/1")
    assert profiles.psnr(by_frame) == pytest.approx(10 * math.log10(255**2) - 10)


def test_elastictok_counts_blocks_of_four_frames_on_minus_one_to_one():
    per_frame = 0.003 * 300 * (255 / 2) ** 2
    found = sums([round(per_frame)] * 6).model_copy(update={"frame_sse_float": [per_frame] * 4 + [3 * per_frame] * 2})
    assert profiles.block_mse(found) == pytest.approx([0.003, 0.009])
    first = found.model_copy(update={"frame_sse_float": [per_frame] * 4})
    assert profiles.psnr(profiles.reread(first, "elastictok-mse/1")) == pytest.approx(31.25, abs=0.005)


def test_uint8_arithmetic_wraps_as_numpys_does(pair):
    x, y = pair[0].numpy(), canonical.to_uint8(pair[1]).numpy()
    wrapped = ((x - y) ** 2).mean()  # what the tool computed before it was mended
    found = conventions.measure("tokenbench-uint8wrap/0", *pair)
    assert profiles.psnr(found) == pytest.approx(10 * math.log10(255**2 / wrapped), abs=1e-6)
    assert profiles.psnr(found) > profiles.psnr(canonical.measure(*pair)) + 0.4


def plain_gaussian_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Float ``[3, H, W]`` in [0, 1], written down with an 11 x 11 window and no library."""
    offset = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[None, None].expand(3, 1, 11, 11)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(values[None], window, groups=3)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


@pytest.mark.parametrize("side", [64, 600])
def test_vidtok_pools_then_takes_a_gaussian_window(side):
    random = torch.Generator().manual_seed(0)
    x = torch.rand(side, side + 30, 3, generator=random, dtype=torch.float64)
    y = (x + 0.1 * torch.randn(x.shape, generator=random, dtype=torch.float64)).clamp(0, 1)
    factor = {64: 1, 600: 2}[side]
    pooled = [torch.nn.functional.avg_pool2d(v.permute(2, 0, 1), factor) for v in (x, y)]
    assert conventions.gaussian_ssim(x, y) == pytest.approx(float(plain_gaussian_ssim(*pooled)), abs=1e-6)


def test_vidtok_takes_the_mean_of_frames_before_rounding(pair):
    x, y = pair[0].double() / 255, pair[1].double().clamp(0, 1)
    error = ((x - y) ** 2).mean((1, 2, 3))
    found = conventions.measure("vidtok/1", *pair)
    assert profiles.psnr(found) == pytest.approx(float((-10 * torch.log10(error + 1e-8)).mean()), abs=1e-4)


def test_a_codec_caps_a_perfect_tokeniser(pair):
    perfect = conventions.measure("as-published-mp4/1", pair[0], pair[0])
    assert profiles.psnr(perfect) == math.inf
    assert 30 < profiles.ceiling(perfect) < 50
    coded = conventions.mp4_round_trip(pair[0])
    assert profiles.ceiling(perfect) == pytest.approx(profiles.psnr(canonical.measure(pair[0], coded)))
    assert profiles.ceiling(canonical.measure(*pair)) is None


def test_columns_per_frame_see_the_coded_frames_on_both_sides(pair):
    class Distance:
        column = "distance"

        def unable(self, height, width):
            return None

        def __call__(self, original, reconstruction):
            seen.append((original, reconstruction))
            return [0.0] * len(original)

    seen = []
    found = conventions.measure("as-published-mp4/1", *pair, lpips=[Distance()])
    assert len(found.frame_lpips["distance"]) == len(pair[0])
    assert torch.equal(torch.cat([x for x, _ in seen]), conventions.mp4_round_trip(pair[0]))
    assert torch.equal(torch.cat([y for _, y in seen]), conventions.mp4_round_trip(canonical.to_uint8(pair[1])))


def test_odd_sides_go_through_the_codec_too(pair):
    odd = pair[0][:3, :65, :81]
    assert conventions.mp4_round_trip(odd).shape == odd.shape


def test_stored_sums_answer_without_pixels(pair):
    stored = canonical.measure(*pair)
    for name in ("frame-mean/1", "elastictok-mse/1"):
        assert profiles.psnr(profiles.reread(stored, name)) == profiles.psnr(conventions.measure(name, *pair))
    with pytest.raises(profiles.ProfileError, match="vidtok/1 does not follow from the stored sums of tokenbench/1"):
        profiles.reread(stored, "vidtok/1")
    with pytest.raises(profiles.ProfileError, match="does not follow"):
        profiles.reread(conventions.measure("tokenbench-uint8wrap/0", *pair), "tokenbench/1")


def test_a_column_of_each_convention_beside_the_canonical_one(pair):
    point = row(canonical.measure(*pair))
    assert MEASURES["psnr"].value(point) == profiles.psnr(point.quality)
    assert MEASURES["psnr_frame_mean"].value(point) == profiles.psnr(conventions.measure("frame-mean/1", *pair))
    assert MEASURES["mse_elastictok"].value(point) == pytest.approx(np.mean(profiles.block_mse(point.quality)))
    other = row(conventions.measure("vidtok/1", *pair))
    assert MEASURES["psnr_frame_mean"].value(other) is None
    assert MEASURES["ssim"].value(row(conventions.measure("elastictok-mse/1", *pair))) is None


def test_lossless_is_stored_as_zero_error(pair):
    found = canonical.measure(pair[0], pair[0])
    assert found.frame_sse == [0] * 9
    assert MEASURES["psnr"].value(row(found)) == math.inf


@pytest.mark.parametrize("profile", ["", "psnr", "TokenBench/1", "tokenbench/", "tokenbench/1.0"])
def test_nothing_is_stored_without_a_named_and_versioned_profile(profile):
    with pytest.raises(ValidationError, match="profile"):
        sums([1], profile)


def test_two_profiles_never_share_a_column_or_an_axis():
    assert profiles.require_one(["vidtok/1", "vidtok/1"]) == "vidtok/1"
    with pytest.raises(profiles.ProfileError, match="metric profiles tokenbench/1 and vidtok/1; a table or an axis"):
        profiles.require_one(["vidtok/1", "tokenbench/1"])
    with pytest.raises(profiles.ProfileError, match="rows hold no metric profile"):
        profiles.require_one([])
    with pytest.raises(profiles.ProfileError, match="historical and never plotted"):
        profiles.require_one(["tokenbench-uint8wrap/0"])
    with pytest.raises(profiles.ProfileError, match=r"no metric profile 'tokenbench'; did you mean tokenbench/1"):
        profiles.get("tokenbench")


def test_one_table_of_what_each_says_about_the_same_pixels(pair):
    table = conventions.table(*pair)
    assert list(table["profile"]) == NAMES
    assert table["PSNR (dB)"].round(2).nunique() >= 5
    assert table.set_index("profile")["ceiling (dB)"].notna().to_dict() == {
        name: name == "as-published-mp4/1" for name in NAMES
    }
    same = conventions.table(pair[0].numpy(), pair[0].numpy())
    assert (same["PSNR (dB)"] == math.inf).all()


def test_the_table_reads_files(tmp_path, pair):
    from avtbench.datasets.video import write_lossless

    write_lossless(tmp_path / "clip.mp4", pair[0].numpy())
    write_lossless(tmp_path / "recon.mp4", canonical.to_uint8(pair[1]).numpy())
    from_files = conventions.table(tmp_path / "clip.mp4", str(tmp_path / "recon.mp4"))
    direct = conventions.table(pair[0], canonical.to_uint8(pair[1]))
    assert from_files.equals(direct)
    write_lossless(tmp_path / "short.mp4", pair[0][:5].numpy())
    with pytest.raises(ValueError, match="the clip is 9 frames of 96x128, the reconstruction 5 frames of 96x128"):
        conventions.table(tmp_path / "clip.mp4", tmp_path / "short.mp4")
