"""An elastic adapter: packs a latent frame into an ordered row of tokens of which any prefix can be sent.

After ElasticTok (arXiv 2410.08368): the packing side knows which tokens survive, dropped ones are set to zero, the
unpacking side rebuilds the whole latent frame. Blocks are latent frames; the context of a block is the frame before it
as the receiver has it. Both sides correct an identity, so that nothing is lost when nothing is dropped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.lit.network import sinusoids


@dataclass(frozen=True)
class ElasticConfig:
    """channels: of the latent; width, heads, ratio as in LIT; depth: blocks on each side."""

    channels: int = 16
    width: int = 64
    depth: int = 2
    heads: int = 4
    ratio: int = 2

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@lru_cache(maxsize=32)
def prefix_order(h: int, w: int) -> Tensor:
    """Flat grid positions in the order in which a prefix keeps them: every prefix covers the frame evenly.

    Bit-reversed Morton order: first one position of each large square, then of each quarter of it, and so on.
    """
    bits = max((max(h, w) - 1).bit_length(), 1)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    rank = torch.zeros_like(y)
    for bit in range(bits):
        # the lowest bits of a coordinate, which tell neighbours apart, decide last
        rank = rank * 4 + (((y >> bit) & 1) ^ ((x >> bit) & 1)) * 2 + ((y >> bit) & 1)
    return rank.flatten().argsort(stable=True)


class Attention(nn.Module):
    """Multi-head self-attention over the last but one axis of ``[groups, N, D]``; pre-norm and residual."""

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


class _Side(nn.Module):
    """Transformer over the positions of one latent frame with two values a position: its own and the context's."""

    def __init__(self, config: ElasticConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * config.channels, config.width)
        self.present = nn.Parameter(torch.randn(2, config.width) * 0.02)
        self.attention = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(config.width),
                nn.Linear(config.width, config.ratio * config.width),
                nn.GELU(),
                nn.Linear(config.ratio * config.width, config.width),
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, value: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """``[B, C, h, w]`` twice and bool ``[B, h, w]`` -> correction ``[B, C, h, w]``."""
        b, c, h, w = value.shape
        x = self.embed(torch.cat([value, context], dim=1).permute(0, 2, 3, 1))
        x = x + torch.where(keep.unsqueeze(-1), self.present[0], self.present[1])
        half = x.shape[-1] // 2
        rows = sinusoids(h, half, x.device)[:, None].expand(h, w, half)
        columns = sinusoids(w, x.shape[-1] - half, x.device)[None].expand(h, w, x.shape[-1] - half)
        x = (x + torch.cat([rows, columns], dim=-1)).reshape(b, h * w, -1)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = attention(x)
            x = x + mlp(x)
        return self.out(self.norm(x)).view(b, h, w, c).permute(0, 3, 1, 2)


class ElasticAdapter(nn.Module):
    """``pack``: latent frame -> tokens on its grid, zero where dropped; ``unpack``: the way back; called: both."""

    def __init__(self, config: ElasticConfig) -> None:
        super().__init__()
        self.config = config
        self.packing = _Side(config)
        self.unpacking = _Side(config)

    def forward(self, z: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """A latent frame ``[B, C, h, w]`` as the receiver rebuilds it."""
        return self.unpack(self.pack(z, context, keep), context, keep)

    def pack(self, z: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """``z``, ``context``: ``[B, C, h, w]`` standardised; ``keep``: bool ``[B, h, w]``, a prefix in grid order."""
        tokens = z + self.packing(z, context, keep)
        return torch.where(keep.unsqueeze(1), tokens, 0.0)

    def unpack(self, tokens: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """Tokens with zeros where dropped -> latent frame ``[B, C, h, w]``."""
        return torch.where(keep.unsqueeze(1), tokens, context) + self.unpacking(tokens, context, keep)


def prefix_mask(counts: Tensor, h: int, w: int) -> Tensor:
    """Counts ``[B]`` -> bool ``[B, h, w]``: the first ``count`` positions of :func:`prefix_order`."""
    return (_place(h, w, counts.device) < counts[:, None]).view(-1, h, w)


@lru_cache(maxsize=32)
def _place(h: int, w: int, device: torch.device) -> Tensor:
    """Flat grid positions -> their place in :func:`prefix_order`."""
    return prefix_order(h, w).argsort().to(device)
