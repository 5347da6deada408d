"""The embedded tokeniser's network: a causal 3D-convolutional autoencoder that starts as a linear transform.

Pixels are cut into 4x8x8 RGB blocks (the first frame is repeated so that it fills a block by itself) and expanded in
the Karhunen-Loeve basis of the training blocks. Encoder and decoder are residual stacks of causal convolutions on that
grid whose residual branches start at zero: before training, the model *is* the linear transform that keeps the first
``channels`` coefficients; training learns the nonlinear rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPORAL, SPATIAL = 4, 8
BLOCK_VALUES = 3 * TEMPORAL * SPATIAL * SPATIAL

StreamState = dict[nn.Module, Tensor]
"""Last input frames of every causal layer: what a stream has to remember between chunks."""


@dataclass(frozen=True)
class EmbeddedConfig:
    """Widths are feature channels on the latent grid; depths count residual blocks."""

    channels: int = 16
    encoder_width: int = 96
    encoder_depth: int = 4
    decoder_width: int = 128
    decoder_depth: int = 8

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def to_blocks(x: Tensor) -> Tensor:
    """``[B, 3, 4t, 8h, 8w]`` -> ``[B, 768, t, h, w]``."""
    b, _, frames, height, width = x.shape
    t, h, w = frames // TEMPORAL, height // SPATIAL, width // SPATIAL
    x = x.reshape(b, 3, t, TEMPORAL, h, SPATIAL, w, SPATIAL).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, BLOCK_VALUES, t, h, w)


def from_blocks(y: Tensor) -> Tensor:
    """Inverse of :func:`to_blocks`."""
    b, _, t, h, w = y.shape
    y = y.reshape(b, 3, TEMPORAL, SPATIAL, SPATIAL, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return y.reshape(b, 3, t * TEMPORAL, h * SPATIAL, w * SPATIAL)


class CausalConv3d(nn.Conv3d):
    """3x3 in space (zero padding), ``kernel`` frames back in time; the stream's first frame is repeated before it."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, (kernel, 3, 3), padding=(0, 1, 1))
        self.past = kernel - 1

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # type: ignore[override]
        if self.past:
            before = state.get(self) if state is not None else None
            if before is None:
                before = x[:, :, :1].expand(-1, -1, self.past, -1, -1)
            x = torch.cat([before, x], dim=2)
            if state is not None:
                state[self] = x[:, :, -self.past :].clone()
        return super().forward(x)


class ResidualBlock(nn.Module):
    """``x + W silu(conv(x))``, with W zero at the start of training."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(width, kernel)
        self.out = nn.Conv3d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return x + self.out(F.silu(self.conv(x, state)))


class ResidualStack(nn.ModuleList):
    """``depth`` blocks; every second one looks one latent frame back."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(ResidualBlock(width, 1 + i % 2) for i in range(depth))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        for block in self:
            x = block(x, state)
        return x


class EmbeddedNetwork(nn.Module):
    """``encode``: float ``[B, 3, 1 + 4k, H, W]`` in [-1, 1] -> ``[B, C, 1 + k, H/8, W/8]``; ``decode`` back."""

    def __init__(self, config: EmbeddedConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = nn.Conv3d(BLOCK_VALUES, config.encoder_width, 1)
        self.encoder = ResidualStack(config.encoder_width, config.encoder_depth)
        self.to_latent = nn.Conv3d(config.encoder_width, config.channels, 1)
        self.from_latent = nn.Conv3d(config.channels, config.decoder_width, 1)
        self.decoder = ResidualStack(config.decoder_width, config.decoder_depth)
        self.synthesis = nn.Conv3d(config.decoder_width, BLOCK_VALUES, 1)

    @torch.no_grad()
    def start_as_transform(self, mean: Tensor, basis: Tensor, std: Tensor) -> None:
        """Start from a fitted transform: block mean ``[768]``, orthonormal basis ``[768, K]``, coefficient std ``[K]``.

        Features are whitened coefficients. K must reach the wider of the two stacks.
        """
        widest = max(self.config.encoder_width, self.config.decoder_width)
        if basis.shape != (BLOCK_VALUES, basis.shape[1]) or basis.shape[1] < widest:
            raise ValueError(f"basis is {tuple(basis.shape)}, expected ({BLOCK_VALUES}, >= {widest})")
        forward = (basis / std).T
        self.analysis.weight.copy_(forward[: self.config.encoder_width, :, None, None, None])
        self.analysis.bias.copy_(-(forward @ mean)[: self.config.encoder_width])  # type: ignore[union-attr]
        self.synthesis.weight.copy_((basis * std)[:, : self.config.decoder_width, None, None, None])
        self.synthesis.bias.copy_(mean)  # type: ignore[union-attr]
        for layer in (self.to_latent, self.from_latent):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            index = torch.arange(self.config.channels)
            layer.weight[index, index] = 1

    def encode(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if state is None or not state:
            x = torch.cat([x[:, :, :1].expand(-1, -1, TEMPORAL - 1, -1, -1), x], dim=2)
        return self.to_latent(self.encoder(self.analysis(to_blocks(x)), state))

    def decode(self, z: Tensor, state: StreamState | None = None) -> Tensor:
        starts = state is None or not state
        x = from_blocks(self.synthesis(self.decoder(self.from_latent(z), state)))
        return x[:, :, TEMPORAL - 1 :] if starts else x

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
