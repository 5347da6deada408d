"""What the methods on a shared frozen tokeniser have in common: encoding, packing kept latents, unpacking them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.calibration import latent_statistics
from avtbench.methods.contract import Method, Tokens, Weights
from avtbench.methods.tokenizers.contract import FrozenTokenizer


@dataclass(frozen=True)
class Latents:
    """A clip on the sender's side. ``z``: ``[C, t, h, w]``, standardised per channel; ``video``: the clip itself."""

    z: Tensor
    video: Tensor

    @property
    def extent(self) -> tuple[int, int, int]:
        frames, height, width = self.video.shape[:3]
        return frames, height, width


class LatentMethod(Method):
    """A rule on the latents of a frozen tokeniser: :meth:`choose` the mask, :meth:`fill` what was dropped.

    tokenizer: the frozen tokeniser; thresholds and kept values are in standard deviations of its latents.
    """

    def __init__(self, tokenizer: FrozenTokenizer) -> None:
        self.statistics = latent_statistics(tokenizer)
        self.tokenizer = tokenizer
        self.weights: Weights = tokenizer.weights
        self.center, self.scale = self.statistics.center, self.statistics.scale

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.name,
            "tokenizer_digest": self.tokenizer.digest,
            "statistics_digest": self.statistics.digest,
        }

    @abstractmethod
    def choose(self, latents: Latents, setting: float) -> Tensor:
        """The mask ``keep: bool [t, h, w]``."""

    def fill(self, z: Tensor, keep: Tensor) -> Tensor:
        """Standardised latents with dropped positions zeroed -> complete latents; kept positions are not changed."""
        return z

    def encode(self, video: Tensor) -> Latents:
        return Latents((self.tokenizer.encode(video).float() - self.center) / self.scale, video)

    def select(self, latents: Latents, setting: float) -> Tokens:
        setting = self.check_setting(setting)
        with self.stage("choose"):
            keep = self.choose(latents, setting)
        with self.stage("pack"):
            return self.pack(latents.z, keep, latents.extent)

    def decode(self, tokens: Tokens) -> Tensor:
        with self.stage("unpack"):
            z = self.unpack(tokens)
        with self.stage("fill"):
            z = self.fill(z, tokens.keep)
        return self.tokenizer.decode(z * self.scale + self.center, tokens.video)

    def pack(self, z: Tensor, keep: Tensor, video: tuple[int, int, int]) -> Tokens:
        """Kept latents as they are sent: 16-bit floats."""
        return Tokens(values=z.permute(1, 2, 3, 0)[keep].half(), keep=keep, video=video, precision=16)

    def unpack(self, tokens: Tokens) -> Tensor:
        """``[C, t, h, w]`` with zeros (the latents' mean) at dropped positions."""
        z = torch.zeros((*tokens.keep.shape, self.tokenizer.channels), device=self.center.device)
        z[tokens.keep] = tokens.values.to(self.center.device).float()
        return z.permute(3, 0, 1, 2)
