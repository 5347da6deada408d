"""What the Latent Inpainting Transformer is told about every position, kept or dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.threshold import age

SCALARS = 6
"""Numbers per position besides latent values: kept, nearness of the last and next kept value, how far between the two,
the frame's kept fraction, and the smallest change that was kept in the frame."""

LARGEST_CHANGE = 2.0
"""Cap on the smallest kept change, and its value in a frame where nothing was kept."""


@dataclass(frozen=True)
class Features:
    """inputs: ``[B, t, h, w, F]``; held, ahead: ``[B, t, h, w, C]``, or None where a mask embedding stands for them.

    held: the last kept value. ahead: from it along the straight line to the next kept value, as far as the frame lies
    between the two; zero where none follows. smallest: ``[B, t, 1, 1, 1]``, smallest change that was kept in the frame.
    """

    inputs: Tensor
    held: Tensor | None = None
    ahead: Tensor | None = None
    smallest: Tensor | None = None


def describe(z: Tensor, keep: Tensor, mask: Tensor | None = None) -> Features:
    """``z: [B, t, h, w, C]``, ``keep: [B, t, h, w]``; dropped entries of ``z`` are not looked at.

    mask: an embedding ``[C]`` that stands at dropped positions; with it nothing else is told.
    """
    kept = keep.unsqueeze(-1)
    flag = kept.to(z.dtype)
    if mask is not None:
        return Features(torch.cat([torch.where(kept, z, mask.to(z.dtype)), flag], dim=-1))
    t, h, w, c = z.shape[1:]
    since, until = age(keep), age(keep.flip(1)).flip(1)
    frames = torch.arange(t, device=z.device).view(-1, 1, 1)
    begun = since <= frames
    known = begun & (frames + until < t)
    # rows of a table by number, several times faster than gathering channel by channel on a CPU
    values, place = z.reshape(-1, c), torch.arange(keep.numel(), device=z.device).view(keep.shape)
    held = F.embedding(place - torch.where(begun, since, 0) * (h * w), values)
    held = torch.where(begun.unsqueeze(-1), held, 0)
    next_kept = F.embedding(place + torch.where(known, until, 0) * (h * w), values)
    known = known.unsqueeze(-1)
    since, until = since.unsqueeze(-1).to(z.dtype), until.unsqueeze(-1).to(z.dtype)
    between = torch.where(known, since / (since + until).clamp_min(1), 0)
    ahead = torch.where(known, (next_kept - held) * between, 0)
    change = torch.cat([torch.zeros_like(held[:, :1]), held[:, 1:] - held[:, :-1]], dim=1)
    size = change.abs().mean(-1, keepdim=True)
    smallest = torch.where(kept, size, LARGEST_CHANGE).amin((2, 3), keepdim=True).clamp_max(LARGEST_CHANGE)
    scalars = [
        flag, 1 / (1 + since), torch.where(known, 1 / (1 + until), 0), between,
        flag.mean((2, 3), keepdim=True).expand_as(flag), smallest.expand_as(flag),
    ]  # fmt: skip
    return Features(torch.cat([held, change, ahead, *scalars], dim=-1), held, ahead, smallest)
