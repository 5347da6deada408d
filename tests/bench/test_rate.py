"""Rate is counted from the tokens; masks are packed by a coder whose output is unpacked again here."""

import math

import numpy as np
import pytest
import torch

from avtbench.bench.metrics import mask_coder, rate
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Quality, Rate, Row, Status
from avtbench.methods.contract import Tokens


def continuous(keep: torch.Tensor, channels: int = 16, **more) -> Tokens:
    return Tokens(values=torch.zeros(int(keep.sum()), channels), keep=keep, video=(17, 128, 128), **more)


def share(kept: float, shape: tuple[int, int, int] = (5, 16, 16)) -> torch.Tensor:
    keep = torch.zeros(math.prod(shape), dtype=torch.bool)
    keep[torch.randperm(keep.numel(), generator=torch.Generator().manual_seed(0))[: round(kept * keep.numel())]] = True
    return keep.reshape(shape)


def row(found: Rate, **more) -> Row:
    quality = Quality(
        profile="tokenbench/1", frame_pixels=1, frame_sse=[1] * 17, frame_sse_float=[1] * 17, frame_ssim=[1] * 17
    )
    return Row(
        key="k", status=Status.DONE, pass_="quality", method="m", tier="shared", family="threshold", weights="none",
        dataset="d", clip="c", frames=17, height=128, width=128, rate=found, quality=quality, **more,
    )  # fmt: skip


def test_continuous_tokens_cost_channels_times_precision():
    found = rate.count(continuous(share(0.25)))
    assert (found.kept, found.total, found.blocks) == (320, 1280, 0)
    assert found.payload_bits == 320 * 16 * 16
    assert found.mask_bits == 1280
    assert rate.count(continuous(share(0.25), precision=8)).payload_bits == 320 * 16 * 8


def test_codes_cost_the_logarithm_of_the_codebook():
    keep = share(0.5)
    codes = torch.zeros(640, dtype=torch.int64)
    assert rate.count(Tokens(codes, keep, (17, 128, 128), codebook=65536)).payload_bits == 640 * 16
    assert rate.count(Tokens(codes, keep, (17, 128, 128), codebook=64000)).payload_bits == math.ceil(
        640 * math.log2(64000)
    )


def test_prefix_masks_cost_one_count_a_block():
    keep = torch.arange(256) < torch.tensor([[256], [0], [17], [130]])
    found = rate.count(continuous(keep, mask_kind="prefix"))
    assert (found.kept, found.total, found.blocks) == (403, 1024, 4)
    assert found.mask_bits == 4 * math.ceil(math.log2(256 + 1)) == 36


def test_a_prefix_mask_with_a_hole_is_refused():
    keep = torch.tensor([[True, True, False], [True, False, True]])
    with pytest.raises(ValueError, match="block 1 of a prefix mask keeps a token after a dropped one"):
        rate.count(continuous(keep, mask_kind="prefix"))


def test_what_else_the_receiver_needs_is_counted():
    more = {"windows": torch.zeros(3, dtype=torch.int32), "rate": torch.zeros(1, dtype=torch.float16)}
    assert rate.count(continuous(share(0.5), extra=more)).extra_bits == 3 * 32 + 16


def test_overlapping_windows_count_as_often_as_they_are_coded():
    windows = torch.cat([share(0.5), share(0.25)])  # two windows of five latent frames
    found = rate.count(continuous(windows))
    assert (found.kept, found.total) == (640 + 320, 2560)


@pytest.mark.parametrize(("kept", "published"), [(0.75, 0.81), (0.5, 0.56), (0.25, 0.31)])
def test_bpp16_is_infotoks(kept, published):
    bpp16 = MEASURES["bpp16"].value(row(rate.count(continuous(share(kept)))))
    assert bpp16 == pytest.approx(kept + 1 / 16)
    assert bpp16 == pytest.approx(published, abs=0.005)


def test_every_rate_column():
    found = rate.count(continuous(share(0.25)))
    point = row(found, setting=0.3, setting_name="rate")
    values = {name: MEASURES[name].value(point) for name in MEASURES}
    pixels = 17 * 128 * 128
    assert values["kept"] == 320
    assert values["total"] == 1280
    assert values["kept_fraction"] == 0.25
    assert values["requested_rate"] == 0.3
    assert values["rate_gap"] == pytest.approx(-0.05)
    assert values["payload_bpp"] == 320 * 256 / pixels
    assert values["mask_bpp"] == 1280 / pixels
    assert values["mask_bpp_coded"] == found.mask_bits_coded / pixels
    assert values["bpp"] == pytest.approx(values["payload_bpp"] + values["mask_bpp_coded"])


def test_a_threshold_is_not_a_requested_rate():
    point = row(rate.count(continuous(share(0.25))), setting=0.3, setting_name="threshold")
    assert MEASURES["requested_rate"].value(point) is None
    assert MEASURES["rate_gap"].value(point) is None


# the coder


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (5, 16, 16), (9, 4, 30)])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.2, 0.5, 0.97, 1.0])
def test_position_masks_come_back(shape, kept):
    for seed in range(5):
        keep = np.random.default_rng(seed).random(shape) < kept
        packed = mask_coder.encode_positions(keep)
        assert np.array_equal(mask_coder.decode_positions(packed, shape), keep)


def test_small_masks_of_every_pattern_come_back():
    for pattern in range(256):
        keep = np.array([pattern >> k & 1 for k in range(8)], bool).reshape(2, 2, 2)
        assert np.array_equal(mask_coder.decode_positions(mask_coder.encode_positions(keep), (2, 2, 2)), keep)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 256, 4096])
def test_prefix_masks_come_back(length):
    counts = np.random.default_rng(0).integers(0, length + 1, 50)
    keep = np.arange(length) < counts[:, None]
    packed = mask_coder.encode_prefix(keep)
    assert np.array_equal(mask_coder.decode_prefix(packed, keep.shape), keep)


def test_contexts_pay_where_a_mask_has_structure():
    still = np.zeros((9, 32, 32), bool)
    still[:, 8:20, 10:22] = True  # a square that stays where it is
    noise = np.random.default_rng(0).random(still.shape) < still.mean()
    entropy = still.size * -sum(p * math.log2(p) for p in (still.mean(), 1 - still.mean()))
    packed, unstructured = (8 * len(mask_coder.encode_positions(mask)) for mask in (still, noise))
    assert packed < 0.15 * entropy
    assert entropy < 1.1 * unstructured < 1.2 * entropy


def test_long_runs_do_not_wear_the_counts_out(monkeypatch):
    keep = np.zeros((6, 110, 110), bool)
    keep[-1, -1, -1] = True
    packed = mask_coder.encode_positions(keep)
    assert len(packed) < 40
    assert np.array_equal(mask_coder.decode_positions(packed, keep.shape), keep)
