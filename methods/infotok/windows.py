"""Long clips of any size: which frames a window takes, how it is padded, and how reconstructed windows join.

The official inference (``faithful=True``) pads height and width to multiples of 16 with black, half before and the
rest after, and the frames of a window to 1 + 8 k by repeating the edge frames, half *in front* and the rest behind;
8 although the published model needs 4. Where windows overlap they are blended in uint8 and truncated.

``faithful=False`` pads no further than the model needs, at the far ends only (causality is not shifted) and by
repetition, and blends in floating point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.contract import ContractError

OFFICIAL_SPATIAL, OFFICIAL_TEMPORAL = 16, 8
"""Multiples that the official inference pads to, whatever the model."""


def spans(frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """First and last-plus-one frame of each window; the last window may be shorter."""
    if window < 1 or not 0 <= overlap < window:
        raise ContractError(
            f"infotok: window {window} with overlap {overlap}; expected window >= 1 and 0 <= overlap < window"
        )
    step = window - overlap
    count = 1 + max(0, -(-(frames - window) // step))
    return [(i * step, min(i * step + window, frames)) for i in range(count)]


@dataclass(frozen=True)
class Layout:
    """How a clip of ``video`` = (T, H, W) is cut for a model that compresses by ``temporal`` and ``spatial``."""

    video: tuple[int, int, int]
    temporal: int
    spatial: int
    window: int = 17
    overlap: int = 0
    faithful: bool = True

    @property
    def spans(self) -> list[tuple[int, int]]:
        return spans(self.video[0], self.window, self.overlap)

    def padding(self, span: tuple[int, int]) -> tuple[int, int, int, int, int, int]:
        """(left, right, top, bottom, front, behind) of a window, in the order that ``torch`` pads."""
        space = math.lcm(OFFICIAL_SPATIAL, self.spatial) if self.faithful else self.spatial
        time = math.lcm(OFFICIAL_TEMPORAL, self.temporal) if self.faithful else self.temporal
        missing = (-self.video[2] % space, -self.video[1] % space, -(span[1] - span[0] - 1) % time)
        left, top, front = (n // 2 if self.faithful else 0 for n in missing)
        return left, missing[0] - left, top, missing[1] - top, front, missing[2] - front

    def grid(self, span: tuple[int, int]) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a padded window."""
        left, right, top, bottom, front, behind = self.padding(span)
        frames, height, width = (
            span[1] - span[0] + front + behind,
            self.video[1] + top + bottom,
            self.video[2] + left + right,
        )
        return 1 + (frames - 1) // self.temporal, height // self.spatial, width // self.spatial

    def repeated(self, index: int) -> int:
        """Latent frames at the head of window ``index`` that show nothing but frames of the window before it."""
        return 1 + (self.overlap - 1) // self.temporal if index and self.overlap else 0

    def cut(self, video: Tensor, span: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 ``[T, H, W, 3]`` -> the padded window, ``[1, 3, T', H', W']`` in [-1, 1]."""
        left, right, top, bottom, front, behind = self.padding(span)
        x = video[span[0] : span[1]].permute(3, 0, 1, 2).unsqueeze(0).float() / 255 * 2 - 1
        if self.faithful:
            x = F.pad(x, (left, right, top, bottom), value=-1.0)
            x = F.pad(x, (0, 0, 0, 0, front, behind), mode="replicate")
        else:
            x = F.pad(x, (left, right, top, bottom, front, behind), mode="replicate")
        return x.to(dtype)

    def uncut(self, x: Tensor, span: tuple[int, int]) -> Tensor:
        """``[1, 3, T', H', W']`` in [-1, 1] -> the window's frames, float32 ``[n, H, W, 3]`` in [0, 1], unclamped."""
        left, _, top, _, front, _ = self.padding(span)
        _, height, width = self.video
        inner = x[0, :, front : front + span[1] - span[0], top : top + height, left : left + width]
        return (inner.float().permute(1, 2, 3, 0) + 1) / 2

    def join(self, windows: Sequence[Tensor]) -> Tensor:
        """Windows ``[n, H, W, 3]`` in [0, 1] -> the clip, float32 ``[T, H, W, 3]``.

        With an overlap of o, frame j of it is ``a * previous + (1 - a) * next``, ``a = (o - j) / (o + 1)``. If
        ``faithful``, on uint8 values with the result truncated, so that every value of the clip is a multiple of 1/255.
        """
        if self.overlap == 0:
            return torch.cat(list(windows))
        parts = [to_uint8(w).float() for w in windows] if self.faithful else list(windows)
        alpha = torch.arange(self.overlap, 0, -1, device=parts[0].device) / (self.overlap + 1)
        alpha = alpha.reshape(-1, 1, 1, 1)
        joined = [parts[0]]
        for part in parts[1:]:
            before = joined[-1]
            blend = alpha * before[-self.overlap :] + (1 - alpha) * part[: self.overlap]
            joined[-1] = before[: -self.overlap]
            joined.append(torch.cat((blend.trunc() if self.faithful else blend, part[self.overlap :])))
        clip = torch.cat(joined)
        return clip / 255 if self.faithful else clip


def to_uint8(video: Tensor) -> Tensor:
    """[0, 1] -> uint8, clamped and rounded half up as the official tool does."""
    return (video.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
