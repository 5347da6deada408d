"""Official parameters in every container they come in, and the one line that says why they do not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok import CONFIGS, InfoTokConfig, from_official, load_checkpoint, random_model

HERE = Path(__file__).resolve().parents[1] / "data" / "parity"
PREFIX = "state_dict/"


@pytest.fixture(scope="module")
def config():
    return json.loads((HERE / "infotok_tiny.json").read_text())["config"]


@pytest.fixture(scope="module")
def official():
    """Bare official names, with the buffers that a download has."""
    tensors = load_file(HERE / "infotok_tiny.safetensors")
    state = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    return state | {"quantizer.implicit_codebook": torch.zeros(64000, 6)}


def same(model, official):
    return all(torch.equal(p, official[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("prefix", ["", "state_dict/", "network.", "module.model."])
def test_prefixes_come_off(official, config, prefix):
    state = {prefix + name: tensor for name, tensor in official.items()}
    if prefix:
        state["loss.vgg.weight"] = torch.zeros(3)
    assert same(from_official(state, config), official)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "step": 7}, lambda s: {"state_dict": {"model": s}}]
)
def test_downloads_load(tmp_path, official, config, wrap):
    torch.save(wrap(official), tmp_path / "infotok_mse.pt")
    assert same(load_checkpoint(tmp_path / "infotok_mse.pt", config), official)


def test_safetensors_load(tmp_path, official, config):
    save_file(official, tmp_path / "model.safetensors")
    assert same(load_checkpoint(tmp_path / "model.safetensors", config), official)


def test_loading_is_independent_of_the_callers_tensors_and_random_state(official, config):
    state = {k: v.clone() for k, v in official.items()}
    before = torch.random.get_rng_state()
    model = from_official(state, config)
    assert torch.equal(before, torch.random.get_rng_state())
    for tensor in state.values():
        tensor.zero_()
    assert same(model, official)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def line_of(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_missing_key(official, config):
    name = "vit_decoder.1.mlp.w2.weight"
    with pytest.raises(ContractError) as error:
        from_official({k: v for k, v in official.items() if k != name}, config)
    line = line_of(error)
    assert line.startswith(
        f"InfoTok checkpoint: {name}: expected shape [32, 64], found no such key; the file looks like"
    )


def test_a_shape_mismatch_names_first_key_and_variant(official):
    with pytest.raises(ContractError) as error:
        from_official(official, CONFIGS["tiny"])
    line = line_of(error)
    assert "temporal_embed: expected shape [49, 64], found [49, 32]" in line
    assert "looks like InfoTok with patch 2, 8 channels, z 32, ViT 32/64 of 2+2 blocks: give its config" in line


def test_a_cosmos_tokeniser_is_recognised(official, config):
    state = {k: v for k, v in official.items() if not k.startswith(("vit_", "temporal_embed"))}
    with pytest.raises(ContractError) as error:
        from_official(state, config)
    assert "temporal_embed: expected shape [49, 32], found no such key" in line_of(error)
    assert "looks like Cosmos Tokenize1/1.0 DV4x8x8 (patch 2, 8 channels)" in line_of(error)


def test_deeper_models_and_strangers_are_named(official, config):
    deeper = official | {"vit_encoder.2.mlp.w1.weight": torch.zeros(64, 32)}
    with pytest.raises(
        ContractError, match=r"vit_encoder.2.mlp.w1.weight: expected no such key, found shape \[64, 32\]"
    ):
        from_official(deeper, config)
    with pytest.raises(ContractError, match="looks like no whole Cosmos tokeniser"):
        from_official({"params.wte": torch.zeros(2, 2)}, config)
    with pytest.raises(ContractError, match="looks like an empty file"):
        from_official({}, config)


def test_other_levels_are_refused(official, config):
    state = official | {"quantizer._levels": torch.tensor([8, 8, 8, 8, 5, 5])}
    with pytest.raises(
        ContractError, match=r"quantizer._levels is \[8, 8, 8, 8, 5, 5\], expected \[8, 8, 8, 5, 5, 5\]"
    ):
        from_official(state, config)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file(tmp_path, official, config, suffix):
    path = tmp_path / f"infotok_mse{suffix}"
    save_file(official, path) if suffix == ".safetensors" else torch.save({"model": official}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ContractError) as error:
        load_checkpoint(path, config)
    assert "truncated" in line_of(error)
    assert path.name in line_of(error)


def test_pickled_objects_are_refused(tmp_path, config):
    torch.save({"model": Path("x")}, tmp_path / "model.pt")
    with pytest.raises(ContractError) as error:
        load_checkpoint(tmp_path / "model.pt", config)
    assert "is not a plain weights file" in line_of(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizer": "VQ"}, "config has quantizer='VQ', this model is built for 'FSQ' only"),
        ({"use_vit": False}, "config has use_vit=False"),
        ({"vit_config": {"special_attn": True}}, "special_attn=True, a legacy variant"),
        ({"vit_config": {"switch_rotary_to_1d": 0.5}}, "expected 1.0"),
        ({"vit_config": {"num_attention_heads": 128}}, "256 over 128 heads is 2 a head"),
        ({"levels": [8, 8]}, "2 FSQ levels for embedding_dim 6"),
    ],
)
def test_variants_that_are_not_built(change, message):
    with pytest.raises(ContractError, match=message):
        InfoTokConfig.from_dict(change)


def test_configs_go_round():
    for config in CONFIGS.values():
        assert InfoTokConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_other_sizes_load_too():
    """A hidden width unlike z_channels brings the two shared projections; head size, patch and levels vary as well."""
    config = {
        "channels": 8, "channels_mult": [1, 2, 2], "num_res_blocks": 1, "patch_size": 4, "z_channels": 16,
        "spatial_compression": 8, "temporal_compression": 8, "embedding_dim": 3, "levels": [8, 5, 5],
        "vit_config": {"hidden_size": 48, "intermediate_size": 24, "num_encoder_layers": 1, "num_decoder_layers": 3,
                       "num_attention_heads": 3, "method": "order_2"},
    }  # fmt: skip
    source = random_model(config, seed=3)
    assert {"vit_conv.weight", "post_vit_conv.weight"} <= set(source.state_dict())
    model = from_official({f"network.{k}": v for k, v in source.state_dict().items()}, config)
    x = torch.rand(2, 3, 9, 32, 48) * 2 - 1
    with torch.inference_mode():
        output, again = model(x, n_tries=2), source(x, n_tries=2)
    assert output.reconstructions.shape == x.shape
    assert output.keep.shape == (2, 2, 4, 6)
    assert torch.equal(output.latent, again.latent)
    assert torch.equal(output.reconstructions, again.reconstructions)
