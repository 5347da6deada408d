"""LIT's rule: which latent positions changed enough to be kept (arXiv 2606.06158; definitions in the README)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reference = Literal["previous", "last_kept"]


def change(z: Tensor, reference: Tensor) -> Tensor:
    """Temporal-L1 score: mean over channels (axis 0) of ``|z - reference|``."""
    return (z - reference).abs().mean(0)


def threshold_mask(
    z: Tensor, tau: float, reference: Reference = "last_kept", last_kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keep the positions whose score exceeds ``tau`` (strictly); the first latent frame is always kept.

    z: ``[C, t, h, w]``, standardised per channel, so that ``tau`` is in standard deviations of the latent.
    last_kept: ``[C, h, w]``, the reference carried over from an earlier chunk of the same stream; with it the first
    frame is judged like any other.
    Returns ``keep: bool [t, h, w]`` and the reference to carry on.
    """
    _, t, h, w = z.shape
    keep = torch.ones((t, h, w), dtype=torch.bool, device=z.device)
    start = 0
    if last_kept is None:
        last_kept, start = z[:, 0], 1
    if reference == "previous":
        before = torch.cat([last_kept.unsqueeze(1), z[:, start:-1]], dim=1)
        keep[start:] = change(z[:, start:], before) > tau
        return keep, z[:, -1]
    for k in range(start, t):
        keep[k] = change(z[:, k], last_kept) > tau
        last_kept = torch.where(keep[k], z[:, k], last_kept)
    return keep, last_kept


def hold(z: Tensor, keep: Tensor, before: Tensor | None = None) -> Tensor:
    """Fill dropped positions with the last kept value at the same place; no network.

    z: ``[C, t, h, w]`` (dropped entries are ignored), keep: bool ``[t, h, w]``; before: ``[C, h, w]`` held from an
    earlier chunk, zeros where nothing was kept yet. All three may have a batch axis before these.
    """
    latest = _latest_kept(keep)
    first = torch.zeros_like(z[..., :1, :, :]) if before is None else before.unsqueeze(-3)
    return torch.cat([first, z], dim=-3).gather(-3, latest.unsqueeze(-4).expand_as(z))


def age(keep: Tensor) -> Tensor:
    """Latent frames since the position was last kept: 0 where kept, long ``[..., t, h, w]``."""
    return _count(keep) - _latest_kept(keep)


def _latest_kept(keep: Tensor) -> Tensor:
    """1 + index of the latest kept latent frame up to each one; 0 where none was kept yet."""
    return torch.where(keep, _count(keep), 0).cummax(-3).values


def _count(keep: Tensor) -> Tensor:
    t = keep.shape[-3]
    return torch.arange(1, t + 1, device=keep.device).view(t, 1, 1)
