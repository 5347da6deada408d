"""The Cosmos variants as frozen tokenisers: any clip size in, the same size out, and the TorchScript pair likewise."""

import pytest
import torch

from avtbench.methods.contract import ContractError
from avtbench.methods.placement import seeded
from avtbench.methods.stages import counting
from avtbench.methods.tokenizers.cosmos import FSQ, CosmosModel, CosmosSpec
from avtbench.methods.tokenizers.cosmos.tokenizer import CosmosTokenizer, CosmosTorchScript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

VARIANTS = CosmosTokenizer.__subclasses__()


def clip(frames, height, width):
    with seeded(frames):
        return (torch.rand(frames, height, width, 3) * 255).to(torch.uint8)


@pytest.fixture(params=VARIANTS, ids=lambda cls: cls.name)
def tokenizer(request, monkeypatch):
    spec = request.param.structure
    narrow = CosmosSpec(spec.network.with_(channels=8, num_res_blocks=1), spec.latent_channels, spec.levels)
    monkeypatch.setattr(request.param, "structure", narrow)
    return request.param(weights="random", seed=3)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 16, 16), (9, 32, 48), (6, 40, 30)])
def test_any_clip_comes_back_in_its_own_size(tokenizer, size):
    video = clip(*size)
    with counting() as networks:
        z = tokenizer.encode(video)
        back = tokenizer.decode(z, size)
    assert z.shape == (tokenizer.channels, *tokenizer.grid(*size))
    assert back.shape == (*size, 3)
    assert back.dtype == torch.float32
    assert networks == {"encoder": 1, "decoder": 1}
    assert torch.equal(z, tokenizer.encode(video))
    if tokenizer.codebook:
        indices = tokenizer.indices(z)
        assert indices.shape == z.shape[1:]
        torch.testing.assert_close(tokenizer.model.quantizer.to_codes(indices[None])[0], z)


def test_random_weights_follow_the_seed_and_are_stamped(tokenizer):
    cls = type(tokenizer)
    assert tokenizer.weights == "random"
    assert cls(weights="random", seed=3).digest == tokenizer.digest
    assert cls(weights="random", seed=4).digest != tokenizer.digest


def test_names_and_factors_agree(tokenizer):
    sides = f"{tokenizer.temporal}x{tokenizer.spatial}x{tokenizer.spatial}"
    assert tokenizer.name.startswith(f"cosmos-{'dv' if tokenizer.codebook else 'cv'}{sides}")


def test_a_wrong_device_or_precision_is_refused(tokenizer):
    with pytest.raises(ContractError, match="expected one of float32, bfloat16, float16"):
        type(tokenizer)(weights="random", dtype="int8")
    with pytest.raises(ContractError, match="device is 'gpu'"):
        type(tokenizer)(weights="random", device="gpu")


@torch.inference_mode()
def test_bfloat16_runs(tokenizer):
    half = type(tokenizer)(weights="random", seed=3, dtype="bfloat16")
    z = half.encode(clip(9, 32, 32))
    assert z.dtype == torch.bfloat16
    assert half.decode(z, (9, 32, 32)).shape == (9, 32, 32, 3)


# A pair with the interface of the official archives: tuples come out of the encoder, a DV decoder takes indices.


class ContinuousEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 16, (8, 8, 8), (8, 8, 8))

    def forward(self, x):
        z = self.conv(torch.cat([x[:, :, :1].repeat(1, 1, 7, 1, 1), x], 2))
        return z, (z[:, :1], z[:, :1])


class ContinuousDecoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.ConvTranspose3d(16, 3, (8, 8, 8), (8, 8, 8))

    def forward(self, z):
        return self.conv(z)[:, :, 7:]


class DiscreteEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 6, (4, 16, 16), (4, 16, 16))
        self.fsq = FSQ()

    def forward(self, x):
        z = self.conv(torch.cat([x[:, :, :1].repeat(1, 1, 3, 1, 1), x], 2))
        indices, codes = self.fsq(z * 9)
        return indices, codes, torch.zeros(1)


class DiscreteDecoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.ConvTranspose3d(1, 3, (4, 16, 16), (4, 16, 16))

    def forward(self, indices):
        assert not indices.is_floating_point()
        return (self.conv(indices.unsqueeze(1) / 64000)[:, :, 3:],)


def save_pair(folder, encoder, decoder, latent):
    with torch.no_grad():
        torch.jit.trace(encoder, torch.rand(1, 3, 9, 64, 64), check_trace=False).save(folder / "encoder.jit")
        torch.jit.trace(decoder, latent, check_trace=False).save(folder / "decoder.jit")
    return folder


@torch.inference_mode()
def test_a_continuous_torchscript_pair(tmp_path):
    with seeded(1):
        encoder, decoder = ContinuousEncoder(), ContinuousDecoder()
    save_pair(tmp_path, encoder, decoder, torch.rand(1, 16, 2, 8, 8))
    tokenizer = CosmosTorchScript(weights=str(tmp_path))
    assert (tokenizer.channels, tokenizer.temporal, tokenizer.spatial, tokenizer.codebook) == (16, 8, 8, None)
    video = clip(9, 40, 30)
    z = tokenizer.encode(video)
    assert z.shape == (16, *tokenizer.grid(9, 40, 30))
    back = tokenizer.decode(z, (9, 40, 30))
    torch.testing.assert_close(back, (decoder(z[None])[0, :, :9, :40, :30].permute(1, 2, 3, 0) + 1) / 2)
    for given in (str(tmp_path / "encoder.jit"), [str(tmp_path / "encoder.jit"), str(tmp_path / "decoder.jit")]):
        assert CosmosTorchScript(weights=given).digest == tokenizer.digest
    with pytest.raises(ContractError, match="continuous"):
        tokenizer.indices(z)


@torch.inference_mode()
def test_a_discrete_torchscript_pair(tmp_path):
    with seeded(1):
        encoder, decoder = DiscreteEncoder(), DiscreteDecoder()
    save_pair(tmp_path, encoder, decoder, torch.zeros(1, 3, 4, 4, dtype=torch.int32))
    tokenizer = CosmosTorchScript(weights=str(tmp_path))
    assert (tokenizer.channels, tokenizer.temporal, tokenizer.spatial, tokenizer.codebook) == (6, 4, 16, 64000)
    video = clip(9, 64, 64)
    z = tokenizer.encode(video)
    indices = encoder(video.permute(3, 0, 1, 2)[None] / 127.5 - 1)[0][0]
    assert torch.equal(tokenizer.indices(z), indices)
    torch.testing.assert_close(tokenizer.decode_latent(z), decoder(indices[None])[0][0])


def test_a_torchscript_pair_that_is_not_there(tmp_path):
    for given, said in ((None, "found 0 paths"), (str(tmp_path), r"encoder\.jit does not exist")):
        with pytest.raises(ContractError, match=said):
            CosmosTorchScript(weights=given)


def test_a_whole_model_is_ready_to_use():
    """``from_official`` gives a plain module; see its docstring for what goes in and out."""
    with torch.device("meta"):
        model = CosmosModel(VARIANTS[0].structure)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
