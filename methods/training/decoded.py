"""What a filled clip looks like after the frozen decoder: the part of an adapter's loss that pixels decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from avtbench.methods.calibration import latent_statistics
from avtbench.methods.contract import ContractError
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.training.crops import CropSampler

Objective = Literal["latent-l2", "latent-l1", "pixel", "lpips"]
Perceptual = Callable[[Tensor, Tensor], Tensor]

_L2 = "squared latent error over that of the bare kept values, channels weighted by their pixel effect"
OBJECTIVES: Mapping[str, str] = {
    "latent-l2": _L2,
    "latent-l1": _L2.replace("squared", "absolute"),
    "pixel": f"{_L2}; for a quarter of the clips also the squared error after the frozen decoder over the same",
    "lpips": f"{_L2}; for a quarter of the clips also LPIPS after the frozen decoder, every fourth frame",
}
LPIPS_WEIGHT = 15.0
"""Of LPIPS beside the latent error: right for LIT, whose fills differ by hundredths. Both terms are meant to be of one
size; a method whose fills are farther from the crop needs less."""


class DecodedDistance:
    """Squared error (``pixel``) or LPIPS distance (``lpips``) between decoded latents and the crops themselves.

    The target is the crop and not its full-rate decode, because quality is measured against the crop.

    perceptual: images ``[N, 3, H, W]`` in [-1, 1] twice -> differentiable distances ``[N]``; needed for ``lpips``.
    weight: of LPIPS beside the latent error. Raises :class:`ContractError` for an unknown loss, or one that lacks its
    backbone.
    """

    def __init__(
        self, tokenizer: FrozenTokenizer, sampler: CropSampler, objective: Objective, perceptual: Perceptual | None,
        weight: float = LPIPS_WEIGHT,
    ) -> None:  # fmt: skip
        if objective not in get_args(Objective):
            raise ContractError(f"loss is {objective!r}, expected one of {', '.join(get_args(Objective))}")
        if objective == "lpips" and perceptual is None:
            raise ContractError("loss is 'lpips', which needs a backbone, and none was given; take another loss")
        self.tokenizer, self.sampler = tokenizer, sampler
        self.objective, self.perceptual, self.weight = objective, perceptual, weight
        self.statistics = latent_statistics(tokenizer)

    def __call__(self, filled: Tensor, crops: np.ndarray, base: Tensor, effect: Tensor) -> Tensor | float:
        """Mean over the first quarter of ``filled: [B, C, t, h, w]``, standardised, whose crops have these numbers.

        base: ``[B]``, latent error of the bare kept values; effect: mean squared change of pixels in [-1, 1] when every
        channel moves by one standard deviation; a squared error is divided by both. 0 for a latent loss.
        """
        if self.objective not in ("pixel", "lpips"):
            return 0.0
        few = max(len(filled) // 4, 1)
        losses = []
        for ours, crop, norm in zip(filled[:few], crops[:few], base[:few], strict=True):
            target = self.sampler.sample(int(crop))[0].to(ours.device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            decoded = self.decode(ours)[: len(target)]
            if self.objective == "pixel":
                losses.append((decoded - target).square().mean() / (effect.to(norm.device) * norm))
            else:
                assert self.perceptual is not None
                some = slice(int(crop) % 4, None, 4)  # all places within a latent frame over the crops
                losses.append(self.weight * self.perceptual(decoded[some], target[some]).mean())
        return torch.stack(losses).mean()

    def describe(self) -> dict[str, object]:
        """For the training card."""
        weighted = {"lpips_weight": self.weight} if self.objective == "lpips" else {}
        return {"loss": self.objective, "loss_in_words": OBJECTIVES[self.objective], **weighted}

    def decode(self, z: Tensor) -> Tensor:
        """Standardised ``[C, t, h, w]`` -> frames ``[T, 3, H, W]`` in [-1, 1]; differentiable."""
        latent = z.to(self.tokenizer.device) * self.statistics.scale + self.statistics.center
        frames = self.tokenizer.decode_latent(latent.to(self.tokenizer.dtype)).transpose(0, 1).float()
        return frames.clamp(-1, 1).to(z.device)
