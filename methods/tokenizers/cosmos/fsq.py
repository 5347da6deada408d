"""Finite scalar quantisation as the Cosmos tokenisers and InfoTok use it: every channel rounds to a few levels.

Source: infotok paper and Cosmos "DV" models; levels (8, 8, 8, 5, 5, 5) give 64 000 codes of 15.966 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVELS = (8, 8, 8, 5, 5, 5)


class FSQ(nn.Module):
    """Quantiser without parameters over ``levels``, one per channel; channel axis 1 (``[B, d, ...]``).

    A code is ``q / (L // 2)`` with integer ``q`` from ``-(L // 2)``: -1 to 0.75 in steps of 0.25 for L = 8, -1 to 1 in
    steps of 0.5 for L = 5. An index counts codes with the first channel fastest. The zero vector is a code as well.
    """

    def __init__(self, levels: Sequence[int] = LEVELS):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"FSQ levels {list(levels)}: expected at least one channel of two or more levels")
        self.levels = tuple(int(n) for n in levels)
        self.codebook = math.prod(self.levels)
        half = [(n - 1) * (1 + 1e-3) / 2 for n in self.levels]
        offset = [0.5 if n % 2 == 0 else 0.0 for n in self.levels]
        table = {
            "reach": half,
            "offset": offset,
            "shift": [math.atanh(o / h) for o, h in zip(offset, half, strict=True)],
            "width": [n // 2 for n in self.levels],
        }
        for name, values in table.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        basis = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.int64), persistent=False)
        self.register_buffer("base", torch.tensor(self.levels, dtype=torch.int64), persistent=False)

    reach: Tensor
    offset: Tensor
    shift: Tensor
    width: Tensor
    basis: Tensor
    base: Tensor

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Follow the device, never the precision: half-precision bounds would move the rounding boundaries."""
        super()._apply(fn, recurse)
        if self.reach.dtype != torch.float32:
            fresh = FSQ(self.levels)
            for name in ("reach", "offset", "shift", "width"):
                setattr(self, name, getattr(fresh, name).to(self.reach.device))
        return self

    def _column(self, values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *[1] * (like.dim() - 2))

    def bound(self, z: Tensor) -> Tensor:
        """float ``[B, d, ...]`` -> float32 in the range whose rounding gives the levels."""
        if z.shape[1] != len(self.levels):
            raise ValueError(
                f"FSQ input {list(z.shape)} has {z.shape[1]} channels, expected {len(self.levels)} on axis 1"
            )
        half, offset, shift = (self._column(v, z) for v in (self.reach, self.offset, self.shift))
        return torch.tanh(z.float() + shift) * half - offset

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """float ``[B, d, ...]`` -> indices int32 ``[B, ...]`` and codes ``[B, d, ...]`` of z's dtype.

        Gradients pass straight through the rounding.
        """
        bounded = self.bound(z)
        rounded = bounded.round()
        indices = self._index(rounded)
        if torch.is_grad_enabled() and bounded.requires_grad:
            rounded = bounded + (rounded - bounded).detach()
        return indices, (rounded / self._column(self.width, z)).to(z.dtype)

    def _index(self, rounded: Tensor) -> Tensor:
        digits = rounded.detach().long() + self._column(self.base // 2, rounded)
        return (digits * self._column(self.basis, rounded)).sum(1).to(torch.int32)

    def to_indices(self, codes: Tensor) -> Tensor:
        """Codes (or anything near them) ``[B, d, ...]`` -> index of the nearest code, int32 ``[B, ...]``."""
        width = self._column(self.width, codes)
        q = (codes.float() * width).round()
        last = self._column(self.base - self.base // 2 - 1, codes)
        return self._index(torch.minimum(torch.maximum(q, -width), last))

    def to_codes(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Indices int ``[B, ...]`` -> codes ``[B, d, ...]``."""
        wide = indices.long().unsqueeze(1)
        low, high = (int(v) for v in wide.aminmax()) if wide.numel() else (0, 0)
        if low < 0 or high >= self.codebook:
            raise ValueError(f"FSQ indices from {low} to {high}, expected 0 to {self.codebook - 1}")
        digits = wide // self._column(self.basis, wide) % self._column(self.base, wide)
        return ((digits - self._column(self.base // 2, wide)) / self._column(self.width, wide)).to(dtype)
