"""Size and cost of the published model, counted without computing anything."""

import pytest
import torch

from avtbench.methods.infotok import CONFIGS, PUBLISHED, InfoTok, count_flops, vit_flops


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return InfoTok(CONFIGS[PUBLISHED])


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_at_published_size(published):
    assert size(published) == 123_142_646
    assert size(published.encoder) == 46_645_760
    assert size(published.decoder) == 65_970_672
    assert size(published.vit_encoder) == size(published.vit_decoder) == 5_255_168
    assert published.temporal_embed.numel() == 12_544
    assert (size(published.quant_conv), size(published.post_quant_conv)) == (1_542, 1_792)


@pytest.mark.parametrize(
    ("frames", "encoder", "vit", "decoder"), [(17, 1730.7, 284.5, 3707.1), (33, 3196.7, 821.4, 6890.8)]
)
def test_flops_at_published_size(frames, encoder, vit, decoder):
    counts = count_flops(CONFIGS[PUBLISHED], frames, 256, 256)
    assert counts["encoder"] == pytest.approx(encoder * 1e9, rel=0.02)
    assert counts["decoder"] == pytest.approx(decoder * 1e9, rel=0.02)
    assert counts["vit_encoder_dense"] == counts["vit_decoder_dense"] == pytest.approx(vit * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", ["small", "tiny"])
@pytest.mark.parametrize("frames", [1, 9, 17])
def test_the_analytic_count_is_what_runs(name, frames):
    """Future frames are not multiplied: the counter finds exactly the block-causal number."""
    counts = count_flops(CONFIGS[name], frames, 64, 96)
    analytic = vit_flops(CONFIGS[name], (1 + (frames - 1) // 4, 8, 12))
    assert counts["vit_encoder"] == counts["vit_decoder"] == analytic.computed
    assert analytic.computed <= analytic.dense == counts["vit_encoder_dense"]
    assert (analytic.computed == analytic.dense) == (frames == 1)


def test_both_counts_at_seventeen_frames():
    flops = vit_flops(CONFIGS[PUBLISHED], (5, 32, 32))
    assert flops.dense == 284_541_583_360
    attention = 8 * 4 * 5120**2 * 256
    assert flops.dense - flops.computed == attention * 2 // 5  # 15 of 25 block pairs are computed
