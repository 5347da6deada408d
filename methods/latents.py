"""What the methods on a shared frozen tokeniser have in common: encoding, packing kept latents, unpacking them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError, Method, Tokens, Weights
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


def latent_statistics(tokenizer: FrozenTokenizer) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation ``[C]`` of a tokeniser's latents; 0 and 1 under random weights."""
    if tokenizer.mean is not None and tokenizer.std is not None:
        return tokenizer.mean, tokenizer.std
    zeros = torch.zeros(tokenizer.channels, device=tokenizer.device)
    if tokenizer.weights == "random":
        return zeros, zeros + 1
    raise ContractError(
        f"tokeniser {tokenizer.name} has no latent statistics, expected a mean and a std per channel, the unit of "
        "thresholds; use a tokeniser that states them, such as embedded or wan21"
    )


class LatentMethod(Method):
    """A rule on the latents of a frozen tokeniser: :meth:`choose` the mask, :meth:`fill` what was dropped.

    tokenizer: the frozen tokeniser; thresholds and kept values are in standard deviations of its latents.
    """

    def __init__(self, tokenizer: FrozenTokenizer) -> None:
        mean, std = latent_statistics(tokenizer)
        self.tokenizer = tokenizer
        self.weights: Weights = tokenizer.weights
        self.center, self.scale = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"tokenizer": self.tokenizer.name, "tokenizer_digest": self.tokenizer.digest}

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
