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
from avtbench.methods.tokenizers.frames import FrameTokenizer
from avtbench.methods.training.crops import CropSampler

Objective = Literal["latent-l2", "latent-l1", "pixel", "lpips", "relative"]
Perceptual = Callable[[Tensor, Tensor], Tensor]

_L2 = "squared latent error over that of the bare kept values, channels weighted by their pixel effect"
OBJECTIVES: Mapping[str, str] = {
    "latent-l2": _L2,
    "latent-l1": _L2.replace("squared", "absolute"),
    "pixel": f"{_L2}; for a quarter of the clips also the squared error after the frozen decoder over the same",
    "lpips": f"{_L2}; for a quarter of the clips also LPIPS after the frozen decoder, every fourth frame",
    "relative": f"{_L2}; for a quarter of the clips also, after the frozen decoder, squared error and LPIPS of every "
    "fourth frame, each over that of the bare kept values, and what is above 1 three times",
}
LPIPS_WEIGHT: Mapping[str, float] = {"lpips": 15.0, "relative": 3.0}
"""Of LPIPS beside the latent error: right for LIT, whose fills differ by hundredths. All terms are meant to be of one
size; a method whose fills are farther from the crop needs less."""


HARM = 2.0
"""Added weight, in ``relative``, of being worse than the bare kept values: still clips leave little to gain and are
lost on easily, and a mean of ratios alone lets the gain on moving ones pay for it."""


class DecodedDistance:
    """Squared error (``pixel``), LPIPS distance (``lpips``) or both (``relative``) between decoded latents and crops.

    The target is the crop and not its full-rate decode, because quality is measured against the crop.

    perceptual: images ``[N, 3, H, W]`` in [-1, 1] twice -> differentiable distances ``[N]``; needed for the last two.
    weight: of LPIPS beside the latent error; None takes what suits LIT. Raises :class:`ContractError` for an unknown
    loss, or one that lacks its backbone.
    """

    def __init__(
        self, tokenizer: FrozenTokenizer, sampler: CropSampler, objective: Objective, perceptual: Perceptual | None,
        weight: float | None = None,
    ) -> None:  # fmt: skip
        if objective not in get_args(Objective):
            raise ContractError(f"loss is {objective!r}, expected one of {', '.join(get_args(Objective))}")
        if objective in LPIPS_WEIGHT and perceptual is None:
            raise ContractError(f"loss is {objective!r}, which needs a backbone, and none was given; take another loss")
        self.tokenizer, self.sampler = tokenizer, sampler
        self.objective, self.perceptual = objective, perceptual
        self.weight = LPIPS_WEIGHT.get(objective, 0.0) if weight is None else weight
        self.statistics = latent_statistics(tokenizer)

    def __call__(
        self, filled: Tensor, plain: Tensor, crops: np.ndarray, base: Tensor, effect: Tensor
    ) -> Tensor | float:
        """Mean over the first quarter of ``filled: [B, C, t, h, w]``, standardised, whose crops have these numbers.

        plain: the bare kept values in its place, base: ``[B]``, their latent error; effect: mean squared change of
        pixels in [-1, 1] when every channel moves by one standard deviation; ``pixel`` is divided by both. 0 for a
        latent loss.
        """
        if self.objective not in ("pixel", *LPIPS_WEIGHT):
            return 0.0
        few = max(len(filled) // 4, 1)
        losses = []
        for ours, bare, crop, norm in zip(filled[:few], plain[:few], crops[:few], base[:few], strict=True):
            # every fourth frame for LPIPS, and all places within a latent frame over the crops
            some = slice(None) if self.objective == "pixel" else slice(int(crop) % 4, None, 4)
            target = self.sampler.sample(int(crop))[0][some].to(ours.device).permute(0, 3, 1, 2)
            target = target.float().div(127.5).sub(1)
            squared, lpips = self._apart(ours, target, some)
            if self.objective == "relative":
                with torch.no_grad():
                    most, farthest = self._apart(bare, target, some)
                ratios = squared / (most + 1e-6), lpips / (farthest + 1e-3)
                error, seen = (ratio + HARM * (ratio - 1).relu() for ratio in ratios)
                losses.append(error + self.weight * seen)
            elif self.objective == "lpips":
                losses.append(self.weight * lpips)
            else:
                losses.append(squared / (effect.to(norm.device) * norm))
        return torch.stack(losses).mean()

    def _apart(self, z: Tensor, target: Tensor, some: slice) -> tuple[Tensor, Tensor]:
        """Squared error and LPIPS of these frames; 0 for an LPIPS that the loss does without."""
        if isinstance(self.tokenizer, FrameTokenizer):
            decoded = self.decode(z[:, some])
        else:
            decoded = self.decode(z)[: self.sampler.frames][some]
        squared = (decoded - target).square().mean()
        if self.objective == "pixel" or self.perceptual is None:
            return squared, squared.new_zeros(())
        return squared, self.perceptual(decoded, target).mean()

    def describe(self) -> dict[str, object]:
        """For the training card."""
        weighted = {"lpips_weight": self.weight} if self.objective in LPIPS_WEIGHT else {}
        return {"loss": self.objective, "loss_in_words": OBJECTIVES[self.objective], **weighted}

    def decode(self, z: Tensor) -> Tensor:
        """Standardised ``[C, t, h, w]`` -> frames ``[T, 3, H, W]`` in [-1, 1]; differentiable."""
        latent = z.to(self.tokenizer.device) * self.statistics.scale + self.statistics.center
        frames = self.tokenizer.decode_latent(latent.to(self.tokenizer.dtype)).transpose(0, 1).float()
        return frames.clamp(-1, 1).to(z.device)
