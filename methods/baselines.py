"""The honest opponents and bounds: full rate, hold without a network, a random mask, an oracle mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.contract import ContractError, Family
from avtbench.methods.latents import LatentMethod, Latents
from avtbench.methods.streaming import FillState
from avtbench.methods.threshold import Reference, hold, reference_after, threshold_mask
from avtbench.methods.tokenizers.contract import FrozenTokenizer


def check_reference(reference: str) -> None:
    """Raise unless ``reference`` is one of the two that LIT's description allows."""
    if reference not in ("previous", "last_kept"):
        raise ContractError(f"reference is {reference!r}, expected 'previous' or 'last_kept'")


class FullRate(LatentMethod):
    """Every position is kept: the quality that no way of dropping on this tokeniser exceeds on average."""

    name: ClassVar[str] = "full-rate"
    summary: ClassVar[str] = "the frozen tokeniser itself, every token kept"
    family: ClassVar[Family] = "bound"
    setting_name: ClassVar[str] = "none"
    default_settings: ClassVar[tuple[float, ...]] = (0.0,)

    def choose_chunk(self, latents: Latents, setting: float, state: Tensor | None) -> Tensor:
        return torch.ones(latents.z.shape[1:], dtype=torch.bool, device=latents.z.device)


class Hold(LatentMethod):
    """LIT's threshold without its network: dropped positions show the last kept value.

    reference: what a position is compared with, ``last_kept`` or ``previous`` (the preceding latent frame).
    """

    name: ClassVar[str] = "hold"
    summary: ClassVar[str] = "temporal-L1 threshold, last kept value copied, no network"
    family: ClassVar[Family] = "bound"
    setting_name: ClassVar[str] = "threshold"
    setting_unit: ClassVar[str] = "latent standard deviations"
    default_settings: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.4, 0.8)

    def __init__(self, tokenizer: FrozenTokenizer, reference: Reference = "last_kept") -> None:
        super().__init__(tokenizer)
        check_reference(reference)
        self.reference: Reference = reference

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "reference": self.reference}

    def choose_chunk(self, latents: Latents, setting: float, state: Tensor | None) -> Tensor:
        return threshold_mask(latents.z, setting, self.reference, state)

    def carry_on(self, latents: Latents, keep: Tensor, state: Tensor | None) -> Tensor:
        return reference_after(latents.z, keep, self.reference, state)

    def fill_chunk(self, z: Tensor, keep: Tensor, state: FillState | None) -> tuple[Tensor, FillState]:
        held = hold(z, keep, state.held if state else None)
        return held, FillState(held[:, -1:])


class RandomMask(Hold):
    """As many positions as the threshold keeps, but drawn at random (first latent frame always kept).

    seed: of the draw; the same for every clip and setting.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "as many positions as the threshold keeps, drawn at random"

    def __init__(self, tokenizer: FrozenTokenizer, reference: Reference = "last_kept", seed: int = 0) -> None:
        super().__init__(tokenizer, reference)
        self.seed = seed

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "seed": self.seed}

    def choose(self, latents: Latents, setting: float) -> Tensor:
        wanted = int(threshold_mask(latents.z, setting, self.reference).sum())
        score = torch.rand(latents.z.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        return keep_highest(score.to(latents.z.device), wanted)


class Oracle(Hold):
    """As many positions as the threshold keeps, chosen by the true error in pixels when they are dropped.

    The error of a position is what its pixels lose when its latent frame is replaced by the one before and decoded:
    one decoder pass a latent frame. It looks at the original, as no sender's rule on latents can.
    """

    name: ClassVar[str] = "oracle"
    summary: ClassVar[str] = "as many positions as the threshold keeps, chosen by their true error when dropped"

    def encode(self, video: Tensor) -> OracleLatents:
        latents = super().encode(video)
        with self.stage("true error"):
            return OracleLatents(latents.z, video, self._true_error(latents))

    def choose(self, latents: Latents, setting: float) -> Tensor:
        assert isinstance(latents, OracleLatents)
        wanted = int(threshold_mask(latents.z, setting, self.reference).sum())
        return keep_highest(latents.error, wanted)

    def _true_error(self, latents: Latents) -> Tensor:
        z = latents.z
        original = latents.video.to(z.device).float() / 255
        whole = self._squared_error(z, original, latents.extent)
        error = torch.zeros(z.shape[1:], device=z.device)
        for k in range(1, z.shape[1]):
            dropped = z.clone()
            dropped[:, k] = z[:, k - 1]
            # later frames may change as well: the tokeniser's decoder looks back
            error[k] = (self._squared_error(dropped, original, latents.extent) - whole)[k:].sum(0)
        return error

    def _squared_error(self, z: Tensor, original: Tensor, video: tuple[int, int, int]) -> Tensor:
        """Sum of squared pixel errors per latent position, ``[t, h, w]``."""
        decoded = self.tokenizer.decode(z * self.scale + self.center, video)
        return per_position((decoded - original).square().sum(-1), self.tokenizer)


class OracleLatents(Latents):
    """Latents with the true error of every position, ``error: [t, h, w]``."""

    def __init__(self, z: Tensor, video: Tensor, error: Tensor) -> None:
        super().__init__(z, video)
        object.__setattr__(self, "error", error)

    error: Tensor


def per_position(error: Tensor, tokenizer: FrozenTokenizer) -> Tensor:
    """Sum an error map ``[T, H, W]`` over the pixels of each latent position -> ``[t, h, w]``."""
    frames, height, width = error.shape
    to = tokenizer.legal(frames, height, width)
    lead = tokenizer.temporal - 1 if tokenizer.causal_first else 0
    padded = F.pad(error, (0, to[2] - width, 0, to[1] - height, lead, to[0] - frames))
    size = (tokenizer.temporal, tokenizer.spatial, tokenizer.spatial)
    return F.avg_pool3d(padded[None, None], size)[0, 0] * (size[0] * size[1] * size[2])


def keep_highest(score: Tensor, wanted: int) -> Tensor:
    """Keep the first latent frame and, of the others, the highest scores: ``wanted`` positions in all."""
    keep = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    keep[0] = True
    rest = score[1:].flatten()
    chosen = rest.argsort(descending=True, stable=True)[: max(wanted - keep[0].numel(), 0)]
    keep[1:].view(-1)[chosen] = True
    return keep
