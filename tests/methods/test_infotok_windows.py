"""Cutting a clip into windows and joining them again, without any network."""

import pytest
import torch

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok import Layout, to_uint8


def clip(frames, height, width, seed=0):
    return torch.randint(
        0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_windows_without_overlap_tile_the_clip():
    assert Layout((40, 32, 32), 4, 8, window=17).spans == [(0, 17), (17, 34), (34, 40)]
    assert Layout((17, 32, 32), 4, 8, window=17).spans == [(0, 17)]


def test_overlapping_windows_share_frames():
    assert Layout((16, 32, 32), 4, 8, window=9, overlap=2).spans == [(0, 9), (7, 16)]
    assert Layout((15, 32, 32), 4, 8, window=9, overlap=3).spans == [(0, 9), (6, 15)]


def test_published_padding_is_centred_black_and_repeats_edge_frames_on_both_sides():
    video = clip(7, 44, 56)
    layout = Layout((7, 44, 56), 4, 8, window=9)
    span = (0, 7)
    x = layout.cut(video, span)
    assert x.shape == (1, 3, 9, 48, 64)
    assert layout.grid(span) == (3, 6, 8)
    assert torch.equal(x[..., :2, :], torch.full_like(x[..., :2, :], -1))
    assert torch.equal(x[..., 4 + 56 :], torch.full_like(x[..., :4], -1))
    assert torch.equal(x[:, :, 0], x[:, :, 1])  # one repeated frame in front
    assert torch.equal(x[:, :, 8], x[:, :, 7])  # and one behind
    assert torch.equal(to_uint8(layout.uncut(x, span)), video)


def test_published_padding_goes_to_eight_frames_although_four_would_do():
    assert Layout((5, 32, 32), 4, 8).grid((0, 5)) == (3, 4, 4)
    assert Layout((5, 32, 32), 4, 8, faithful=False).grid((0, 5)) == (2, 4, 4)


def test_corrected_padding_is_behind_only_and_repeats():
    video = clip(3, 20, 24)
    layout = Layout((3, 20, 24), 4, 8, faithful=False)
    x = layout.cut(video, (0, 3))
    assert x.shape == (1, 3, 5, 24, 24)
    assert torch.equal(x[:, :, 4], x[:, :, 2])
    assert torch.equal(to_uint8(layout.uncut(x, (0, 3))), video)


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize(("frames", "overlap"), [(1, 0), (1, 3), (9, 2), (16, 0), (23, 0), (23, 5), (30, 6)])
def test_cut_and_join_give_the_clip_back(frames, overlap, faithful):
    video = clip(frames, 34, 50)
    layout = Layout((frames, 34, 50), 4, 8, window=9, overlap=overlap, faithful=faithful)
    windows = [layout.uncut(layout.cut(video, span), span) for span in layout.spans]
    error = (to_uint8(layout.join(windows)).int() - video.int()).abs()
    assert int(error.max()) <= (1 if overlap and faithful else 0)  # 2/3 + 1/3 of a grey level truncates below it


def test_published_blend_truncates():
    layout = Layout((4, 1, 1), 4, 8, window=3, overlap=2)
    dark, bright = torch.zeros(3, 1, 1, 3), torch.full((3, 1, 1, 3), 100 / 255)
    joined = layout.join([dark, bright])[:, 0, 0, 0] * 255
    assert joined.tolist() == pytest.approx([0, 33, 66, 100])  # a third and two thirds of 100, cut off
    smooth = Layout((4, 1, 1), 4, 8, window=3, overlap=2, faithful=False).join([dark, bright])[:, 0, 0, 0] * 255
    assert smooth.tolist() == pytest.approx([0, 100 / 3, 200 / 3, 100])


def test_latent_frames_that_only_repeat_the_window_before():
    layout = Layout((30, 32, 32), 4, 8, window=9, overlap=5)
    assert [layout.repeated(i) for i in (0, 1)] == [0, 2]


@pytest.mark.parametrize(("window", "overlap"), [(0, 0), (9, 9), (9, -1)])
def test_an_impossible_window_is_named(window, overlap):
    with pytest.raises(ContractError, match=f"window {window} with overlap {overlap}; expected"):
        Layout((20, 32, 32), 4, 8, window, overlap).spans  # noqa: B018
