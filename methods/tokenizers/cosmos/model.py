"""A Cosmos tokeniser as one network, and how an official state dict becomes one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from avtbench.methods.checkpoints import disagreements, refuse, strip_prefix
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import place, seeded
from avtbench.methods.tokenizers.cosmos.fsq import FSQ
from avtbench.methods.tokenizers.cosmos.network import CosmosConfig, CosmosDecoder, CosmosEncoder, PointConv

BUFFERS = ("encoder.patcher3d.", "decoder.unpatcher3d.", "quantizer.")
"""Constants that official files carry and these networks compute."""


@dataclass(frozen=True)
class CosmosSpec:
    """A whole tokeniser: the pair of networks and what lies between. ``levels`` is empty for continuous latents.

    ``latent_channels`` counts the channels of a latent; with ``z_factor`` 2 (a VAE) ``quant_conv`` gives twice as many,
    mean and log-variance, of which the mean is used.
    """

    network: CosmosConfig
    latent_channels: int = 16
    levels: tuple[int, ...] = ()

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> CosmosSpec:
        """From an official configuration (the ``config`` of a reference vector's JSON, or a published one)."""
        network = CosmosConfig.from_official(config)
        if config.get("quantizer") is None and "levels" not in config:
            return cls(network, int(config.get("latent_channels", 16)))
        if config.get("quantizer", "FSQ") != "FSQ":
            raise ContractError(f"Cosmos config: quantizer is {config['quantizer']!r}, only 'FSQ' is implemented")
        levels = tuple(int(n) for n in config["levels"])
        if config.get("embedding_dim", len(levels)) != len(levels):
            raise ContractError(
                f"Cosmos config: embedding_dim {config['embedding_dim']} does not fit {len(levels)} FSQ levels"
            )
        return cls(network, len(levels), levels)

    @property
    def title(self) -> str:
        """Short name, such as CV8x8x8."""
        c = self.network
        sides = f"{c.spatial_compression}x{c.spatial_compression}"
        return f"{'DV' if self.levels else 'CV'}{c.temporal_compression}x{sides}"


class CosmosModel(nn.Module):
    """Encoder, latent convolutions, quantiser (DV only) and decoder, under the official names.

    Built with torch's default initialisation, in evaluation mode and without gradients; see :func:`from_official`.
    """

    def __init__(self, spec: CosmosSpec):
        super().__init__()
        c = spec.network
        self.spec = spec
        self.encoder = CosmosEncoder(c)
        self.decoder = CosmosDecoder(c)
        self.quant_conv = PointConv(
            c.z_factor * c.z_channels, (1 if spec.levels else c.z_factor) * spec.latent_channels
        )
        self.post_quant_conv = PointConv(spec.latent_channels, c.z_channels)
        self.quantizer = FSQ(spec.levels) if spec.levels else None
        self.eval().requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Video float ``[B, 3, T, H, W]`` in [-1, 1] -> what is sent.

        CV: the latent ``[B, C, t, h, w]``, never sampled. DV: (indices int32 ``[B, t, h, w]``, codes
        ``[B, d, t, h, w]``). T must be 1 + k * temporal, H and W multiples of spatial.
        """
        z = self.quant_conv(self.encoder(x).movedim(1, -1)).movedim(-1, 1)
        if self.quantizer is not None:
            return self.quantizer(z)
        return z[:, : self.spec.latent_channels]

    def decode(self, z: Tensor) -> Tensor:
        """Latent (CV), codes or integer indices ``[B, t, h, w]`` (DV) -> video ``[B, 3, T, H, W]``, not clamped."""
        if not z.is_floating_point():
            if self.quantizer is None:
                raise ContractError(f"{self.spec.title} decodes latents, found integers of shape {list(z.shape)}")
            z = self.quantizer.to_codes(z, self.post_quant_conv.conv3d.weight.dtype)
        return self.decoder(self.post_quant_conv(z.movedim(1, -1)).movedim(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Video -> its reconstruction."""
        z = self.encode(x)
        return self.decode(z if isinstance(z, Tensor) else z[1])


def from_official(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any] | CosmosSpec,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    what: str = "",
) -> CosmosModel:
    """Official parameters -> a ready model (evaluation mode, no gradients).

    state:  official names, as in the released files or with a prefix (``state_dict/``, ``module.``, ...); constants
            such as the wavelets may be present or not.
    config: the official configuration as a mapping: the ``config`` entry of a reference vector's JSON.
    Both code bases load: 0.1 files also hold convolutions that are never used, and 0.1 CV4x8x8 has fewer decoder (as
    shipped also encoder) levels than its configuration says. Widths follow the state dict where all of it agrees on
    others than the configuration's. Anything else raises :class:`ContractError` naming the first offending key.
    """
    spec = config if isinstance(config, CosmosSpec) else CosmosSpec.from_official(config)
    where, precision = place(device, dtype)
    what = what or f"Cosmos {spec.title} checkpoint"
    shapes = _shapes(spec)
    full = strip_prefix(state, shapes)
    _check_levels(full, spec, what)
    given = {name: tensor for name, tensor in full.items() if not name.startswith(BUFFERS)}
    nearest: tuple[list[str], int] | None = None
    for candidate in _candidates(spec, given):
        shapes = _shapes(candidate)
        problems = disagreements(shapes, given)
        if not problems:
            with seeded(0):
                model = CosmosModel(candidate).to(where, precision)
            model.load_state_dict(given)
            return model
        if nearest is None or len(problems) < len(nearest[0]):
            nearest = problems, len(shapes)
    assert nearest is not None
    raise refuse(what, *nearest, looks_like(given))


@cache
def _shapes(spec: CosmosSpec) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in CosmosModel(spec).state_dict().items()}


def _check_levels(state: Mapping[str, Tensor], spec: CosmosSpec, what: str) -> None:
    found = state.get("quantizer._levels")
    if found is not None and tuple(found.tolist()) != spec.levels:
        wanted = f"levels {list(spec.levels)}" if spec.levels else "no quantiser"
        raise ContractError(f"{what}: quantizer._levels is {found.tolist()}, expected {wanted}")


def _candidates(spec: CosmosSpec, state: Mapping[str, Tensor]) -> Iterator[CosmosSpec]:
    """What the configuration can mean in the two code bases, then the same with the widths of the file."""
    plain = spec.network
    # In 0.1 the class itself sets the decoder's multipliers of every continuous 4x tokeniser.
    short = not spec.levels and plain.temporal_compression == 4
    readings = [plain.with_(dead_convs=False)] if plain.decoder_mult is None else []
    readings.append(plain.with_(dead_convs=True, decoder_mult=(2, 4) if short else plain.decoder_mult))
    if short:
        readings.append(plain.with_(dead_convs=True, channels_mult=(2, 4), decoder_mult=(2, 4)))
    for network in readings:
        yield CosmosSpec(network, spec.latent_channels, spec.levels)
    for network in readings:
        widths = _widths(state)
        if widths is None:
            return
        channels, down, up = widths
        if (len(down), len(up)) == (len(network.channels_mult), len(network.decoder_mult or network.channels_mult)):
            wide = network.with_(channels=channels, channels_mult=down, decoder_mult=None if up == down else up)
            yield CosmosSpec(wide, spec.latent_channels, spec.levels)


def _widths(state: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """(channels, encoder multipliers, decoder multipliers) as the shapes tell; None where they tell none."""
    first = state.get("encoder.conv_in.1.conv3d.weight")
    if first is None or not first.shape[0]:
        return None
    channels = first.shape[0]
    sides = []
    for side in ("encoder.down", "decoder.up"):
        widths: list[int] = []
        while (weight := state.get(f"{side}.{len(widths)}.block.0.norm2.norm.weight")) is not None:
            widths.append(weight.shape[0])
        if not widths or any(width % channels for width in widths):
            return None
        sides.append(tuple(width // channels for width in widths))
    return channels, sides[0], sides[1]


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Which published model a state dict is, in words."""
    if any(name.startswith("vit_encoder.") for name in state):
        return "InfoTok (method infotok loads it)"
    if any(".down_blocks." in name for name in state):
        return "a diffusers checkpoint (tokeniser cosmos-diffusers loads those)"
    first, latent = state.get("encoder.conv_in.0.conv3d.weight"), state.get("post_quant_conv.conv3d.weight")
    if first is None or latent is None or first.dim() != 5 or latent.dim() < 2:
        names = sorted(state)
        return f"no whole Cosmos tokeniser (its keys run from {names[0]} to {names[-1]})" if names else "an empty file"
    patch = round((first.shape[1] / 3) ** (1 / 3))
    kind = "DV" if latent.shape[1] == 6 else "CV"
    levels = len({name.split(".")[2] for name in state if name.startswith("decoder.up.")})
    about = f"patch {patch}, {first.shape[0]} channels"
    if f"decoder.up.{levels - 1}.upsample.conv1.conv3d.weight" in state:
        title = "CV4x8x8" if levels == 2 and kind == "CV" else "CV8x8x8" if kind == "CV" else "DV4x8x8 or DV8x8x8"
        return f"Cosmos 0.1 {title} ({about})"
    strides = ("conv2", "conv1", "conv1")
    factors = [
        patch
        * 2 ** sum(name.startswith("encoder.down.") and f".downsample.{conv}.conv3d.weight" in name for name in state)
        for conv in strides
    ]
    return f"Cosmos Tokenize1/1.0 {kind}{'x'.join(map(str, factors))} ({about})"
