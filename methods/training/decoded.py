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
    "relative": f"{_L2}; for a quarter of the clips also squared error and LPIPS of every fourth frame against the "
    "full-rate decode, each over that of the bare kept values, and what is above 1 three times",
}
LPIPS_WEIGHT: Mapping[str, float] = {"lpips": 15.0, "relative": 1.0}
"""Of LPIPS beside the latent error: right for LIT, whose fills differ by hundredths. All terms are meant to be of one
size; a method whose fills are farther from the crop needs less."""


HARM = 2.0
"""Added weight, in ``relative``, of being worse than the bare kept values: still clips leave little to gain and are
lost on easily, and a mean of ratios alone lets the gain on moving ones pay for it."""

LEAST_DISTANCE = 5e-5, 3e-4
"""Squared error of pixels in [-1, 1] and LPIPS that are added, in ``relative``, to those of the bare kept values."""


class DecodedDistance:
    """Squared error (``pixel``), LPIPS distance (``lpips``) or both (``relative``) between decoded latents and crops.

    The target of the first two is the crop, because quality is measured against it. In still clips, whose kept values
    lose next to nothing, that teaches the network to mend the tokeniser instead: an offset that gains PSNR and costs
    LPIPS. The target of ``relative`` is the full-rate decode, which leaves only what was dropped to be mended.

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
        self, filled: Tensor, plain: Tensor, whole: Tensor, crops: np.ndarray, base: Tensor, effect: Tensor
    ) -> Tensor | float:
        """Mean over the first quarter of ``filled: [B, C, t, h, w]``, standardised, whose crops have these numbers.

        plain: the bare kept values in its place, whole: all values; base: ``[B]``, latent error of plain; effect: mean
        squared change of pixels in [-1, 1] when every channel moves by one standard deviation; ``pixel`` is divided by
        both. 0 for a latent loss.
        """
        if self.objective not in ("pixel", *LPIPS_WEIGHT):
            return 0.0
        few = max(len(filled) // 4, 1)
        losses = []
        parts = (filled, plain, whole, crops, base)
        for ours, bare, full, crop, norm in zip(*(part[:few] for part in parts), strict=True):
            # every fourth frame for LPIPS, and all places within a latent frame over the crops
            some = slice(None) if self.objective == "pixel" else slice(int(crop) % 4, None, 4)
            shown = self._frames(ours, some)
            if self.objective == "relative":
                with torch.no_grad():
                    target, worst = self._frames(full, some), self._frames(bare, some)
                    most = self._apart(worst, target)
                error, seen = (
                    distance / (bound + least)
                    for distance, bound, least in zip(self._apart(shown, target), most, LEAST_DISTANCE, strict=True)
                )
                losses.append(_harm_counted(error) + self.weight * _harm_counted(seen))
                continue
            target = self.sampler.sample(int(crop))[0][some].to(ours.device).permute(0, 3, 1, 2)
            squared, lpips = self._apart(shown, target.float().div(127.5).sub(1))
            pixel = self.objective == "pixel"
            losses.append(squared / (effect.to(norm.device) * norm) if pixel else self.weight * lpips)
        return torch.stack(losses).mean()

    def _frames(self, z: Tensor, some: slice) -> Tensor:
        """Decoded frames, and no others where they do not depend on others."""
        if isinstance(self.tokenizer, FrameTokenizer):
            return self.decode(z[:, some])
        return self.decode(z)[: self.sampler.frames][some]

    def _apart(self, shown: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error and LPIPS; 0 for an LPIPS that the loss does without."""
        squared = (shown - target).square().mean()
        if self.objective == "pixel" or self.perceptual is None:
            return squared, squared.new_zeros(())
        return squared, self.perceptual(shown, target).mean()

    def describe(self) -> dict[str, object]:
        """For the training card."""
        weighted = {"lpips_weight": self.weight} if self.objective in LPIPS_WEIGHT else {}
        return {"loss": self.objective, "loss_in_words": OBJECTIVES[self.objective], **weighted}

    def decode(self, z: Tensor) -> Tensor:
        """Standardised ``[C, t, h, w]`` -> frames ``[T, 3, H, W]`` in [-1, 1]; differentiable."""
        latent = z.to(self.tokenizer.device) * self.statistics.scale + self.statistics.center
        frames = self.tokenizer.decode_latent(latent.to(self.tokenizer.dtype)).transpose(0, 1).float()
        return frames.clamp(-1, 1).to(z.device)


def _harm_counted(ratio: Tensor) -> Tensor:
    return ratio + HARM * (ratio - 1).relu()
