"""Optional FVD (Unterthiner et al. 2018) as StyleGAN-V and TokenBench take it, for those who have the I3D network.

Each clip (up to 300 frames) is one sample: shorter side to 224, centre crop, [-1, 1], 400 features of the Kinetics
I3D network in TorchScript (``i3d_torchscript.pt``, given by the user); then the Fréchet distance of the two Gaussians.
A covariance of 400 features from fewer clips than that is noise, so below 256 clips it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avtbench.bench.errors import UserError
from avtbench.bench.metrics.conventions import Video, pixels

FEWEST_CLIPS = 256
MOST_FRAMES = 300
_SIDE = 224


def fvd(originals: Sequence[Video], reconstructions: Sequence[Video], i3d: str | Path | None) -> float:
    """Fréchet video distance of clips and their reconstructions: uint8 ``[T, H, W, 3]``, or video files read in turn.

    i3d: file of the TorchScript network; it runs on the GPU where there is one. Raises
    :class:`avtbench.bench.errors.UserError` with the reason where there are fewer than 256 clips, where the numbers
    differ, or without that file.
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
    network = _network(i3d)
    sides = []
    for clips in (originals, reconstructions):
        found = np.stack([features(pixels(clip, MOST_FRAMES), network) for clip in clips])
        sides.append((found.mean(axis=0), np.cov(found, rowvar=False)))
    return frechet_distance(*sides[0], *sides[1])


def fvd_of_folders(originals: Path, reconstructions: Path, i3d: Path | None) -> tuple[float, int]:
    """FVD of two folders of videos (or of folders of frames) with the same names, and the number of clips.

    Raises UserError as :func:`fvd` does, and where a name stands in one folder only.
    """
    from avtbench.datasets.recordings import find_recordings

    sides = []
    for folder in (originals, reconstructions):
        if not folder.is_dir():
            raise UserError(f"FVD: there is no folder {folder}, expected one of videos")
        sides.append({found.name: found.path for found in find_recordings(folder)})
    alone = sorted(sides[0].keys() ^ sides[1].keys())
    if alone:
        raise UserError(
            f"FVD: {len(alone)} clips stand in one folder only, first {alone[0]}; expected the same names in both"
        )
    names = sorted(sides[0])
    before, after = ([side[name] for name in names] for side in sides)
    return fvd(before, after, i3d), len(names)


def _network(i3d: str | Path | None) -> torch.nn.Module:
    if i3d is None:
        raise UserError("FVD: needs the TorchScript file i3d_torchscript.pt of StyleGAN-V; give it with --i3d FILE")
    if not Path(i3d).is_file():
        raise UserError(f"FVD: no I3D network at {i3d}; give the TorchScript file i3d_torchscript.pt of StyleGAN-V")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.jit.load(str(i3d), map_location=device).eval()
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"FVD: {i3d} is no TorchScript file ({said}); expected i3d_torchscript.pt") from None


@torch.inference_mode()
def features(clip: Tensor, network: torch.nn.Module) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` -> float64 ``[400]``."""
    device = next(iter(network.parameters()), clip).device
    frames = clip[:MOST_FRAMES].to(device).permute(0, 3, 1, 2).float().div(255)
    sides = frames.shape[-2:]
    size = [math.ceil(side * (_SIDE / min(sides))) if side > min(sides) else _SIDE for side in sides]
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
