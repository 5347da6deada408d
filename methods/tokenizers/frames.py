"""Image autoencoders as video tokenisers: every frame on its own, a bounded number of pixels at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.tokenizers.contract import FrozenTokenizer

PIXELS = 2**20
"""Pixels of one pass: 16 frames of 256x256."""


class FrameTokenizer(FrozenTokenizer):
    """Subclasses map images ``[N, 3, H, W]`` in [-1, 1] to latents ``[N, C, h, w]`` and back.

    One latent frame per frame (``temporal`` 1), so chunks of a stream need no state.
    """

    temporal = 1
    streams = True

    @abstractmethod
    def encode_images(self, x: Tensor) -> Tensor:
        """float ``[N, 3, H, W]`` in [-1, 1] -> ``[N, C, h, w]``."""

    @abstractmethod
    def decode_images(self, z: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> float ``[N, 3, H, W]``, [-1, 1] but not necessarily clamped."""

    def encode_legal(self, x: Tensor) -> Tensor:
        parts = x.transpose(0, 1).split(max(1, PIXELS // (x.shape[2] * x.shape[3])))
        return torch.cat([self.encode_images(part) for part in parts]).transpose(0, 1).contiguous()

    def decode_latent(self, z: Tensor) -> Tensor:
        parts = z.transpose(0, 1).split(max(1, PIXELS // (z.shape[2] * z.shape[3] * self.spatial**2)))
        return torch.cat([self.decode_images(part) for part in parts]).transpose(0, 1)

    def encode_chunk(self, x: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        return self.encode_legal(x), state

    def decode_chunk(self, z: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        return self.decode_latent(z), state
