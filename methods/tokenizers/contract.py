"""The contract of a frozen base tokeniser: pixels to a continuous latent grid and back.

``x: float [3, T, H, W]`` in [-1, 1]; ``z: float [C, t, h, w]``. A tokeniser is one file with a subclass; its class
attributes are literals, read without importing it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.stages import evaluated, stage


class FrozenTokenizer(ABC):
    """A frozen tokeniser with a factor ``temporal`` in time and ``spatial`` in both sides, ``channels`` latents.

    With ``causal_first`` the first frame has a latent frame of its own, ``t = 1 + (T - 1) / temporal``; otherwise
    ``t = T / temporal``. Subclasses implement :meth:`encode_legal` and :meth:`decode_latent` for a clip of legal size.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    needs_weights: ClassVar[bool] = False
    """True when nothing usable ships with the package and ``weights=PATH`` must be given."""
    streams: ClassVar[bool] = False
    """True when :meth:`encode_chunk` and :meth:`decode_chunk` carry state, so that chunks equal the whole."""

    channels: int
    temporal: int
    spatial: int
    causal_first: bool = True
    weights: Literal["trained", "random"] = "trained"
    digest: str = ""
    """sha256 (16 hex digits) of the parameters."""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    mean: Tensor | None = None
    """Per-channel mean ``[C]`` of the latents over the calibration clips; None where not calibrated."""
    std: Tensor | None = None
    """Per-channel standard deviation ``[C]``: the unit of thresholds."""

    @abstractmethod
    def encode_legal(self, x: Tensor) -> Tensor:
        """float ``[3, T, H, W]`` of legal size -> ``[C, t, h, w]`` (the mode, never a sample)."""

    @abstractmethod
    def decode_latent(self, z: Tensor) -> Tensor:
        """``[C, t, h, w]`` -> float ``[3, T, H, W]``, not necessarily clamped."""

    def encode_chunk(self, x: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        """Encode the next frames of a stream; ``state`` is None at its start. Only where ``streams``."""
        raise TypeError(f"tokeniser {self.name} does not stream; encode the whole clip instead")

    def decode_chunk(self, z: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        """Decode the next latent frames of a stream; ``state`` is None at its start. Only where ``streams``."""
        raise TypeError(f"tokeniser {self.name} does not stream; decode the whole clip instead")

    def legal(self, frames: int, height: int, width: int, starts: bool = True) -> tuple[int, int, int]:
        """Smallest (T, H, W) not below the given one that the tokeniser accepts.

        ``starts`` is False for a later chunk of a stream, which has no first frame of its own.
        """
        lead = 1 if self.causal_first and starts else 0
        steps = max(-(-(frames - lead) // self.temporal), 0 if lead else 1)
        up = self.spatial
        return lead + steps * self.temporal, -(-height // up) * up, -(-width // up) * up

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a clip of that size."""
        legal_frames, legal_height, legal_width = self.legal(frames, height, width)
        lead = 1 if self.causal_first else 0
        return lead + (legal_frames - lead) // self.temporal, legal_height // self.spatial, legal_width // self.spatial

    def encode(self, video: Tensor) -> Tensor:
        """uint8 ``[T, H, W, 3]`` of any size -> ``[C, t, h, w]``; edges are replicated up to the next legal size."""
        with stage("encoder"):
            evaluated("encoder")
            return self.encode_legal(self._padded(video, starts=True))

    def decode(self, z: Tensor, video: tuple[int, int, int]) -> Tensor:
        """``[C, t, h, w]`` -> float32 ``[T, H, W, 3]`` in [0, 1] (unclamped), cropped to ``video`` = (T, H, W)."""
        with stage("decoder"):
            evaluated("decoder")
            return self._cropped(self.decode_latent(z.to(self.dtype)), video)

    def encode_next(self, video: Tensor, state: Any | None) -> tuple[Tensor, Any]:
        """:meth:`encode` for the next chunk of a stream; one that has to be padded in time must be the last."""
        with stage("encoder"):
            evaluated("encoder")
            return self.encode_chunk(self._padded(video, starts=state is None), state)

    def decode_next(self, z: Tensor, video: tuple[int, int, int], state: Any | None) -> tuple[Tensor, Any]:
        """:meth:`decode` for the next chunk of a stream, whose extent ``video`` is."""
        with stage("decoder"):
            evaluated("decoder")
            x, state = self.decode_chunk(z.to(self.dtype), state)
            return self._cropped(x, video), state

    def _padded(self, video: Tensor, starts: bool) -> Tensor:
        frames, height, width = video.shape[:3]
        to = self.legal(frames, height, width, starts)
        x = video.to(self.device).permute(3, 0, 1, 2).to(self.dtype).div_(127.5).sub_(1)
        if to == (frames, height, width):
            return x
        pad = (0, to[2] - width, 0, to[1] - height, 0, to[0] - frames)
        return F.pad(x.unsqueeze(0), pad, mode="replicate").squeeze(0)

    def _cropped(self, x: Tensor, video: tuple[int, int, int]) -> Tensor:
        frames, height, width = video
        return x[:, :frames, :height, :width].permute(1, 2, 3, 0).float().add(1).div(2)
