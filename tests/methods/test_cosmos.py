"""The Cosmos networks reproduce the official implementation, at small size number by number, at full size in cost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from avtbench.methods.contract import ContractError
from avtbench.methods.placement import seeded
from avtbench.methods.tokenizers.cosmos import FSQ, CosmosConfig, CosmosModel, CosmosSpec, from_official
from avtbench.methods.tokenizers.cosmos.network import FrameNorm, HaarPatcher, HaarUnpatcher
from avtbench.methods.tokenizers.cosmos.tokenizer import CosmosTokenizer

DATA = Path(__file__).resolve().parents[1] / "data" / "parity"
VARIANTS = {cls.name: cls.structure for cls in CosmosTokenizer.__subclasses__()}


def split(tensors):
    state = {name: tensor for name, tensor in tensors.items() if name.startswith("state_dict/")}
    return state, {name: tensor for name, tensor in tensors.items() if name not in state}


@torch.inference_mode()
def check_every_tensor(folder, name):
    """Load by official names, run, compare each stage and output that the file holds; return how many there were."""
    described = json.loads((folder / f"{name}.json").read_text())
    state, expected = split(load_file(folder / f"{name}.safetensors"))
    tolerance = described["suggested_tolerance"]
    model = from_official(state, described["config"])
    assert sum(p.numel() for p in model.parameters()) == described["parameters"]

    seen = {}
    for path, module in model.named_modules():
        if f"stage/{path}" in expected:  # cloned, since what follows may work in place
            module.register_forward_hook(lambda _m, _i, out, path=path: seen.update({path: out.clone()}))
    video = expected.pop("input")
    sent = model.encode(video)
    recon = model.decode(sent if isinstance(sent, torch.Tensor) else sent[0])
    stages = [path for path in expected if path.startswith("stage/")]
    for path in stages:
        wanted, found = expected.pop(path), seen[path.removeprefix("stage/")]
        torch.testing.assert_close(
            found if path == "stage/encoder" else found.movedim(-1, 1),
            wanted,
            atol=tolerance["stage_relative_to_std"] * float(wanted.std()),
            rtol=0,
            msg=lambda text, path=path: f"{path}: {text}",
        )
    if isinstance(sent, torch.Tensor):
        torch.testing.assert_close(sent, expected.pop("out/latent"), atol=tolerance["latent"], rtol=0)
    else:
        assert torch.equal(sent[0], expected.pop("out/indices"))
        assert torch.equal(sent[1], expected.pop("out/codes"))
        torch.testing.assert_close(model.decode(sent[1]), recon, atol=1e-5, rtol=0)
    torch.testing.assert_close(recon, expected.pop("out/recon"), atol=tolerance["recon"], rtol=0)
    alone = expected.pop("out/recon_first_frame_alone")
    torch.testing.assert_close(model(video[:, :, :1]), alone, atol=tolerance["recon"], rtol=0)
    assert not expected, f"not compared: {sorted(expected)}"
    return len(stages)


def test_the_reference_vectors_kept_with_the_tests_are_reproduced():
    assert check_every_tensor(DATA, "tokenize1_dv8x16x16_tiny") > 15


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["cosmos01_cv8x8x8", "cosmos01_cv4x8x8", "tokenize1_cv8x8x8", "tokenize1_cv4x8x8", "tokenize1_dv8x16x16"],
)
def test_every_tensor_of_every_reference_vector_is_reproduced(shared, name):
    assert check_every_tensor(shared / "parity", f"{name}_tiny") > 20


@pytest.mark.parametrize("which", ["published", "other"])
def test_fsq_is_exact(which):
    unit = {k.split("/")[1]: v for k, v in load_file(DATA / "fsq_unit.safetensors").items() if k.startswith(which)}
    fsq = FSQ(unit["levels"].tolist())
    indices, codes = fsq(unit["z"])
    torch.testing.assert_close(fsq.bound(unit["z"]), unit["bounded"], atol=1e-6, rtol=0)
    assert torch.equal(codes, unit["codes"])
    assert torch.equal(indices, unit["indices"])
    assert indices.dtype == torch.int32
    assert torch.equal(fsq.to_codes(unit["random_indices"]), unit["random_codes"])
    assert torch.equal(fsq.to_indices(unit["random_codes"]), unit["random_indices"])
    assert torch.equal(fsq.basis.int(), unit["basis"])


def test_fsq_keeps_its_boundaries_in_half_precision_and_knows_the_zero_code():
    fsq = FSQ().to(torch.bfloat16)
    z = torch.randn(2, 6, 3, 4, 4).to(torch.bfloat16)
    assert torch.equal(fsq(z)[0], FSQ()(z.float())[0])
    assert fsq.to_indices(torch.zeros(1, 6, 1)).item() == 32036
    assert fsq.codebook == 64000


def test_fsq_refuses_what_it_cannot_code():
    with pytest.raises(ValueError, match=r"5 channels, expected 6"):
        FSQ()(torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="expected 0 to 63999"):
        FSQ().to_codes(torch.tensor([[64000]]))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_haar_bands_are_signed_means_and_come_back_exactly(patch):
    video = torch.randn(2, 3, 9, 8, 12)
    bands = HaarPatcher(patch, 3)(video)
    assert bands.shape == (2, 1 + 8 // patch, 8 // patch, 12 // patch, 3 * patch**3)
    cell = video[:, :, 1 : 1 + patch, :patch, :patch]
    torch.testing.assert_close(bands[:, 1, 0, 0, :3], cell.mean((2, 3, 4)))
    torch.testing.assert_close(HaarUnpatcher(patch, 3)(bands), video, atol=2e-6, rtol=0)


def small(**changes):
    with seeded(3):
        levels = changes.pop("levels", ())
        network = CosmosConfig(**{"channels": 8, "channels_mult": (1, 2, 2), "num_res_blocks": 1, **changes})
        return CosmosModel(CosmosSpec(network, len(levels) or 5, levels))


@torch.inference_mode()
def test_no_latent_frame_sees_the_future():
    model, video = small(), torch.rand(1, 3, 17, 32, 32) * 2 - 1
    changed = video.clone()
    changed[:, :, 9:] *= -1
    z, z_changed = model.encode(video), model.encode(changed)
    torch.testing.assert_close(z[:, :, :2], z_changed[:, :, :2], atol=1e-6, rtol=0)
    assert not torch.allclose(z[:, :, 2], z_changed[:, :, 2], atol=1e-3)
    torch.testing.assert_close(model.decode(z)[:, :, :9], model.decode(z[:, :, :2]), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_batch_equals_its_clips():
    model, video = small(temporal_compression=4), torch.rand(2, 3, 5, 24, 16) * 2 - 1
    together = model(video)
    torch.testing.assert_close(together, torch.cat([model(v[None]) for v in video]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("levels", [(), (8, 8, 8, 5, 5, 5)])
def test_bfloat16_stays_near_float32(levels):
    model, video = small(levels=levels), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    exact = model(video)
    half = model.to(torch.bfloat16)(video.bfloat16())
    assert half.dtype == torch.bfloat16
    error = (half.float() - exact).abs().mean() / exact.abs().mean()
    assert error < (0.15 if levels else 0.03)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_both_ways_to_normalise_a_frame_agree(dtype, tolerance):
    norm = FrameNorm(6)
    norm.norm.weight.copy_(torch.rand(6))
    norm.norm.bias.copy_(torch.randn(6))
    x = (torch.randn(2, 3, 8, 8, 6) * 2 + 1).to(dtype)
    exact = norm(x.float())
    torch.testing.assert_close(norm.to(dtype).in_two_passes(x).float(), exact, atol=tolerance, rtol=0)
    torch.testing.assert_close(norm(x).float(), exact, atol=tolerance, rtol=0)
    alone = norm.float()(x.float()[:, 1:2])
    torch.testing.assert_close(alone, exact[:, 1:2], atol=tolerance, rtol=0)


@torch.inference_mode()
def test_levels_carry_attention_where_the_resolution_says_so():
    model = small(resolution=128)
    assert "encoder.down.0.attn.0.1.proj_out.conv3d.bias" in model.state_dict()
    assert "decoder.up.0.attn.1.0.q.conv3d.weight" in model.state_dict()
    assert "encoder.down.1.attn.0.0.q.conv3d.weight" not in model.state_dict()
    assert model(torch.zeros(1, 3, 9, 16, 16)).shape == (1, 3, 9, 16, 16)


def test_legacy_mode_doubles_time_at_the_deepest_level():
    assert [CosmosConfig().up(level) for level in (2, 1)] == [(False, False), (True, True)]
    assert [CosmosConfig(legacy_mode=True).up(level) for level in (2, 1)] == [(True, True), (False, False)]


@torch.inference_mode()
def test_temporal_attention_in_parts_is_the_same(monkeypatch):
    model, video = small(), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    whole = model(video)
    monkeypatch.setattr("avtbench.methods.tokenizers.cosmos.network.MOST_SEQUENCES", 5)
    torch.testing.assert_close(model(video), whole, atol=1e-6, rtol=0)


def test_an_illegal_clip_is_refused_in_one_line():
    with pytest.raises(ContractError, match=r"clip of 16 frames of 32x32, expected 1 \+ k\*8 frames") as caught:
        small().encode(torch.zeros(1, 3, 16, 32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "total", "encoder", "decoder"),
    [
        ("cosmos-cv8x8x8", 105_653_696, 42_914_592, 62_738_560),
        ("cosmos-cv4x8x8-v01", 90_176_448, 46_324_000, 43_851_904),
        ("cosmos-cv4x8x8-360p", 110_208_816, 45_343_520, 64_864_752),
        ("cosmos-dv4x8x8-v01", 112_472_182, 46_324_000, 66_147_968),
        ("cosmos-dv8x8x8-v01", 112_472_182, 46_324_000, 66_147_968),
        ("cosmos-dv4x8x8-360p", 112_619_766, 46_645_760, 65_970_672),
        ("cosmos-dv8x16x16", 110_898_294, None, None),
    ],
)
def test_published_sizes(name, total, encoder, decoder):
    with torch.device("meta"):
        model = CosmosModel(VARIANTS[name])
    count = [sum(p.numel() for p in part.parameters()) for part in (model, model.encoder, model.decoder)]
    assert count == [total, encoder or count[1], decoder or count[2]]


def test_the_0_1_file_of_cv8x8x8_has_dead_convolutions_besides():
    spec = VARIANTS["cosmos-cv8x8x8"]
    with torch.device("meta"):
        model = CosmosModel(CosmosSpec(spec.network.with_(dead_convs=True), 16))
    assert sum(p.numel() for p in model.parameters()) == 112_472_512


@pytest.mark.parametrize(
    ("name", "frames", "encode", "decode"),
    [
        ("cosmos-cv8x8x8", 17, 382.221, 694.843),
        ("cosmos-cv8x8x8", 33, 655.099, 1206.222),
        ("cosmos-cv4x8x8-v01", 17, 544.830, 716.117),
        ("cosmos-cv4x8x8-360p", 17, 1717.337, 3695.772),
        ("cosmos-cv4x8x8-360p", 33, 3172.757, 6870.430),
        ("cosmos-dv4x8x8-v01", 17, 544.829, 1489.210),
        ("cosmos-dv8x8x8-v01", 17, 382.220, 694.842),
        ("cosmos-dv4x8x8-360p", 17, 1730.681, 3707.110),
    ],
)
def test_published_cost(name, frames, encode, decode):
    """GFLOP at 256x256 within 2 % of those counted over the official code."""
    with torch.device("meta"):
        model, video = CosmosModel(VARIANTS[name]), torch.empty(1, 3, frames, 256, 256)
        with FlopCounterMode(display=False) as encoding:
            sent = model.encode(video)
        with FlopCounterMode(display=False) as decoding:
            model.decode(sent if isinstance(sent, torch.Tensor) else sent[1])
    assert encoding.get_total_flops() / 1e9 == pytest.approx(encode, rel=0.02)
    assert decoding.get_total_flops() / 1e9 == pytest.approx(decode, rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.inference_mode()
def test_cuda_agrees_with_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, video = small(), torch.rand(1, 3, 9, 32, 32) * 2 - 1
    exact = model(video)
    model.cuda()
    torch.testing.assert_close(model(video.cuda()).cpu(), exact, atol=1e-4, rtol=0)
    half = model.to(torch.bfloat16)(video.cuda().bfloat16()).float().cpu()
    assert (half - exact).abs().mean() / exact.abs().mean() < 0.03
