"""ElasticTok's network: published size and cost, shapes, masks, codes, precision."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avtbench.methods.contract import ContractError
from avtbench.methods.elastictok import ElasticTok, ElasticTokConfig, patchify, to_uint8, unpatchify
from avtbench.methods.elastictok.bottleneck import FSQ
from avtbench.methods.elastictok.frames import official_crop, official_indices, tile, untile

TINY = {
    "bottleneck_type": "vae",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "patch_size": [2, 8, 8],
    "max_toks": 32,
    "min_toks": 2,
    "resolution": 32,
    "theta": 1e4,
}


def tiny(**changes: object) -> ElasticTok:
    return ElasticTok(ElasticTokConfig.from_dict(TINY | changes)).initialise(1).eval().requires_grad_(False)


def on_meta(name: str, bottleneck: str = "vae") -> ElasticTok:
    with torch.device("meta"):
        return ElasticTok(ElasticTokConfig.named(name, bottleneck))


@pytest.mark.parametrize(
    ("bottleneck", "encoder", "decoder", "total"),
    [("vae", 105_290_752, 105_280_512, 210_571_264), ("fsq", 105_083_904, 105_081_856, 210_165_760)],
)
def test_published_parameter_counts(bottleneck: str, encoder: int, decoder: int, total: int) -> None:
    model = on_meta("200m", bottleneck)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder, model)]
    assert counts == [encoder, decoder, total]


@pytest.mark.parametrize(("name", "millions"), [("M", 42.4), ("S", 18.0), ("XS", 5.45), ("debug", 2.040832)])
def test_scaled_down_parameter_counts(name: str, millions: float) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize(
    ("bottleneck", "gigaflops"),
    [("vae", [1205.9, 1549.5, 1893.1, 2236.7]), ("fsq", [3095.7, 4470.1, 5844.5, 7218.8])],
)
def test_published_cost_of_a_block_pass(bottleneck: str, gigaflops: list[float]) -> None:
    """The cost grows with the blocks before; keys of later blocks cost nothing. The full pass is the sum."""
    model = on_meta("200m", bottleneck)
    config, counted = model.config, []
    with torch.inference_mode():
        cache = model.new_cache()
        for blocks, block, memory in ((1, 0, cache), (1, 1, cache), (1, 2, cache), (1, 3, cache), (4, 0, None)):
            x = torch.empty(1, blocks * config.max_toks, config.patch_dim, device="meta")
            keep = torch.empty(x.shape[:2], dtype=torch.bool, device="meta")
            with FlopCounterMode(display=False) as flops:
                model(x, keep, memory, block)
            counted.append(flops.get_total_flops() / 1e9)
    assert counted[:4] == pytest.approx(gigaflops, rel=0.02)
    assert counted[4] == pytest.approx(sum(counted[:4]), rel=1e-6)


def test_masks_follow_the_two_official_conventions() -> None:
    model = tiny()
    assert model.keep_upto([3, 31, 32]).view(3, 32).sum(1).tolist() == [4, 32, 32]
    assert model.keep_first([3, 31, 32]).view(3, 32).sum(1).tolist() == [3, 31, 32]
    assert model.keep_upto([[3], [7]]).shape == (2, 32)


def test_a_block_does_not_depend_on_later_ones_but_on_earlier_ones() -> None:
    model = tiny()
    x = torch.rand(1, 96, model.config.patch_dim) * 2 - 1
    keep = model.keep_upto([8, 8, 8])
    before = model(x, keep).recon
    x[:, 32:64] = 0
    after = model(x, keep).recon
    torch.testing.assert_close(after[:, :32], before[:, :32], rtol=0, atol=1e-6)
    assert (after[:, 64:] - before[:, 64:]).abs().max() > 1e-4


def test_the_encoder_sees_dropped_patches_and_the_decoder_only_zeros() -> None:
    model = tiny()
    x, keep = torch.rand(1, 32, model.config.patch_dim) * 2 - 1, model.keep_upto([5])
    z = model.encode(x, keep)
    x[:, 20] = -x[:, 20]
    assert (model.encode(x, keep)[:, :6] - z[:, :6]).abs().max() > 1e-5
    assert z[:, 6:].abs().max() == 0


def test_fsq_indices_are_exact_for_every_code() -> None:
    for levels in ((8, 8, 8, 5, 5, 5), (6, 6, 6), (7, 2, 3)):
        fsq = FSQ(levels)
        every = torch.arange(torch.tensor(levels).prod().item())
        assert torch.equal(fsq.indices(fsq.values(every)), every)


def test_fsq_reaches_exactly_its_levels() -> None:
    fsq = FSQ((8, 5, 6, 7))
    reached = fsq(torch.linspace(-9, 9, 4001).unsqueeze(-1).expand(-1, 4))
    codes = [sorted({round(v * h) for v in column.tolist()}) for column, h in zip(reached.T, fsq.half, strict=True)]
    assert codes == [list(range(-4, 4)), list(range(-2, 3)), list(range(-3, 3)), list(range(-3, 4))]


@pytest.mark.parametrize("bottleneck", ["vae", "fsq"])
def test_bfloat16_runs_and_stays_close(bottleneck: str) -> None:
    model = tiny(bottleneck_type=bottleneck, patch_size=[1, 8, 8], max_toks=64, fsq_quant_levels=[5, 5])
    x, keep = torch.rand(2, 128, model.config.patch_dim) * 2 - 1, model.keep_upto([[20, 30], [40, 50]])
    exact = model(x, keep)
    rough = model.to(torch.bfloat16)(x, keep)
    assert {t.dtype for t in rough} == {torch.float32}
    assert (rough.block_loss - exact.block_loss).abs().max() < 0.02


def test_wrong_inputs_are_told_in_one_line() -> None:
    model = tiny()
    x, keep = torch.zeros(1, 32, model.config.patch_dim), model.keep_upto([5])
    wrong = (
        (lambda: model.encode(x[:, :20], keep), "for n blocks"),
        (lambda: model.encode(x, keep[:, :20]), "keep has shape"),
        (lambda: model.encode(x, keep, block=1), "needs the cache"),
        (lambda: model.encode(x, keep, model.new_cache(blocks=1), 1), "room for 1"),
        (lambda: model.encode(x, keep, model.new_cache(batch=2)), "cache made for 2"),
        (lambda: model.encode_prefix(x, 1), "expected 2..32"),
        (lambda: model.indices(x), "no code indices"),
        (lambda: ElasticTokConfig.from_dict(TINY | {"max_toks": 30}), "30"),
        (lambda: ElasticTokConfig.from_dict({"max_toks": 30}), "hidden_size"),
        (lambda: ElasticTokConfig.named("300m"), "200m"),
        (lambda: patchify(torch.zeros(3, 32, 32, 3), model.config), "multiple of 4"),
    )
    for call, words in wrong:
        with pytest.raises(ContractError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_configuration_fills_in_what_follows() -> None:
    config = ElasticTokConfig.from_dict({k: v for k, v in TINY.items() if k != "resolution"})
    assert (config.resolution, config.max_sequence_length, config.chunk_blocks) == (32, 128, 4)
    assert ElasticTokConfig.from_dict(config.as_dict()) == config
    assert ElasticTokConfig.from_dict(TINY | {"max_toks": 24, "resolution": None}).resolution is None


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 64, 32), (7, 50, 34), (17, 96, 70)])
def test_any_clip_is_tiled_and_comes_back(shape: tuple[int, int, int]) -> None:
    config = ElasticTokConfig.from_dict(TINY)
    video = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    tiles = unpatchify(patchify(tile(video, config), config), config)
    assert torch.equal(untile(tiles, shape, config), video)


def test_official_frame_rules() -> None:
    import numpy as np

    assert official_crop(np.zeros((90, 160, 3), np.uint8), 64).shape == (64, 64, 3)
    assert official_crop(np.full((33, 32, 3), 7, np.uint8), 64).max() == 7
    assert official_indices(49, 24).tolist() == list(range(48))
    assert official_indices(10, 24, fps=12).tolist() == [0, 2, 4, 6]
    assert official_indices(3, 24).tolist() == []


def test_uint8_is_truncated() -> None:
    assert to_uint8(torch.tensor([0.9999, 1, -1, 0])).tolist() == [254, 255, 0, 127]
