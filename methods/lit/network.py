"""The Latent Inpainting Transformer: fills dropped latent positions by factorised spatial-temporal attention.

Stated by the paper (arXiv 2606.06158): lightweight, factorised attention, one pass. Chosen here: pre-norm blocks of
spatial attention within a latent frame, temporal attention at a position, and an MLP; the last kept value as an extra
input and a residual output (``residual=True``), or a learned mask embedding alone (``residual=False``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.threshold import age, hold

AGES = 8
"""Ages of a held value that are told apart; older ones share the last class."""


@dataclass(frozen=True)
class LITConfig:
    """channels: of the latent; width, depth, heads: of the transformer; ratio: MLP width over ``width``.

    attention: ``factorised`` (spatial, then temporal) or ``joint`` (``window`` x ``window`` positions of all frames).
    residual:  the network corrects the held value; otherwise it sees a mask embedding and predicts the value itself.
    """

    channels: int = 16
    width: int = 64
    depth: int = 4
    heads: int = 4
    ratio: int = 2
    attention: Literal["factorised", "joint"] = "factorised"
    window: int = 4
    residual: bool = True

    def as_dict(self) -> dict[str, int | str | bool]:
        return asdict(self)


@lru_cache(maxsize=16)
def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """``[length, width]``: sines and cosines of the index at geometric wavelengths."""
    rates = torch.exp(-torch.arange(0, width, 2, device=device) * (6.0 / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class Attention(nn.Module):
    """Multi-head self-attention over the last but one axis of ``[..., N, D]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        groups, n, width = x.shape
        qkv = self.qkv(self.norm(x)).view(groups, n, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(groups, n, width))


class Block(nn.Module):
    """Spatial attention, temporal attention (or joint attention in windows), MLP; all pre-norm and residual."""

    def __init__(self, config: LITConfig) -> None:
        super().__init__()
        self.window = config.window if config.attention == "joint" else 0
        self.first = Attention(config.width, config.heads)
        self.second = None if self.window else Attention(config.width, config.heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.ratio * config.width),
            nn.GELU(),
            nn.Linear(config.ratio * config.width, config.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, t, h, w, D]`` -> the same."""
        b, t, h, w, d = x.shape
        if self.second is not None:
            x = self.first(x.reshape(b * t, h * w, d)).view(b, t, h * w, d)
            x = self.second(x.transpose(1, 2).reshape(b * h * w, t, d)).view(b, h * w, t, d)
            x = x.transpose(1, 2).reshape(b, t, h, w, d)
        else:
            s = self.window
            padded = F.pad(x, (0, 0, 0, -w % s, 0, -h % s))
            rows, columns = padded.shape[2] // s, padded.shape[3] // s
            y = padded.view(b, t, rows, s, columns, s, d).permute(0, 2, 4, 1, 3, 5, 6)
            y = self.first(y.reshape(b * rows * columns, t * s * s, d)).view(b, rows, columns, t, s, s, d)
            x = y.permute(0, 3, 1, 4, 2, 5, 6).reshape(b, t, rows * s, columns * s, d)[:, :, :h, :w]
        return x + self.mlp(x)


class LatentInpaintingTransformer(nn.Module):
    """``z: float [B, C, t, h, w]`` (dropped entries ignored), ``keep: bool [B, t, h, w]`` -> complete ``z``.

    Kept positions pass through bit for bit.
    """

    def __init__(self, config: LITConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.channels, config.width)
        self.kept = nn.Parameter(torch.zeros(config.width))
        self.mask = nn.Parameter(torch.randn(config.width) * 0.02)
        self.ages = nn.Embedding(AGES, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.channels)
        nn.init.normal_(self.ages.weight, std=0.02)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, keep: Tensor, held: Tensor | None = None) -> Tensor:
        """``held``: ``[B, C, t, h, w]``, the last kept value at every position; worked out from ``z`` if not given."""
        if held is None:
            held = torch.stack([hold(a, k) for a, k in zip(z, keep, strict=True)])
        seen = keep.unsqueeze(-1)
        if self.config.residual:
            x = self.embed(held.permute(0, 2, 3, 4, 1)) + torch.where(seen, self.kept, self.mask)
            ages = torch.stack([age(k) for k in keep]).clamp_max(AGES - 1)
            x = x + self.ages(ages)
        else:
            x = torch.where(seen, self.embed(held.permute(0, 2, 3, 4, 1)) + self.kept, self.mask)
        _, t, h, w, d = x.shape
        half = d // 2
        place = torch.cat(
            [
                sinusoids(h, half, x.device)[:, None].expand(h, w, half),
                sinusoids(w, d - half, x.device)[None].expand(h, w, d - half),
            ],
            dim=-1,
        )
        x = x + place + sinusoids(t, d, x.device)[:, None, None]
        for block in self.blocks:
            x = block(x)
        y = self.out(self.norm(x)).permute(0, 4, 1, 2, 3)
        if self.config.residual:
            y = y + held
        return torch.where(keep.unsqueeze(1), z, y)
