"""The ViT of InfoTok: compressor and decompressor of a latent video, block-causal over latent frames.

Tokens stand in the order (t, h, w). A token sees every token of its own latent frame and of earlier ones. Module and
parameter names are the official ones, so that the official state dict loads as it is.

Attention runs frame by frame against a growing prefix of keys: later frames are never multiplied, and no S x S mask
exists, neither on the host nor on the device. The official code computes all S x S pairs and masks; see
:mod:`avtbench.methods.infotok.cost` for both counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines ``[h * w, 1, 1, head_dim / 2]`` of one latent frame."""


def rotary_table(height: int, width: int, head_dim: int, theta: float, device: torch.device | None = None) -> Rotation:
    """2-D rotary angles of one latent frame, the same for every head and every frame.

    With ``f_j = theta^(-2j / head_dim)``, the first half of the interleaved pairs turns by ``row * f_0, f_2, ..`` and
    the second by ``column * f_1, f_3, ..``.
    """
    frequency = theta ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    rows = torch.outer(torch.arange(height, device=device, dtype=torch.float32), frequency[0::2])
    columns = torch.outer(torch.arange(width, device=device, dtype=torch.float32), frequency[1::2])
    grid = (height, width, head_dim // 4)
    angle = torch.cat((rows.unsqueeze(1).expand(grid), columns.unsqueeze(0).expand(grid)), dim=-1)
    angle = angle.reshape(height * width, 1, 1, head_dim // 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the interleaved pairs of ``x: [..., h * w, n, heads, head_dim]``; float32 inside, dtype of ``x`` outside."""
    cos, sin = rotation
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def block_causal_attention(q: Tensor, k: Tensor, v: Tensor, frames: int) -> Tensor:
    """Attention of ``[B, heads, S, d]`` in which each of ``frames`` equal blocks sees itself and the blocks before."""
    size = q.shape[2] // frames
    parts = [
        F.scaled_dot_product_attention(q[:, :, stop - size : stop], k[:, :, :stop], v[:, :, :stop])
        for stop in range(size, frames * size + 1, size)
    ]
    return torch.cat(parts, dim=2) if frames > 1 else parts[0]


class TwiceProjected(nn.Module):
    """Parameters of the attention, applied as the published model does: ``in_proj`` twice, rotary in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)


class Attention(nn.Module):
    """Project, turn q and k, project again with the same weights, attend block-causally, project out.

    The second projection is what passing q, k, v to a stock multi-head attention does: the published weights were
    trained with it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mha = TwiceProjected(width)

    def forward(self, x: Tensor, rotation: Rotation, frames: int) -> Tensor:
        """``[B, S, E]`` -> ``[B, S, E]`` with S = ``frames`` * h * w."""
        weight, bias = self.mha.in_proj_weight, self.mha.in_proj_bias
        first = F.linear(x, weight, bias).unflatten(-1, (3, self.heads, -1)).unflatten(1, (frames, -1))
        q, k = rotate(first[..., :2, :, :], rotation).unbind(-3)
        second = [
            F.linear(part.flatten(-2).flatten(1, 2), w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, w, b in zip((q, k, first[..., 2, :, :]), weight.chunk(3), bias.chunk(3), strict=True)
        ]
        out = block_causal_attention(second[0], second[1], second[2], frames)
        return self.mha.out_proj(out.transpose(1, 2).flatten(-2))


class SwiGLU(nn.Module):
    """``w2(silu(w1 x) * (w3 x))``, without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, each with a residual."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=eps)
        self.ffn_norm = nn.RMSNorm(width, eps=eps)
        self.attention = Attention(width, heads)
        self.mlp = SwiGLU(width, inner)

    def forward(self, x: Tensor, rotation: Rotation, frames: int) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, frames)
        return x + self.mlp(self.ffn_norm(x))
