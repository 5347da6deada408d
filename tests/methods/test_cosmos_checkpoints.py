"""Cosmos checkpoints load as people download them, and wrong ones are refused in one line that says what is wrong."""

import re

import pytest
import torch
from safetensors.torch import save_file

from avtbench.methods.checkpoints import digest, read_tensors
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import seeded
from avtbench.methods.tokenizers.cosmos import CosmosModel, CosmosSpec, from_official
from avtbench.methods.tokenizers.cosmos.tokenizer import CosmosCV4x8x8at360p, CosmosCV4x8x8v01, CosmosCV8x8x8

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

OFFICIAL = {
    "attn_resolutions": [32], "channels": 8, "channels_mult": [2, 4, 4], "dropout": 0.0, "in_channels": 3,
    "num_res_blocks": 1, "out_channels": 3, "resolution": 1024, "patch_size": 4, "patch_method": "haar",
    "latent_channels": 16, "z_channels": 16, "z_factor": 1, "num_groups": 1, "legacy_mode": False,
    "spatial_compression": 8, "temporal_compression": 8, "formulation": "AE", "encoder": "FACTORIZED",
    "decoder": "FACTORIZED", "name": "CV",
}  # fmt: skip


def model(config=OFFICIAL, **changes):
    spec = CosmosSpec.from_official(config)
    with seeded(1):
        return CosmosModel(CosmosSpec(spec.network.with_(**changes), spec.latent_channels, spec.levels))


def state(config=OFFICIAL, **changes):
    return {k: v.contiguous() for k, v in model(config, **changes).state_dict().items()}


def complaint(call, *args):
    with pytest.raises(ContractError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "state_dict/", "module.", "network.tokenizer."])
def test_official_names_load_with_or_without_a_prefix(prefix):
    given = {prefix + k: v for k, v in state().items()}
    loaded = from_official(given, OFFICIAL)
    assert digest(loaded.state_dict()) == digest(state())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


def test_constants_may_be_present_and_copies_beside_the_model_are_left_out():
    given = {f"model.{k}": v for k, v in state().items()}
    given["model.encoder.patcher3d.wavelets"] = torch.ones(2)
    given["loss.perceptual.weight"] = torch.ones(2)
    assert digest(from_official(given, OFFICIAL).state_dict()) == digest(state())


def test_loading_leaves_the_random_state_alone():
    given = state()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    from_official(given, OFFICIAL)
    assert torch.equal(torch.rand(3), expected)


def test_dead_convolutions_of_0_1_are_accepted_and_change_nothing():
    old = model(dead_convs=True)
    used = state()
    shared_part = {k: v for k, v in old.state_dict().items() if k in used}
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    assert len(old.state_dict()) == len(shared_part) + 12
    new = from_official(shared_part, OFFICIAL)
    assert torch.equal(from_official(old.state_dict(), OFFICIAL)(video), new(video))


@pytest.mark.parametrize("encoder", [(2, 4, 4), (2, 4)], ids=["as in the code", "as shipped"])
def test_cv4x8x8_of_0_1_follows_the_file_where_it_disagrees_with_the_configuration(encoder):
    config = {**OFFICIAL, "temporal_compression": 4}
    given = state(config, dead_convs=True, channels_mult=encoder, decoder_mult=(2, 4))
    loaded = from_official(given, config)
    assert (loaded.spec.network.channels_mult, loaded.spec.network.decoder_mult) == (encoder, (2, 4))
    assert loaded(torch.zeros(1, 3, 9, 32, 32)).shape == (1, 3, 9, 32, 32)


def test_other_widths_follow_the_file():
    loaded = from_official(state({**OFFICIAL, "channels": 6, "channels_mult": [1, 2, 3]}), OFFICIAL)
    assert (loaded.spec.network.channels, loaded.spec.network.channels_mult) == (6, (1, 2, 3))


def test_a_vae_gives_its_mean():
    config = {**OFFICIAL, "z_factor": 2, "formulation": "VAE"}
    vae = from_official(state(config), config)
    video = torch.rand(1, 3, 9, 32, 32)
    assert torch.equal(vae.encode(video), vae.encode(video))
    assert vae.encode(video).shape == (1, 16, 2, 4, 4)


def test_a_missing_key_is_named():
    given = state()
    del given["encoder.mid.attn_1.1.k.conv3d.bias"]
    said = complaint(from_official, given, OFFICIAL)
    assert "encoder.mid.attn_1.1.k.conv3d.bias: expected shape [32], found no such key" in said
    assert "looks like Cosmos Tokenize1/1.0 CV8x8x8 (patch 4, 8 channels)" in said


@pytest.mark.parametrize("name", ["encoder.conv_in.1.conv3d.weight", "decoder.up.0.block.1.conv2.1.conv3d.bias"])
def test_a_wrong_shape_is_named(name):
    given = state()
    expected = list(given[name].shape)
    given[name] = torch.zeros(5, *expected[1:])
    said = complaint(from_official, given, OFFICIAL)
    assert f"{name}: expected shape {expected}, found {[5, *expected[1:]]};" in said


def test_an_unexpected_key_is_named():
    said = complaint(from_official, {**state(), "encoder.extra.weight": torch.ones(2)}, OFFICIAL)
    assert "encoder.extra.weight: expected no such key, found shape [2]" in said


def test_a_lost_level_is_not_taken_for_a_smaller_network():
    given = {k: v for k, v in state().items() if not k.startswith("encoder.down.2.")}
    assert "encoder.down.2.block.0" in complaint(from_official, given, OFFICIAL)


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        ({"patch_size": 2, "temporal_compression": 4}, "Tokenize1/1.0 CV4x8x8 (patch 2, 8 channels)"),
        ({"spatial_compression": 16}, "Tokenize1/1.0 CV8x16x16"),
        ({"latent_channels": 6, "levels": [8, 8, 8, 5, 5, 5]}, "Tokenize1/1.0 DV8x8x8"),
    ],
)
def test_another_variant_is_recognised(changes, looks):
    said = complaint(from_official, state({**OFFICIAL, **changes}), OFFICIAL)
    assert "expected " in said
    assert looks in said


def test_cv8x8x8_of_0_1_is_not_cv4x8x8_of_0_1():
    config = {**OFFICIAL, "temporal_compression": 4}
    said = complaint(from_official, state(dead_convs=True), config)
    assert "looks like Cosmos 0.1 CV8x8x8" in said
    said = complaint(from_official, state(config, dead_convs=True, decoder_mult=(2, 4)), OFFICIAL)
    assert "looks like Cosmos 0.1 CV4x8x8" in said


def test_other_models_are_recognised():
    infotok = {**state(), "vit_encoder.blocks.0.attention_norm.weight": torch.ones(4)}
    assert "looks like InfoTok" in complaint(from_official, infotok, OFFICIAL)
    diffusers = {"encoder.down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}
    assert "a diffusers checkpoint" in complaint(from_official, diffusers, OFFICIAL)
    assert "an empty file" in complaint(from_official, {}, OFFICIAL)


def test_quantiser_levels_must_agree():
    config = {**OFFICIAL, "levels": [8, 8, 8, 5, 5, 5], "embedding_dim": 6}
    given = {**state(config), "quantizer._levels": torch.tensor([8, 8, 8, 5, 5, 4])}
    assert "quantizer._levels is [8, 8, 8, 5, 5, 4], expected levels" in complaint(from_official, given, config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": "FULL"}, "encoder is 'FULL', only 'FACTORIZED'"),
        ({"patch_method": "rearrange"}, "patch_method is 'rearrange'"),
        ({"patch_size": 3}, "patch_size is 3, expected a power of two"),
        ({"spatial_compression": 2}, "spatial_compression 2 is below patch_size 4"),
        ({"levels": [8], "quantizer": "VQ"}, "quantizer is 'VQ'"),
    ],
)
def test_a_configuration_that_is_not_computed_here_is_refused(change, said):
    assert said in complaint(from_official, state(), {**OFFICIAL, **change})


# Files, as users have them: the published variants with narrow networks.


def narrow(cls):
    with seeded(2):
        spec = cls.structure
        return CosmosModel(CosmosSpec(spec.network.with_(channels=8), spec.latent_channels, spec.levels))


@pytest.fixture(scope="module")
def published():
    return {k: v.contiguous() for k, v in narrow(CosmosCV8x8x8).state_dict().items()}


@pytest.mark.parametrize("wrapping", ["plain", "model", "nested", "safetensors", "half", "folder", "torchscript pair"])
def test_every_wrapping_loads(published, tmp_path, wrapping):
    path = tmp_path / "model.pt"
    if wrapping == "safetensors":
        path = tmp_path / "any.safetensors"
        save_file(published, path)
    elif wrapping == "torchscript pair":
        net, path = narrow(CosmosCV8x8x8), tmp_path
        encoder = torch.nn.Sequential()
        encoder.add_module("encoder", net.encoder)
        encoder.add_module("quant_conv", net.quant_conv)
        decoder = torch.nn.Sequential()
        decoder.add_module("post_quant_conv", net.post_quant_conv)
        decoder.add_module("decoder", net.decoder)
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            module.forward = lambda x: x
            torch.jit.save(torch.jit.trace(module, torch.zeros(1)), tmp_path / f"{name}.jit")
    else:
        content = {
            "model": {"model": published, "iteration": 3, "optimizer": {"lr": 0.1}},
            "nested": {"state_dict": {f"network.{k}": v for k, v in published.items()}, "epoch": 1},
            "half": {k: v.bfloat16() for k, v in published.items()},
        }.get(wrapping, published)
        torch.save(content, path)
        path = tmp_path if wrapping == "folder" else path
    tokenizer = CosmosCV8x8x8(weights=str(path))
    same = {k: v.bfloat16().float() for k, v in published.items()} if wrapping == "half" else published
    assert digest(tokenizer.model.state_dict()) == digest(same)
    assert (tokenizer.weights, tokenizer.channels, tokenizer.temporal, tokenizer.spatial) == ("trained", 16, 8, 8)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.4, 0.99])
def test_a_truncated_file_is_refused_in_one_line(published, tmp_path, suffix, part):
    path = tmp_path / f"cut{suffix}"
    torch.save(published, path) if suffix == ".pt" else save_file(published, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    said = complaint(CosmosCV8x8x8, str(path))
    assert re.search(
        rf"checkpoint cut{suffix} \([\d,]+ bytes\) cannot be read, it is truncated or of another kind", said
    )


def test_code_in_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    assert "is not a plain weights file" in complaint(CosmosCV8x8x8, str(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_another_variant_names_both(published, tmp_path):
    save_file(published, tmp_path / "cv8.safetensors")
    said = complaint(CosmosCV4x8x8at360p, str(tmp_path / "cv8.safetensors"))
    assert said.startswith("cosmos-cv4x8x8-360p, cv8.safetensors: encoder.conv_in.0.conv3d.weight: expected shape")
    assert "looks like Cosmos Tokenize1/1.0 CV8x8x8 (patch 4, 8 channels)" in said
    assert "looks like Cosmos Tokenize1/1.0 CV8x8x8" in complaint(CosmosCV4x8x8v01, str(tmp_path / "cv8.safetensors"))


def test_absent_files_empty_folders_and_files_without_tensors(tmp_path):
    assert "does not exist" in complaint(CosmosCV8x8x8, str(tmp_path / "none.pt"))
    assert "expected model.safetensors" in complaint(CosmosCV8x8x8, str(tmp_path))
    torch.save({"epoch": 3}, tmp_path / "log.pt")
    assert "holds a dict without tensors" in complaint(CosmosCV8x8x8, str(tmp_path / "log.pt"))
    assert "needs weights: give weights=PATH" in complaint(CosmosCV8x8x8)


def test_digests_tell_values_names_and_shapes_apart():
    one = {"a": torch.zeros(4), "b": torch.ones(2)}
    assert digest(one) == digest(dict(reversed(one.items())))
    others = [{**one, "b": torch.zeros(2)}, {"a": torch.zeros(2, 2), "b": one["b"]}, {"c": one["a"], "b": one["b"]}]
    assert len({digest(x) for x in [one, *others]}) == 4
    assert len(digest(one)) == 16


def test_npz_files_are_read_without_pickle(tmp_path):
    import numpy as np

    np.savez(tmp_path / "w.npz", a=np.arange(3, dtype=np.float16))
    assert torch.equal(read_tensors(tmp_path / "w.npz")["a"], torch.arange(3, dtype=torch.float16))
    np.savez(tmp_path / "bad.npz", a=np.array([{}], dtype=object))
    assert "cannot be read" in complaint(read_tensors, tmp_path / "bad.npz")
