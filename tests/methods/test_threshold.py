"""LIT's rule, and the facts that follow from its definition."""

import pytest
import torch

from avtbench.methods.threshold import age, declared_mask, hold, last_held, reference_after, threshold_mask


def latents(t: int = 6, seed: int = 0) -> torch.Tensor:
    drift = torch.randn(4, t, 5, 7, generator=torch.Generator().manual_seed(seed))
    return drift.cumsum(1) * 0.3


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_a_negative_threshold_keeps_everything_and_an_infinite_one_the_first_frame(reference):
    z = latents()
    assert threshold_mask(z, -1, reference).all()
    keep = threshold_mask(z, float("inf"), reference)
    assert keep[0].all()
    assert not keep[1:].any()


def test_a_change_equal_to_the_threshold_is_dropped():
    z = torch.zeros(2, 2, 1, 1)
    z[:, 1] = 0.5
    assert not threshold_mask(z, 0.5)[1].any()
    assert threshold_mask(z, 0.4999)[1].all()


def test_with_the_previous_frame_as_reference_kept_counts_never_rise_with_the_threshold():
    z = latents()
    counts = [int(threshold_mask(z, tau, "previous").sum()) for tau in torch.linspace(0, 1, 30).tolist()]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_with_last_kept_every_dropped_position_lies_within_the_threshold_of_what_stands_in_for_it():
    z, tau = latents(t=12), 0.3
    keep = threshold_mask(z, tau, "last_kept")
    apart = (z - hold(z, keep)).abs().mean(0)
    assert (~keep).any()
    assert float(apart[~keep].max()) <= tau


def test_with_previous_a_slow_drift_is_dropped_for_ever():
    z = torch.linspace(0, 10, 101).view(1, -1, 1, 1)
    assert int(threshold_mask(z, 0.15, "previous").sum()) == 1
    assert int(threshold_mask(z, 0.15, "last_kept").sum()) > 40


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_chunks_that_carry_the_reference_give_the_mask_of_the_whole(reference):
    z = latents(t=9)
    whole = threshold_mask(z, 0.3, reference)
    first = threshold_mask(z[:, :4], 0.3, reference)
    second = threshold_mask(z[:, 4:], 0.3, reference, reference_after(z[:, :4], first, reference))
    assert torch.equal(torch.cat([first, second]), whole)


def test_hold_shows_the_last_kept_value_and_age_counts_the_frames_since():
    z = torch.arange(5.0).view(1, 5, 1, 1)
    keep = torch.tensor([True, False, False, True, False]).view(5, 1, 1)
    assert hold(z, keep).flatten().tolist() == [0, 0, 0, 3, 3]
    assert age(keep).flatten().tolist() == [0, 1, 2, 0, 1]


def test_hold_goes_on_from_an_earlier_chunk():
    z, keep = torch.ones(1, 2, 1, 1), torch.tensor([False, True]).view(2, 1, 1)
    assert hold(z, keep, torch.full((1, 1, 1), 7.0)).flatten().tolist() == [7, 1]
    assert hold(z, keep).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("carried", [False, True])
def test_the_newest_held_frame_alone_is_that_of_the_whole(carried):
    z = latents(t=3)
    keep = torch.rand(z.shape[1:], generator=torch.Generator().manual_seed(1)) < 0.3
    before = torch.full_like(z[:, 0], 7.0) if carried else None
    assert torch.equal(last_held(z, keep, before), hold(z, keep, before)[:, -1])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0])
def test_a_declared_mask_keeps_its_share_evenly_and_the_first_frame_whole(share):
    keep = declared_mask(torch.zeros(9, 32, 32, dtype=torch.bool), share)
    assert float(keep.float().mean()) == pytest.approx(share, abs=0.002)
    assert bool(keep[0].all())
    assert len(set(keep[1:].sum((1, 2)).tolist())) == 1
