"""Frozen tokenisers that people use, on small random configurations: the contract holds whatever the clip.

Real weights of TAEF2 are tried where the shared folder is present.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from avtbench.bench.contract_suite import Factory, checks
from avtbench.methods.baselines import Hold
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import seeded
from avtbench.methods.stages import counting
from avtbench.methods.tokenizers.autoencoder_tiny import AutoencoderTiny
from avtbench.methods.tokenizers.cogvideox import CogVideoX
from avtbench.methods.tokenizers.cosmos_diffusers import CosmosDiffusers
from avtbench.methods.tokenizers.hunyuan import Hunyuan
from avtbench.methods.tokenizers.ltx import LTX
from avtbench.methods.tokenizers.taef2 import TAEF2
from avtbench.methods.tokenizers.wan21 import Wan21

pytest.importorskip("diffusers")

BLOCKS = {"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8, "layers_per_block": 1}
SMALL = {
    CosmosDiffusers: {
        "encoder_block_out_channels": (16, 32, 32, 32), "decode_block_out_channels": (32, 32, 32, 32), "num_layers": 1,
        "attention_resolutions": [8], "latents_mean": None, "latents_std": None,
    },
    Wan21: {"base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 2, 2, 2]},
    Hunyuan: BLOCKS,
    CogVideoX: BLOCKS,
    LTX: {
        "latent_channels": 16, "block_out_channels": [16, 32, 32, 32], "decoder_block_out_channels": [16, 32, 32, 32],
        "layers_per_block": [1] * 5, "decoder_layers_per_block": [1] * 5,
    },
    AutoencoderTiny: {
        "encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4,
        "num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4,
    },
    TAEF2: None,
}  # fmt: skip


def random(cls, seed=0, **knobs):
    config = {} if SMALL[cls] is None else {"config": SMALL[cls]}
    return cls(weights="random", seed=seed, **config, **knobs)


def complaint(call, **knobs):
    with pytest.raises(ContractError) as caught:
        call(**knobs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module", params=SMALL, ids=lambda cls: cls.name)
def tokenizer(request):
    return random(request.param)


def clip(frames, height, width):
    with seeded(frames):
        return (torch.rand(frames, height, width, 3) * 255).to(torch.uint8)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 5, 9, 16])
def test_any_length_comes_back_whole(tokenizer, frames):
    size = (frames, 32, 64)
    with counting() as networks:
        z = tokenizer.encode(clip(*size))
        back = tokenizer.decode(z, size)
    assert z.shape == (tokenizer.channels, *tokenizer.grid(*size))
    assert back.shape == (*size, 3)
    assert back.dtype == torch.float32
    assert networks == {"encoder": 1, "decoder": 1}
    legal = tokenizer.legal(*size)
    assert tokenizer.decode_latent(z).shape == (3, *legal)
    assert 0 <= legal[0] - frames < 8


@torch.inference_mode()
def test_odd_sides_are_padded_and_cropped(tokenizer):
    size = (3, 33, 50)
    back = tokenizer.decode(tokenizer.encode(clip(*size)), size)
    assert back.shape == (*size, 3)


@torch.inference_mode()
def test_encoding_takes_the_mode_and_leaves_the_clip_alone(tokenizer):
    video = clip(9, 32, 32)
    before = video.clone()
    z = tokenizer.encode(video)
    assert torch.equal(z, tokenizer.encode(video))
    assert torch.equal(video, before)


@torch.inference_mode()
def test_more_than_one_temporal_tile_is_one_pass(tokenizer):
    """diffusers cuts clips of more than 16 frames into overlapped tiles for some classes; here nothing is cut."""
    video = clip(25, 32, 32)
    z = tokenizer.encode(video)
    assert z.shape[1] == tokenizer.grid(25, 32, 32)[0]
    if tokenizer.name == "hunyuan":
        x = video.permute(3, 0, 1, 2)[None] / 127.5 - 1
        whole = tokenizer.vae.quant_conv(tokenizer.vae.encoder(x))[0, : tokenizer.channels]
        torch.testing.assert_close(z, whole)


FLAGS = ("use_framewise_encoding", "use_framewise_decoding", "use_tiling", "use_slicing")


@torch.inference_mode()
@pytest.mark.parametrize("cls", [CosmosDiffusers, Wan21, Hunyuan, CogVideoX, LTX], ids=lambda cls: cls.name)
def test_the_traps_are_there_and_are_avoided(cls):
    """Left to itself a model drops frames of an illegal length without a word, samples, and cuts clips into tiles."""
    tokenizer = random(cls)
    video = clip(11, 32, 32)
    x = video.permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert tokenizer.vae.decode(tokenizer.vae.encode(x).latent_dist.mode()).sample.shape[2] == 9
    z = tokenizer.encode(video)
    assert tokenizer.decode(z, (11, 32, 32)).shape == (11, 32, 32, 3)

    legal = tokenizer.legal(11, 32, 32)[0]
    padded = torch.cat([x, x[:, :, -1:].expand(-1, -1, legal - 11, -1, -1)], 2)
    posterior = tokenizer.vae.encode(padded).latent_dist
    torch.testing.assert_close(z, posterior.mode()[0])
    if cls is not CosmosDiffusers:  # whose posterior is a point
        assert not torch.allclose(z, posterior.sample()[0])

    assert not any(getattr(tokenizer.vae, flag, False) for flag in FLAGS)


@torch.inference_mode()
def test_hunyuan_decodes_a_long_clip_whole():
    tokenizer = random(Hunyuan)
    z = tokenizer.encode(clip(25, 32, 32))
    whole = tokenizer.vae.decoder(tokenizer.vae.post_quant_conv(z[None]))[0]
    torch.testing.assert_close(tokenizer.decode_latent(z), whole)
    tokenizer.vae.use_framewise_decoding = True  # as diffusers has it
    assert not torch.allclose(tokenizer.decode_latent(z), whole)


def suite(cls):
    under = {"name": cls.name, "weights": "random"} | ({} if SMALL[cls] is None else {"config": SMALL[cls]})
    return dict(checks(Factory("hold", under)))


@pytest.mark.slow
@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.name)
def test_a_method_on_it_keeps_the_whole_contract(cls):
    for check in suite(cls).values():
        check()


@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.name)
def test_a_method_on_it_gives_every_size_back(cls):
    suite(cls)["any size comes back"]()


def test_random_weights_follow_the_seed_and_are_stamped(tokenizer):
    assert tokenizer.weights == "random"
    assert random(type(tokenizer)).digest == tokenizer.digest
    assert random(type(tokenizer), seed=1).digest != tokenizer.digest
    assert tokenizer.mean is None
    assert tokenizer.std is None


@torch.inference_mode()
def test_bfloat16(tokenizer):
    if tokenizer.name == "cosmos-diffusers":
        assert "use dtype=float32, or cosmos-cv8x8x8" in complaint(CosmosDiffusers, weights="random", dtype="bfloat16")
        return
    half = random(type(tokenizer), dtype="bfloat16")
    z = half.encode(clip(1, 32, 32))
    assert z.dtype == torch.bfloat16
    assert half.decode(z, (1, 32, 32)).dtype == torch.float32


def test_without_weights_it_says_what_to_give(tokenizer):
    with pytest.raises(ContractError, match=rf"^{tokenizer.name} needs weights: give weights=\S+.*weights=random"):
        type(tokenizer)()


VIDEO = [cls for cls in SMALL if cls is not TAEF2]


@pytest.mark.parametrize("cls", VIDEO, ids=lambda cls: cls.name)
def test_a_saved_model_loads_from_its_folder(cls, tmp_path):
    made = random(cls, seed=4)
    made.vae.save_pretrained(tmp_path / "vae")
    folders = [tmp_path / "vae"] + ([tmp_path] if cls.subfolder else [])
    for folder in folders:
        loaded = cls(weights=str(folder))
        assert (loaded.digest, loaded.weights) == (made.digest, "trained")


def test_the_models_own_statistics_become_the_unit_of_thresholds(tmp_path):
    def saved(cls, **changes):
        folder = tmp_path / f"{cls.name}{len(changes)}"
        cls(weights="random", config={**SMALL[cls], **changes}).vae.save_pretrained(folder)
        return cls(weights=str(folder))

    wan = saved(Wan21)
    assert wan.mean.shape == wan.std.shape == (16,)
    torch.testing.assert_close(wan.std[:2], torch.tensor([2.8184, 1.4541]))
    torch.testing.assert_close(saved(Hunyuan).std, torch.full((16,), 1 / 0.476986))
    for cls in (Hunyuan, CogVideoX):  # a bare factor: the published practice divides by it, without a shift
        assert torch.equal(saved(cls).mean, torch.zeros(16))
    assert Hold(saved(CogVideoX)).scale.flatten()[0] == pytest.approx(1 / 1.15258426)
    assert saved(CosmosDiffusers).std is None
    per_frame = saved(CosmosDiffusers, latents_mean=[0.0, 2.0] * 16, latents_std=[1.0] * 32)
    torch.testing.assert_close(per_frame.mean, torch.ones(16))
    torch.testing.assert_close(per_frame.std, torch.full((16,), math.sqrt(2)))
    ltx = saved(LTX)
    torch.testing.assert_close(ltx.std, torch.ones(16))


def test_a_folder_of_another_model_or_without_one_is_refused(tmp_path):
    random(Wan21).vae.save_pretrained(tmp_path / "wan")
    assert "holds AutoencoderKLWan, expected AutoencoderKLHunyuanVideo" in complaint(
        Hunyuan, weights=str(tmp_path / "wan")
    )
    assert "config.json does not exist" in complaint(Hunyuan, weights=str(tmp_path))


def test_parameters_that_are_missing_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    random(Wan21).vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["decoder.conv_in.weight"]
    save_file(state, file, {"format": "pt"})
    assert "missing keys, first decoder.conv_in.weight" in complaint(Wan21, weights=str(tmp_path))
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded as AutoencoderKLWan" in complaint(Wan21, weights=str(tmp_path))


def test_a_repository_that_cannot_be_reached_is_one_line():
    assert "nobody/nothing cannot be loaded as AutoencoderKLWan" in complaint(Wan21, weights="nobody/nothing")


def test_ltx_decoders_conditioned_on_a_step_run_at_its_clean_end():
    even = {"decoder_block_out_channels": [32] * 4, "timestep_conditioning": True}
    conditioned = LTX(weights="random", config={**SMALL[LTX], **even})
    assert conditioned.decode(conditioned.encode(clip(9, 32, 32)), (9, 32, 32)).shape == (9, 32, 32, 3)


@torch.inference_mode()
@pytest.mark.parametrize("cls", [AutoencoderTiny, TAEF2], ids=lambda cls: cls.name)
def test_frame_tokenisers_stream(cls, monkeypatch):
    tokenizer = random(cls)
    x = clip(5, 32, 32).permute(3, 0, 1, 2) / 127.5 - 1
    z = tokenizer.encode_legal(x)
    chunks = [tokenizer.encode_chunk(part, None)[0] for part in x.split(2, 1)]
    torch.testing.assert_close(torch.cat(chunks, 1), z)
    back = [tokenizer.decode_chunk(part, None)[0] for part in z.split(2, 1)]
    torch.testing.assert_close(torch.cat(back, 1), tokenizer.decode_latent(z))
    monkeypatch.setattr("avtbench.methods.tokenizers.frames.PIXELS", 2048)
    torch.testing.assert_close(tokenizer.encode_legal(x), z)


def test_taef2_has_its_published_size():
    tokenizer = random(TAEF2)
    for network, count in ((tokenizer.encoder, 1_344_992), (tokenizer.decoder, 1_341_443)):
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(count, rel=0.01)


def test_taef2_refuses_wrong_files(tmp_path):
    assert "has none of taef2_encoder.safetensors" in complaint(TAEF2, weights=str(tmp_path))
    tokenizer = random(TAEF2)
    torch.save(tokenizer.decoder.state_dict(), tmp_path / "taef2_encoder.pth")
    torch.save(tokenizer.decoder.state_dict(), tmp_path / "taef2_decoder.pth")
    said = complaint(TAEF2, weights=str(tmp_path))
    assert "taef2_encoder.pth: 0.weight: expected shape [64, 3, 3, 3], found no such key" in said
    assert "looks like TAEF2's decoder" in said


@pytest.mark.shared
@torch.inference_mode()
def test_taef2_reconstructs_real_frames(shared):
    """Around 33 dB on 256x256 crops from the middle of real first frames."""
    import av

    tokenizer = TAEF2(weights=str(shared / "weights" / "taef2"))
    crops = []
    for path in sorted((shared / "data" / "tokenbench").glob("*.mp4")):
        with av.open(str(path)) as clip:
            image = torch.from_numpy(next(clip.decode(video=0)).to_ndarray(format="rgb24"))
        top, left = (image.shape[0] - 256) // 2, (image.shape[1] - 256) // 2
        crops.append(image[top : top + 256, left : left + 256])
    video = torch.stack(crops)
    back = tokenizer.decode(tokenizer.encode(video), tuple(video.shape[:3])).clamp(0, 1)
    error = ((back * 255 + 0.5).floor() - video.float()).square().mean((1, 2, 3))
    psnr = 10 * torch.log10(255**2 / error)
    assert len(psnr) == 5
    assert psnr.min() > 29
    assert 31 < psnr.median() < 40


@pytest.mark.shared
def test_taef2_files_with_and_without_pickle_agree(shared, tmp_path):
    folder = shared / "weights" / "taef2"
    digests = set()
    for suffix in (".pth", ".npz"):
        only = tmp_path / suffix[1:]
        only.mkdir()
        for part in ("encoder", "decoder"):
            (only / f"taef2_{part}{suffix}").symlink_to(folder / f"taef2_{part}{suffix}")
        digests.add(TAEF2(weights=str(only)).digest)
    assert len(digests) == 1


def test_plugins_stay_short():
    """A diffusers tokeniser is a file of at most 25 lines that says what it is."""
    import avtbench.methods.tokenizers.wan21 as one

    folder = Path(one.__file__).parent
    short = ["cosmos_diffusers", "wan21", "hunyuan", "cogvideox", "ltx", "autoencoder_tiny"]
    lengths = {name: len((folder / f"{name}.py").read_text().splitlines()) for name in short}
    assert max(lengths.values()) <= 25, json.dumps(lengths)
