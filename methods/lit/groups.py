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
    fewer). back: ``[P]``, the flat slot of every dropped position. lag: ``[G, n, M]`` latent frames from the query to
    the key, or None where all are of one frame.
    """

    members: Tensor
    slots: Tensor
    back: Tensor
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
    lag = (members // (h * w))[:, None] - (dropped // (h * w))[slots][:, :, None]
    return Group(members, slots, back, lag)


def temporal_groups(dropped: Tensor, shape: tuple[int, int, int, int]) -> Group:
    """One group a position: all its latent frames."""
    b, t, h, w = shape
    n = h * w
    active, slots, back = _pack(dropped // (t * n) * n + dropped % n, b * n)
    frames = torch.arange(t, device=dropped.device)
    members = (active // n * t * n + active % n)[:, None] + frames * n
    lag = frames[None, None] - (dropped // n % t)[slots][:, :, None]
    return Group(members, slots, back, lag)


def _pack(group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Group of every dropped position ``[P]`` -> groups that occur ``[G]``, slots ``[G, n]``, back ``[P]``."""
    counts = torch.bincount(group, minlength=groups)
    active = counts.nonzero().squeeze(1)
    counts = counts[active]
    n = int(counts.max())
    order = group.argsort(stable=True)
    row = torch.arange(len(active), device=group.device).repeat_interleave(counts)
    first = (counts.cumsum(0) - counts)[row]
    flat = row * n + torch.arange(len(group), device=group.device) - first
    slots = torch.zeros(len(active) * n, dtype=torch.long, device=group.device)
    slots[flat] = order
    back = torch.empty_like(order)
    back[order] = flat
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
