"""Optional FVD (Unterthiner et al. 2018) as StyleGAN-V and TokenBench take it, for those who have the I3D network.

Each clip (up to 300 frames) is one sample: shorter side to 224, centre crop, [-1, 1], 400 features of the Kinetics
I3D network in TorchScript (``i3d_torchscript.pt``, given by the user); then the Fréchet distance of the two Gaussians.
A covariance of 400 features from fewer clips than that is noise, so below 256 clips it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avtbench.bench.errors import UserError

FEWEST_CLIPS = 256
_MOST_FRAMES = 300
_SIDE = 224


def fvd(originals: Sequence[Tensor], reconstructions: Sequence[Tensor], i3d: str | Path | None) -> float:
    """Fréchet video distance of uint8 ``[T, H, W, 3]`` clips and their reconstructions.

    i3d: file of the TorchScript network. Raises :class:`avtbench.bench.errors.UserError` with the reason where there
    are fewer than 256 clips, where the numbers differ, or without that file.
    """
    if len(originals) != len(reconstructions):
        raise UserError(
            f"FVD: {len(originals)} clips and {len(reconstructions)} reconstructions, expected one for each"
        )
    if len(originals) < FEWEST_CLIPS:
        raise UserError(
            f"FVD: {len(originals)} clips, at least {FEWEST_CLIPS} are needed: it is biased by several times its value "
            "below that; report PSNR, SSIM and LPIPS instead"
        )
    if i3d is None or not Path(i3d).is_file():
        raise UserError(
            f"FVD: no I3D network at {i3d}; give the TorchScript file i3d_torchscript.pt of StyleGAN-V"
            if i3d is not None
            else "FVD: needs the TorchScript file i3d_torchscript.pt of StyleGAN-V; none was given"
        )
    network = torch.jit.load(str(i3d), map_location="cpu").eval()
    sides = [np.stack([features(clip, network) for clip in clips]) for clips in (originals, reconstructions)]
    (mean_a, cov_a), (mean_b, cov_b) = ((side.mean(axis=0), np.cov(side, rowvar=False)) for side in sides)
    return frechet_distance(mean_a, cov_a, mean_b, cov_b)


@torch.inference_mode()
def features(clip: Tensor, network: torch.nn.Module) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` -> float64 ``[400]``."""
    frames = clip[:_MOST_FRAMES].permute(0, 3, 1, 2).float().div(255)
    height, width = frames.shape[-2:]
    scale = _SIDE / min(height, width)
    size = (max(_SIDE, round(height * scale)), max(_SIDE, round(width * scale)))
    frames = torch.nn.functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    frames = frames[..., top : top + _SIDE, left : left + _SIDE] * 2 - 1
    found = network(frames.transpose(0, 1)[None], rescale=False, resize=False, return_features=True)
    return found.flatten().double().cpu().numpy()


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of two Gaussians, in float64."""
    values, vectors = np.linalg.eigh(cov_a.astype(np.float64))
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)
