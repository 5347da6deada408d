"""Which positions a dropped one looks at, packed so that attention costs what was dropped.

Tokens are numbered ``((b * t + k) * h + y) * w + x``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """G groups with a dropped position or more, of at most n dropped positions and M members each.

    members: ``[G, M]`` tokens that serve as keys. slots: ``[G, n]`` numbers of dropped positions (any where a group has
    fewer). back: ``[P]``, the flat slot of every dropped position. Where a group spans frames, frame: ``[G, n]`` of the
    queries, and lag: ``[t, M]`` latent frames from a query's frame to each key.
    """

    members: Tensor
    slots: Tensor
    back: Tensor
    frame: Tensor | None = None
    lag: Tensor | None = None


def spatial_groups(dropped: Tensor, shape: tuple[int, int, int, int], window: int, joint: bool = False) -> Group:
    """Tiles of ``window`` x ``window`` positions: of one latent frame, or of all frames of a clip (``joint``).

    dropped: ``[P]``, ascending token numbers. Tiles that would stand over the edge are moved inside.
    """
    b, t, h, w = shape
    tiles, tile_of = _tiles(h, w, window, dropped.device)
    frame, place = dropped // (h * w), dropped % (h * w)
    if not joint:
        active, slots, back = _pack(frame * len(tiles) + tile_of[place], b * t * len(tiles))
        members = tiles[active % len(tiles)] + (active // len(tiles) * h * w)[:, None]
        return Group(members, slots, back)
    active, slots, back = _pack(frame // t * len(tiles) + tile_of[place], b * len(tiles))
    frames = torch.arange(t, device=dropped.device)
    first = (active // len(tiles) * t * h * w)[:, None, None]
    members = (first + frames[None, :, None] * h * w + tiles[active % len(tiles)][:, None]).flatten(1)
    keys = frames.repeat_interleave(tiles.shape[1])
    return Group(members, slots, back, frame[slots] % t, keys - frames[:, None])


def temporal_groups(dropped: Tensor, shape: tuple[int, int, int, int]) -> Group:
    """One group a position: all its latent frames."""
    b, t, h, w = shape
    n = h * w
    active, slots, back = _pack(dropped // (t * n) * n + dropped % n, b * n)
    frames = torch.arange(t, device=dropped.device)
    members = (active // n * t * n + active % n)[:, None] + frames * n
    return Group(members, slots, back, (dropped // n % t)[slots], frames - frames[:, None])


def _pack(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Group of every dropped position ``[P]`` -> groups that occur ``[G]``, slots ``[G, n]``, back ``[P]``."""
    counts = torch.bincount(group, minlength=groups)
    active = counts.nonzero().squeeze(1)
    n = int(counts.max())
    ordered, order = group.sort(stable=True)
    row = ((counts > 0).cumsum(0) - 1)[ordered]
    first = (counts.cumsum(0) - counts)[ordered]
    flat = row * n + torch.arange(len(group), device=group.device) - first
    slots = flat.new_zeros(len(active) * n).scatter_(0, flat, order)
    back = torch.empty_like(order).scatter_(0, order, flat)
    return active, slots.view(-1, n), back


@lru_cache(maxsize=16)
def _tiles(h: int, w: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of every tile ``[tiles, s_h * s_w]`` and the tile of every position ``[h * w]``."""
    tall, wide = min(window, h), min(window, w)
    rows, columns = -(-h // tall), -(-w // wide)
    top = (torch.arange(rows) * tall).clamp_max(h - tall)
    left = (torch.arange(columns) * wide).clamp_max(w - wide)
    y = top[:, None] + torch.arange(tall)
    x = left[:, None] + torch.arange(wide)
    tiles = (y[:, None, :, None] * w + x[None, :, None, :]).reshape(rows * columns, tall * wide)
    tile_of = (torch.arange(h)[:, None] // tall) * columns + torch.arange(w) // wide
    return tiles.to(device), tile_of.flatten().to(device)
