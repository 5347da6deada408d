"""The Latent Inpainting Transformer: only dropped positions pass through it, with the result of the full grid."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from avtbench.methods.contract import ContractError
from avtbench.methods.lit.features import describe
from avtbench.methods.lit.groups import spatial_groups, temporal_groups
from avtbench.methods.lit.network import REACH, LatentInpaintingTransformer, LITConfig
from avtbench.methods.threshold import threshold_mask


def network(**options) -> LatentInpaintingTransformer:
    torch.manual_seed(0)
    made = LatentInpaintingTransformer(LITConfig(**{"channels": 4, "width": 16, "depth": 2, "heads": 2, **options}))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def clip(*shape, kept=0.5):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(shape, generator=generator).cumsum(2)
    keep = torch.rand(shape[0], *shape[2:], generator=generator) < kept
    keep[:, 0] = True
    return z, keep


def attend(layer, x, memory, member, lag):
    """One attention layer for every token on its own: ``member[i]`` are the tokens that token i looks at."""
    size, key_value = (layer.heads, x.shape[1] // layer.heads), layer.key_value(memory)
    out = []
    for i, seen in enumerate(member):
        q = layer.query(layer.norm(x[i])).view(size)
        k, v = (part.reshape(len(seen), *size) for part in key_value[seen].chunk(2, dim=-1))
        score = torch.einsum("hd,mhd->hm", q, k) / size[1] ** 0.5
        if layer.distance is not None:
            score = score + layer.distance[:, torch.tensor(lag[i]).clamp(-REACH, REACH) + REACH]
        out.append(torch.einsum("hm,mhd->hd", score.softmax(-1), v).flatten())
    return x + layer.out(torch.stack(out))


def dense(net, z, keep):
    """The same network, a query at every position of the grid, kept or not; 1 clip, one tile."""
    _, c, t, h, w = z.shape
    seen = describe(z.movedim(1, -1), keep, net.mask)
    y = net._embed(seen.inputs, 1, t)
    memory = net.memory(y)
    tokens = [(k, y, x) for k in range(t) for y in range(h) for x in range(w)]
    number = {token: i for i, token in enumerate(tokens)}
    in_frame = [[number[k, y, x] for y in range(h) for x in range(w)] for k, _, _ in tokens]
    in_time = [[number[s, y, x] for s in range(t)] for _, y, x in tokens]
    everywhere = [list(range(len(tokens)))] * len(tokens)
    members = [in_frame, in_time] if net.config.attention == "factorised" else [everywhere]
    lags = [[[tokens[m][0] - tokens[i][0] for m in seen] for i, seen in enumerate(member)] for member in members]
    for block in net.blocks:
        for layer, member, lag in zip(block.attention, members, lags, strict=True):
            y = attend(layer, y, memory, member, lag)
        y = y + block.mlp(y)
    value = net._value(net.out(net.norm(y)), seen, torch.arange(len(tokens)))
    return torch.where(keep.unsqueeze(1), z, value.view(1, t, h, w, c).movedim(-1, 1))


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["factorised", "joint"])
@pytest.mark.parametrize("given", ["held", "mask"])
def test_packing_the_dropped_positions_changes_nothing(attention, given):
    net = network(attention=attention, input=given)
    z, keep = clip(1, 4, 4, 5, 6)
    keep[0, 2] = True  # a frame without a dropped position between others
    assert torch.allclose(net(z, keep), dense(net, z, keep), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["factorised", "joint"])
def test_clips_of_a_batch_do_not_see_each_other(attention):
    net = network(attention=attention, window=3)
    z, keep = clip(3, 4, 3, 7, 8)
    each = torch.cat([net(z[i : i + 1], keep[i : i + 1]) for i in range(3)])
    assert torch.allclose(net(z, keep), each, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["factorised", "joint"])
def test_the_cost_falls_with_the_kept_fraction(attention):
    net = network(attention=attention, width=32)
    costs = []
    for kept in (0.0, 0.25, 0.5, 0.75, 0.95):
        z, keep = clip(1, 4, 5, 16, 16, kept=kept)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net(z, keep)
        costs.append(counter.get_total_flops())
    assert costs == sorted(costs, reverse=True)
    # what is left is the embedding of all positions
    assert costs[-1] < 0.65 * costs[0]
    with FlopCounterMode(display=False) as counter:
        net(z, torch.ones_like(keep))
    assert counter.get_total_flops() == 0


@torch.inference_mode()
def test_time_is_relative_and_the_past_a_context():
    """Known frames that come before, as a stream has them, shift nothing: only what lies within reach is told apart."""
    net = network(attention="factorised")
    z, keep = clip(1, 4, 3, 4, 4)
    still = z[:, :, :1]
    one, two = (
        net(torch.cat([*[still] * n, z], 2), torch.cat([*[keep[:, :1]] * n, keep], 1))[:, :, n:]
        for n in (REACH + 3, REACH + 4)
    )
    assert torch.allclose(one, two, atol=0.05)


def test_the_network_is_told_the_next_kept_value_and_how_far_it_is():
    z = torch.tensor([0.0, 9.0, 9.0, 3.0, 9.0]).view(1, 5, 1, 1, 1)
    keep = torch.tensor([True, False, False, True, False]).view(1, 5, 1, 1)
    seen = describe(z, keep)
    assert seen.held.flatten().tolist() == [0, 0, 0, 3, 3]
    assert torch.allclose(seen.ahead.flatten(), torch.tensor([0.0, 1, 2, 0, 0])), (
        "the straight line; nothing at the end"
    )
    assert torch.equal(describe(torch.where(keep.unsqueeze(-1), z, 5.0), keep).inputs, seen.inputs)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["factorised", "joint"])
def test_kept_positions_may_be_left_out_because_the_result_is_the_same(attention):
    net = network(attention=attention)
    z, keep = clip(2, 4, 5, 6, 6)
    alone = net(z, keep)
    net.every = True
    assert torch.allclose(net(z, keep), alone, atol=1e-5)
    assert torch.equal(net(z, torch.ones_like(keep)), z), "run in full, and nothing is changed"


@torch.inference_mode()
def test_raw_units_give_the_same_latents_as_standardised_ones_when_they_agree():
    net = network()
    z, keep = clip(1, 4, 3, 4, 4)
    raw = LatentInpaintingTransformer(LITConfig(4, 16, 2, 2, latents="raw"))
    raw.load_state_dict(net.state_dict())
    assert torch.allclose(raw.eval()(z, keep), net(z, keep), atol=1e-5)
    raw.scale.fill_(2.0)
    assert not torch.allclose(raw(z, keep), net(z, keep), atol=1e-2)


@torch.inference_mode()
def test_a_bound_correction_stays_within_the_smallest_change_that_the_threshold_kept():
    z, _ = clip(1, 4, 5, 6, 6)
    keep = threshold_mask(z[0], 0.9)[None]
    seen = describe(z.movedim(1, -1), keep)
    held, smallest = (part.movedim(-1, 1) for part in (seen.held, seen.smallest))
    made = [network(bound=b) for b in (0.0, 1.0)]
    for net in made:
        net.out.weight.mul_(20)
    free, bound = (net(z, keep) for net in made)
    size = (bound - held).abs().mean(1, keepdim=True)
    assert (size <= smallest * 1.0001).all()
    assert ((free - held).abs().mean(1, keepdim=True) > smallest).any(), "the bound never held anything back"
    assert ((z - held).abs().mean(1, keepdim=True) <= smallest)[~keep[:, None]].all(), "the rule guarantees it"


@torch.inference_mode()
def test_centred_corrections_of_a_frame_add_up_to_zero_in_every_channel():
    z, keep = clip(2, 4, 5, 6, 6)
    held = describe(z.movedim(1, -1), keep).held.movedim(-1, 1)
    plain, centred = (network(centred=c)(z, keep) - held for c in (False, True))
    assert centred.sum((3, 4)).abs().max() < 1e-5 < plain.sum((3, 4)).abs().max()
    dropped = ~keep[:, None]
    mean = (plain * dropped).sum((3, 4), keepdim=True) / dropped.sum((3, 4), keepdim=True).clamp_min(1)
    assert torch.allclose(centred, (plain - mean) * dropped, atol=1e-6)


def test_groups_hold_every_dropped_position_once_and_only_members_of_its_tile():
    b, t, h, w, window = 2, 3, 7, 5, 4
    keep = torch.rand(b, t, h, w, generator=torch.Generator().manual_seed(2)) < 0.6
    dropped = (~keep).flatten().nonzero().squeeze(1)
    for group in (spatial_groups(dropped, (b, t, h, w), window), temporal_groups(dropped, (b, t, h, w))):
        assert torch.equal(group.slots.flatten()[group.back], torch.arange(len(dropped)))
        for i, row in enumerate((group.back // group.slots.shape[1]).tolist()):
            assert int(dropped[i]) in group.members[row].tolist()
    tiles = spatial_groups(dropped, (b, t, h, w), window).members
    assert ((tiles // (h * w)) == (tiles // (h * w))[:, :1]).all(), "one latent frame a tile"
    assert tiles.shape[1] == window * window
    in_time = temporal_groups(dropped, (b, t, h, w))
    assert torch.equal(in_time.lag, torch.tensor([[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]))
    assert torch.equal(in_time.frame.flatten()[in_time.back], dropped // (h * w) % t)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 30, "heads": 4}, "width is 30, expected a multiple of the 4 heads"),
        ({"depth": 0}, "depth is 0, expected 1 or more"),
        ({"attention": "full"}, "attention is 'full', expected factorised or joint"),
        ({"input": "next"}, "input is 'next', expected held or mask"),
        ({"bound": -1.0}, "bound is -1.0, expected 0 .* or more"),
        ({"latents": "log"}, "latents is 'log', expected standardised or raw"),
        ({"centred": True, "input": "mask"}, "centred needs the held value, found input 'mask'"),
        ({"bound": 1.0, "input": "mask"}, "bound needs the held value .* found input 'mask'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(options, said):
    with pytest.raises(ContractError, match=said):
        LITConfig(**options)


def test_holding_is_where_training_starts():
    z, keep = clip(2, 4, 3, 5, 5)
    filled = LatentInpaintingTransformer(LITConfig(4, 16, 1, 2))(z, keep)
    assert torch.equal(filled, describe(z.movedim(1, -1), keep).held.movedim(-1, 1))
    assert F.mse_loss(filled, z) > 0
