"""LIT's rule: which latent positions changed enough to be kept (arXiv 2606.06158; definitions in the README)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reference = Literal["previous", "last_kept"]


def threshold_mask(
    z: Tensor, tau: float | Tensor, reference: Reference = "last_kept", before: Tensor | None = None
) -> Tensor:
    """Keep the positions whose temporal-L1 score, the mean over channels of ``|z - reference|``, exceeds ``tau``
    (strictly); the first latent frame is always kept.

    z: ``[C, t, h, w]``, standardised per channel, so that ``tau`` is in standard deviations of the latent.
    tau: one limit, or a tensor of limits that broadcasts to ``[h, w]``.
    before: ``[C, h, w]``, :func:`reference_after` an earlier chunk of the same stream; with it the first frame is
    judged like any other.
    Returns ``keep: bool [t, h, w]``.
    """
    # beside a small encoder every kernel counts: sums instead of means, no reference that nobody asks for, and a limit
    # that is a tensor already (on the CPU, like any number), which a comparison would else make of it at every frame
    limit = tau * z.shape[0]
    if not isinstance(limit, Tensor):
        limit = torch.full((), limit, dtype=z.dtype)
    frames = z.unbind(1) if before is None else (before, *z.unbind(1))
    if len(frames) == 1:
        return z.new_ones(z.shape[1:], dtype=torch.bool)
    keep: list[Tensor] = []
    against = frames[0]
    for i in range(1, len(frames)):
        if i > 1:
            against = frames[i - 1] if reference == "previous" else torch.where(keep[-1], frames[i - 1], against)
        keep.append((frames[i] - against).abs_().sum(0) > limit)
    return torch.stack(keep if before is not None else [torch.ones_like(keep[0]), *keep])


def reference_after(z: Tensor, keep: Tensor, reference: Reference, before: Tensor | None = None) -> Tensor:
    """What the frame after ``z`` is compared with, ``[C, h, w]``; arguments as for :func:`threshold_mask`."""
    return z[:, -1] if reference == "previous" else last_held(z, keep, before)


def hold(z: Tensor, keep: Tensor, before: Tensor | None = None) -> Tensor:
    """Fill dropped positions with the last kept value at the same place; no network.

    z: ``[C, t, h, w]`` (dropped entries are ignored), keep: bool ``[t, h, w]``; before: ``[C, h, w]`` held from an
    earlier chunk, zeros where nothing was kept yet. All three may have a batch axis before these.
    """
    return _shown(z, _latest_kept(keep), before)


def last_held(z: Tensor, keep: Tensor, before: Tensor | None = None) -> Tensor:
    """The newest frame of :func:`hold` alone, ``[C, h, w]``."""
    return _shown(z, torch.where(keep, _count(keep), 0).amax(-3, keepdim=True), before).squeeze(-3)


def _shown(z: Tensor, latest: Tensor, before: Tensor | None) -> Tensor:
    """Frames ``latest`` of ``z``, counted from 1; 0 is ``before``, or zeros."""
    first = torch.zeros_like(z[..., :1, :, :]) if before is None else before.unsqueeze(-3)
    return torch.cat([first, z], dim=-3).gather(-3, latest.unsqueeze(-4).expand(*z.shape[:-3], *latest.shape[-3:]))


def age(keep: Tensor) -> Tensor:
    """Latent frames since the position was last kept: 0 where kept, long ``[..., t, h, w]``."""
    return _count(keep) - _latest_kept(keep)


def _latest_kept(keep: Tensor) -> Tensor:
    """1 + index of the latest kept latent frame up to each one; 0 where none was kept yet."""
    return torch.where(keep, _count(keep), 0).cummax(-3).values


def _count(keep: Tensor) -> Tensor:
    t = keep.shape[-3]
    return torch.arange(1, t + 1, device=keep.device).view(t, 1, 1)


def declared_mask(like: Tensor, share: float) -> Tensor:
    """A mask that keeps ``share`` of all positions, whatever the content: for timing at a declared rate.

    like: bool ``[t, h, w]``, whose grid and device it takes. The first latent frame is kept, and of the others evenly
    spread positions, as many in each.
    """
    t, h, w = like.shape
    due = max(round(share * t * h * w) - h * w, 0) / max((t - 1) * h * w, 1)
    place = torch.arange(h * w, device=like.device, dtype=torch.float64) * 0.6180339887498949  # golden ratio: even
    keep = (place.remainder(1) < due).view(1, h, w).repeat(t, 1, 1)
    keep[0] = True
    return keep
