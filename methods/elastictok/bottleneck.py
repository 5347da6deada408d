"""The two bottlenecks: a VAE of which inference takes the mean, and finite scalar quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class VAE:
    """Projection ``[..., 2 * dz]`` = mean | log-variance -> mean ``[..., dz]``; nothing is sampled."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, y: Tensor) -> Tensor:
        return y[..., : self.dim].float()


class FSQ:
    """Projection ``[..., len(levels)]`` -> code values on the grid, float32 (elastictok.md section 4).

    The shift uses tan, not atanh, and the grid is shrunk by 1e-3, as the official code has it.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = tuple(levels)
        self.half = tuple(level // 2 for level in self.levels)
        self.basis = tuple(math.prod(self.levels[:i]) for i in range(len(self.levels)))
        self._reach = tuple((level - 1) * (1 - 1e-3) / 2 for level in self.levels)
        self._offset = tuple(0.0 if level % 2 else 0.5 for level in self.levels)
        self._shift = tuple(math.tan(o / r) for o, r in zip(self._offset, self._reach, strict=True))

    def __call__(self, y: Tensor) -> Tensor:
        return self.bound(y).round() / y.new_tensor(self.half, dtype=torch.float32)

    def bound(self, y: Tensor) -> Tensor:
        """The value before rounding (half to even), in units of code steps."""
        reach, offset, shift = (y.new_tensor(v, dtype=torch.float32) for v in (self._reach, self._offset, self._shift))
        return torch.tanh(y.float() + shift) * reach - offset

    def indices(self, z: Tensor) -> Tensor:
        """Code values ``[..., len(levels)]`` -> int64 indices ``[...]``, exact (first level fastest)."""
        half = torch.tensor(self.half, device=z.device)
        digits = (z.float() * half).round().long() + half
        return (digits * torch.tensor(self.basis, device=z.device)).sum(-1)

    def values(self, indices: Tensor) -> Tensor:
        """Inverse of :meth:`indices`: int64 ``[...]`` -> float32 ``[..., len(levels)]``."""
        half, basis, levels = (torch.tensor(v, device=indices.device) for v in (self.half, self.basis, self.levels))
        digits = indices.long().unsqueeze(-1).div(basis, rounding_mode="floor") % levels
        return (digits - half) / half.float()
