"""The Latent Inpainting Transformer: fills dropped latent positions by factorised spatial-temporal attention.

Stated by the paper (arXiv 2606.06158): lightweight, factorised attention, one pass. Chosen here: all positions are
embedded once, with their neighbours, and serve as keys and values; only dropped positions are queries and pass through
the blocks (spatial attention within a tile of a latent frame, temporal attention at a position, MLP; pre-norm). The
cost of a block therefore follows the number of dropped positions, and kept ones cannot change.

By default (``input="held"``) the network sees the last kept value, the next kept one and what neighbours that were kept
did, and corrects the held value; with ``input="mask"`` it sees a mask embedding at dropped positions and nothing else,
as in the abstract, and predicts the latent itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.contract import ContractError
from avtbench.methods.lit.features import SCALARS, Features, describe
from avtbench.methods.lit.groups import Group, spatial_groups, temporal_groups

REACH = 8
"""Latent frames of distance that temporal attention tells apart; farther ones share the last class."""


@dataclass(frozen=True)
class LITConfig:
    """channels: of the latent; width, depth, heads: of the transformer; ratio: MLP width over ``width``.

    attention: ``factorised`` (within a frame's tile, then in time) or ``joint`` (a tile of all frames at once).
    window:    side of a tile in latent positions.
    input:     ``held`` (last and next kept value, residual output) or ``mask`` (a mask embedding, plain output).
    latents:   the units that the network works in, ``standardised`` or the tokeniser's own (``raw``).
    frames:    latent frames of a training clip; a stream shows it no more at once.
    bound:     a correction is, in the mean over channels, no larger than this times the smallest change that was
               kept in its frame; 0 for no bound. LIT's threshold guarantees 1 of every dropped position; other rules
               do not.
    centred:   the corrections of a frame add up to zero in every channel (after the bound): what changes where nothing
               is kept is texture, hardly ever the whole frame, and a common shift is what a network falls back to.
    """

    channels: int = 16
    width: int = 64
    depth: int = 1
    heads: int = 4
    ratio: int = 2
    attention: Literal["factorised", "joint"] = "factorised"
    window: int = 8
    input: Literal["held", "mask"] = "held"
    latents: Literal["standardised", "raw"] = "standardised"
    frames: int = 5
    bound: float = 0.0
    centred: bool = False

    def __post_init__(self) -> None:
        smallest = {"channels": 1, "width": 4, "depth": 1, "heads": 1, "ratio": 1, "window": 1, "frames": 2}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ContractError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.width % self.heads:
            raise ContractError(f"width is {self.width}, expected a multiple of the {self.heads} heads")
        if self.bound < 0:
            raise ContractError(f"bound is {self.bound}, expected 0 (none) or more")
        for name, allowed in (
            ("attention", ("factorised", "joint")),
            ("input", ("held", "mask")),
            ("latents", ("standardised", "raw")),
        ):
            if getattr(self, name) not in allowed:
                raise ContractError(f"{name} is {getattr(self, name)!r}, expected {' or '.join(allowed)}")
        if self.centred and self.input != "held":
            raise ContractError(f"centred needs the held value, found input {self.input!r}; expected 'held'")
        if self.bound and (self.input, self.latents) != ("held", "standardised"):
            raise ContractError(
                f"bound needs the held value and the threshold's units, found input {self.input!r} and latents "
                f"{self.latents!r}; expected 'held' and 'standardised'"
            )

    def as_dict(self) -> dict[str, int | str | float]:
        return asdict(self)


@lru_cache(maxsize=16)
def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """``[length, width]``: sines and cosines of the index at geometric wavelengths."""
    rates = torch.exp(-torch.arange(0, width, 2, device=device) * (6.0 / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


@lru_cache(maxsize=16)
def places(h: int, w: int, window: int, width: int, device: torch.device) -> Tensor:
    """``[h * w, width]``: where a position lies in its tile, so that larger frames look as the trained ones did."""
    half = width // 2
    rows = sinusoids(window, half, device)[torch.arange(h, device=device) % window]
    columns = sinusoids(window, width - half, device)[torch.arange(w, device=device) % window]
    grid = torch.cat([rows[:, None].expand(h, w, half), columns[None].expand(h, w, width - half)], dim=-1)
    return grid.reshape(h * w, width)


class GroupAttention(nn.Module):
    """Dropped positions look at every position of their group; pre-norm and residual.

    Across frames, a learned bias per head tells how many latent frames a key lies before or after the query: no
    absolute time.
    """

    def __init__(self, width: int, heads: int, across_frames: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(heads, 2 * REACH + 1)) if across_frames else None

    def forward(self, x: Tensor, memory: Tensor, group: Group) -> Tensor:
        """``x``: ``[P, D]`` of dropped positions; ``memory``: ``[tokens, D]`` of all positions."""
        width = x.shape[1]
        size = (self.heads, width // self.heads)
        # embedding: rows of a table by number, several times faster than indexing on a CPU
        q = F.embedding(group.slots, self.query(self.norm(x))).unflatten(-1, size).transpose(1, 2)
        k, v = F.embedding(group.members, self.key_value(memory)).unflatten(-1, (2, *size)).permute(2, 0, 3, 1, 4)
        bias = None
        if self.distance is not None and group.frame is not None and group.lag is not None:
            by_frame = self.distance[:, group.lag.clamp(-REACH, REACH) + REACH].transpose(0, 1).flatten(1)
            bias = F.embedding(group.frame, by_frame).unflatten(-1, (self.heads, -1)).transpose(1, 2).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return x + self.out(F.embedding(group.back, mixed.transpose(1, 2).reshape(-1, width)))


class Block(nn.Module):
    """Attention over each grouping in turn, then an MLP, on dropped positions ``[P, D]``."""

    def __init__(self, config: LITConfig) -> None:
        super().__init__()
        across = (False, True) if config.attention == "factorised" else (True,)
        self.attention = nn.ModuleList(GroupAttention(config.width, config.heads, frames) for frames in across)
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.ratio * config.width),
            nn.GELU(),
            nn.Linear(config.ratio * config.width, config.width),
        )

    def forward(self, x: Tensor, memory: Tensor, groups: list[Group]) -> Tensor:
        for attention, group in zip(self.attention, groups, strict=True):
            x = attention(x, memory, group)
        return x + self.mlp(x)


class LatentInpaintingTransformer(nn.Module):
    """``z: float [B, C, t, h, w]`` (dropped entries ignored), ``keep: bool [B, t, h, w]`` -> complete ``z``.

    Kept positions pass through bit for bit. Untrained, it holds the last kept value (``input="held"``).
    """

    center: Tensor
    scale: Tensor
    every: bool = False
    """Send kept positions through the blocks as well, to the same outcome: what leaving them out saves."""

    def __init__(self, config: LITConfig) -> None:
        super().__init__()
        self.config = config
        c, d = config.channels, config.width
        inputs = 3 * c + SCALARS if config.input == "held" else c + 1
        self.mask = nn.Parameter(torch.randn(c) * 0.02) if config.input == "mask" else None
        self.near, self.wide = (
            nn.Conv2d(n, d, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for n in (inputs, d)
        )
        self.memory = nn.LayerNorm(d)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, 2 * c if config.input == "held" else c)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("center", torch.zeros(c))
        self.register_buffer("scale", torch.ones(c))

    def forward(self, z: Tensor, keep: Tensor) -> Tensor:
        """``z`` in standard deviations, whatever units the network works in."""
        b, c, t, h, w = z.shape
        dropped = (~keep).flatten().nonzero().squeeze(1)
        if len(dropped) == 0 and not self.every:
            return z
        raw = self.config.latents == "raw"
        z = z.movedim(1, -1)
        inside = z * self.scale + self.center if raw else z
        seen = describe(inside, keep, self.mask)
        x = self._embed(seen.inputs, b, t)
        passing = torch.arange(len(x), device=x.device) if self.every else dropped
        groups = self._groups(passing, (b, t, h, w))
        memory = self.memory(x)
        y = F.embedding(passing, x)
        for block in self.blocks:
            y = block(y, memory, groups)
        if self.every:
            y = F.embedding(dropped, y)
        value = self._value(self.out(self.norm(y)).to(inside.dtype), seen, dropped)
        if raw:
            value = (value - self.center) / self.scale
        complete = z.reshape(-1, c).index_copy(0, dropped, value)
        return complete.view(b, t, h, w, c).movedim(-1, 1)

    def _embed(self, inputs: Tensor, b: int, t: int) -> Tensor:
        """``[B, t, h, w, F]`` -> tokens ``[B * t * h * w, D]``: a position with its neighbours, and its place."""
        h, w = inputs.shape[2:4]
        x = self.near(inputs.flatten(0, 1).movedim(-1, 1))
        x = (x + self.wide(F.gelu(x))).movedim(1, -1).flatten(1, 2).to(inputs.dtype)
        place = places(h, w, self.config.window, self.config.width, inputs.device)
        return (x + place.to(x.dtype)).reshape(b * t * h * w, -1)

    def _groups(self, dropped: Tensor, shape: tuple[int, int, int, int]) -> list[Group]:
        if self.config.attention == "joint":
            return [spatial_groups(dropped, shape, self.config.window, joint=True)]
        return [spatial_groups(dropped, shape, self.config.window), temporal_groups(dropped, shape)]

    def _value(self, out: Tensor, seen: Features, dropped: Tensor) -> Tensor:
        """Latents of dropped positions ``[P, C]``: predicted, or held, moved towards the next one and corrected."""
        if seen.held is None or seen.ahead is None or seen.smallest is None:
            return out
        correction, gate = out.chunk(2, dim=-1)
        held, ahead = (_rows(part, dropped) for part in (seen.held, seen.ahead))
        moved = correction + gate * ahead
        if self.config.bound:
            most = self.config.bound * _rows(seen.smallest.expand_as(seen.held[..., :1]), dropped)
            # soft, so that a correction beyond the bound still learns to be smaller
            moved = moved * most / (most + moved.abs().mean(1, keepdim=True)).clamp_min(1e-6)
        if self.config.centred:
            b, t, h, w, _ = seen.held.shape
            moved = _centred(moved, dropped // (h * w), b * t)
        return held + moved


def _centred(rows: Tensor, frame: Tensor, frames: int) -> Tensor:
    """``[P, C]`` without the mean over the rows of the same frame; ``frame``: ``[P]``, its number below ``frames``."""
    total = rows.new_zeros(frames, rows.shape[1]).index_add(0, frame, rows)
    mean = total / torch.bincount(frame, minlength=frames).clamp_min(1).unsqueeze(1)
    return rows - F.embedding(frame, mean.to(rows.dtype))


def _rows(x: Tensor, tokens: Tensor) -> Tensor:
    """``[B, t, h, w, C]`` at the given tokens, ``[P, C]``."""
    return F.embedding(tokens, x.reshape(-1, x.shape[-1]))
