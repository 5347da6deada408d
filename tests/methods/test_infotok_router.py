"""The router by hand: what each rule keeps, which quirk is the published one and what ``faithful=False`` mends."""

import pytest
import torch

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok import elbo_ratios, get_allocated_ratios, global_rates, keep_mask, mask_tokens


@pytest.fixture
def loss():
    """Twelve different losses in three latent frames of 2 x 2; later frames are harder."""
    return torch.arange(1.0, 13.0).reshape(1, 3, 2, 2)


def kept(loss, rate, method="mse", strategy="static", **how):
    return keep_mask(loss, get_allocated_ratios(loss, rate, method == "mse", strategy), method, **how)


def test_high_losses_are_kept(loss):
    assert torch.equal(kept(loss, 0.5), loss > 6.5)


def test_published_quantile_is_strict_and_the_corrected_count_is_exact(loss):
    assert int(kept(loss, 1.0).sum()) == 11
    assert int(kept(loss, 1.0, faithful=False).sum()) == 12
    flat = torch.ones_like(loss)
    assert int(kept(flat, 0.5).sum()) == 0
    assert torch.equal(kept(flat, 0.5, faithful=False).flatten(), torch.arange(12) < 6)


def test_order_keeps_one_more_than_asked(loss):
    assert kept(loss, 0.5, "order").sum(dim=(2, 3)).tolist() == [[3, 3, 3]]
    assert kept(loss, 0.5, "order", faithful=False).sum(dim=(2, 3)).tolist() == [[2, 2, 2]]


def test_order_k_spreads_the_kept_tokens():
    loss = torch.rand(1, 1, 2, 4)
    ratios = torch.full((1, 1), 0.25)  # floor(0.25 * 8) + 1 = 3 tokens of raster order
    assert keep_mask(loss, ratios, "order").flatten().int().tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert keep_mask(loss, ratios, "order_2").flatten().int().tolist() == [1, 0, 1, 0, 1, 0, 0, 0]
    assert keep_mask(loss, ratios, "order_4").flatten().int().tolist() == [1, 1, 0, 0, 1, 0, 0, 0]


def test_strategies_are_one_and_the_same_with_the_published_mask(loss):
    for strategy in ("static", "elbo", "uniform", "global_elbo"):
        assert torch.equal(get_allocated_ratios(loss, 0.03, True, strategy), torch.tensor([[0.03]]))


def test_elbo_follows_the_frame_losses_and_stays_in_its_limits(loss):
    ratios = get_allocated_ratios(loss, 0.5, False, "elbo")
    frames = loss.mean(dim=(2, 3))
    assert torch.allclose(ratios, 0.5 * frames / frames.mean(), atol=1e-5)
    assert torch.equal(elbo_ratios(loss, 1.0), torch.ones(1, 3))
    assert float(get_allocated_ratios(loss, 0.01, False, "elbo").min()) == 0.0625


def test_uniform_is_random_but_repeatable(loss):
    draws = [
        get_allocated_ratios(loss, 0.25, False, "uniform", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_global_rates_compare_windows():
    assert global_rates([1.0, 3.0], 2.0, 0.5) == pytest.approx([0.25, 0.75])
    assert global_rates([0.01, 9.0], 2.0, 0.5) == [0.0625, 1.0]
    assert global_rates([1.5, 2.5, 0.2], 2.0, 0.5, binned=True) == [0.5, 0.5, 0.0625]  # .375 and .625: half to even


def test_dropped_codes_become_zero(loss):
    codes = torch.ones(1, 6, 3, 2, 2)
    masked, keep = mask_tokens(codes, loss, torch.tensor([[0.5]]))
    assert torch.equal(masked, keep.unsqueeze(1).expand_as(codes).float())


def test_each_clip_of_a_batch_is_routed_alone(loss):
    pair = torch.cat((loss, loss.flip(1) * 7))
    for method in ("mse", "order"):
        both = kept(pair, 0.4, method, "elbo")
        assert torch.equal(both, torch.cat([kept(one, 0.4, method, "elbo") for one in pair.split(1)]))


@pytest.mark.parametrize("method", ["nearest", "order_", "order_0", "mse_2"])
def test_an_unknown_mask_is_named(loss, method):
    with pytest.raises(ContractError, match=f"mask method '{method}' is unknown; use 'mse', 'order'"):
        keep_mask(loss, torch.tensor([[0.5]]), method)


def test_an_unknown_strategy_is_named(loss):
    with pytest.raises(ContractError, match="strategy 'elboema' is unknown; use one of elbo, global_elbo"):
        get_allocated_ratios(loss, 0.5, False, "elboema")


def test_a_stride_must_divide_the_frame(loss):
    with pytest.raises(ContractError, match="2 x 2 = 4 tokens divide by 3"):
        kept(loss, 0.5, "order_3")
