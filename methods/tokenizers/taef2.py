"""TAEF2: a tiny pre-trained autoencoder into FLUX.2's latent space, frame by frame (madebyollin/taesd, MIT).

1.34 M parameters each way, 8x8 in space, 32 channels. The middle blocks pool over their whole input, which diffusers'
AutoencoderTiny does not, so the architecture is written out here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from avtbench.methods.checkpoints import digest, load_strict, read_tensors
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import place, seeded
from avtbench.methods.tokenizers.frames import FrameTokenizer

WIDTH, LATENT = 64, 32
SUFFIXES = (".safetensors", ".npz", ".pth")


class Block(nn.Module):
    """relu(three 3x3 convolutions + shortcut); ``middle`` first adds a group-normalised pointwise mix."""

    def __init__(self, middle: bool = False, width: int = WIDTH):
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
        self.pool = None
        if middle:
            wide = 4 * width
            mix = nn.Conv2d(width, wide, 1, bias=False), nn.Conv2d(wide, width, 1, bias=False)
            self.pool = nn.Sequential(mix[0], nn.GroupNorm(4, wide), nn.ReLU(inplace=True), mix[1])

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftLimit(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _conv(width_in: int, width_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, stride, 1, bias=bias)


def encoder() -> nn.Sequential:
    """RGB ``[N, 3, H, W]`` in [0, 1] -> ``[N, 32, H/8, W/8]``; layers are numbered as in the published file."""
    layers: list[nn.Module] = [_conv(3, WIDTH), Block()]
    for middle in (False, False, True):
        layers += [_conv(WIDTH, WIDTH, 2, bias=False), *(Block(middle) for _ in range(3))]
    return nn.Sequential(*layers, _conv(WIDTH, LATENT))


def decoder() -> nn.Sequential:
    """``[N, 32, h, w]`` -> RGB ``[N, 3, 8h, 8w]`` in [0, 1], not clamped."""
    layers: list[nn.Module] = [SoftLimit(), _conv(LATENT, WIDTH), nn.ReLU(), *(Block(True) for _ in range(3))]
    for blocks in (3, 3, 1):
        layers += [nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False), *(Block() for _ in range(blocks))]
    return nn.Sequential(*layers, _conv(WIDTH, 3))


class TAEF2(FrameTokenizer):
    """weights: the folder that holds ``taef2_encoder`` and ``taef2_decoder`` (.pth, .npz or .safetensors)."""

    name = "taef2"
    summary = "TAEF2, a tiny image autoencoder, frame by frame: 32 channels, 8x8 in space"
    needs_weights = True
    channels = 32
    spatial = 8

    def __init__(self, weights: str | None = None, seed: int = 0, device: str = "cpu", dtype: str = "float32"):
        if weights is None:
            raise ContractError(
                f"{self.name} needs weights: give weights=FOLDER with taef2_encoder.pth and taef2_decoder.pth "
                "(github.com/madebyollin/taesd), or weights=random to time it"
            )
        self.device, self.dtype = place(device, dtype)
        with seeded(seed):
            self.encoder, self.decoder = encoder(), decoder()
        if weights == "random":
            self.weights = "random"
        else:
            for part, network in (("encoder", self.encoder), ("decoder", self.decoder)):
                path = self._file(Path(weights).expanduser(), part)
                state = read_tensors(path)
                load_strict(network, state, f"{self.name}, {path.name}", self._guess(state))
        parts = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder}).eval().requires_grad_(False)
        self.digest = digest(parts.state_dict())
        parts.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _file(self, folder: Path, part: str) -> Path:
        names = [f"taef2_{part}{suffix}" for suffix in SUFFIXES]
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise ContractError(
                f"{self.name}: {folder} has none of {', '.join(names)}; fetch them from madebyollin/taesd"
            )
        return found

    @staticmethod
    def _guess(state: dict[str, Tensor]) -> str:
        if not any(".pool." in name for name in state):
            return "another autoencoder of the TAESD family (use autoencoder-tiny)"
        return "TAEF2's decoder" if "19.weight" in state else "TAEF2's encoder"

    def encode_images(self, x: Tensor) -> Tensor:
        return self.encoder((x + 1).div_(2).contiguous(memory_format=torch.channels_last))

    def decode_images(self, z: Tensor) -> Tensor:
        return self.decoder(z.contiguous(memory_format=torch.channels_last)).mul_(2).sub_(1)
