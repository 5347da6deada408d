"""Metric profiles: what other people mean by PSNR and SSIM, named and versioned, so that no two meet unnoticed.

A profile says how decibels follow from the raw sums of a stored :class:`~avtbench.bench.rows.Quality`. Three of them
only read the sums of ``tokenbench/1`` in another way (``from_raw``): any stored row gives their number without pixels.
Measuring pixels under the others is :mod:`avtbench.bench.metrics.conventions`. Two profiles never share a column or an
axis: :func:`require_one`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from avtbench.bench.errors import UserError, did_you_mean
from avtbench.bench.rows import Quality

CANONICAL = "tokenbench/1"
BLOCK = 4
"""Frames per block of ElasticTok."""


class ProfileError(UserError):
    """A profile is unknown, or two of them were about to be mixed."""


@dataclass(frozen=True)
class Profile:
    """``psnr``: raw sums -> dB, ``inf`` where nothing is lost. ``from_raw``: the sums of a canonical row will do.
    ``plotted``: False for what is computed to understand old tables only."""

    name: str
    summary: str
    source: str
    psnr: Callable[[Quality], float]
    from_raw: bool = False
    plotted: bool = True


def psnr(quality: Quality) -> float:
    """PSNR in dB as the profile of ``quality`` defines it; ``inf`` means lossless."""
    return get(quality.profile).psnr(quality)


def get(name: str) -> Profile:
    """The profile of that name; :class:`ProfileError` where there is none."""
    if name not in PROFILES:
        raise ProfileError(f"there is no metric profile {name!r}; {did_you_mean(name, PROFILES)}")
    return PROFILES[name]


def reread(quality: Quality, name: str) -> Quality:
    """Read stored sums under another profile, without pixels; :class:`ProfileError` where that cannot be done."""
    if quality.profile == name:
        return quality
    if quality.profile != CANONICAL or not get(name).from_raw:
        readable = ", ".join(p.name for p in PROFILES.values() if p.from_raw)
        raise ProfileError(
            f"{name} does not follow from the stored sums of {quality.profile}; those of {CANONICAL} give "
            f"{readable}, anything else has to be measured anew"
        )
    return quality.model_copy(update={"profile": name, "frame_ssim": [], "frame_lpips": {}, "absent": {}})


def require_one(names: Iterable[str]) -> str:
    """The one profile of the rows that are about to share a column or an axis.

    ``names``: the profile of each row. Raises :class:`ProfileError` where there is not exactly one, or where it is one
    that is computed for comparison with history only.
    """
    found = sorted(set(names))
    if len(found) != 1:
        listed = f"the metric profiles {' and '.join(found)}" if found else "no metric profile"
        raise ProfileError(f"rows hold {listed}; a table or an axis holds one: keep the rows of one")
    if not get(found[0]).plotted:
        raise ProfileError(f"{found[0]} is historical and never plotted; measure under {CANONICAL}")
    return found[0]


def block_mse(quality: Quality) -> list[float]:
    """MSE on [-1, 1] of every block of four frames (ElasticTok's loss), the reconstruction not rounded; a last
    shorter block counts its own frames."""
    sums = quality.frame_sse_float
    blocks = [sums[first : first + BLOCK] for first in range(0, len(sums), BLOCK)]
    return [sum(block) * (2 / 255) ** 2 / (quality.frame_pixels * len(block)) for block in blocks]


def ceiling(quality: Quality) -> float | None:
    """PSNR in dB of the codec alone (the coded original against the original); None where no codec took part."""
    if not quality.ceiling_sse:
        return None
    return _decibels(sum(quality.ceiling_sse) / (quality.frame_pixels * len(quality.ceiling_sse)), 255)


# how dB follow from the sums


def _decibels(error: float, peak: float) -> float:
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def _whole_clip(quality: Quality) -> float:
    return _decibels(sum(quality.frame_sse) / (quality.frame_pixels * len(quality.frame_sse)), 255)


def _frame_mean(quality: Quality) -> float:
    """Infinite as soon as one frame is lossless, as in the scripts that take it."""
    return fmean(_decibels(sse / quality.frame_pixels, 255) for sse in quality.frame_sse)


def _vidtok(quality: Quality) -> float:
    if not any(quality.frame_sse_float):
        return math.inf
    return fmean(-10 * math.log10(sse / (255**2 * quality.frame_pixels) + 1e-8) for sse in quality.frame_sse_float)


def _blocks(quality: Quality) -> float:
    return _decibels(fmean(block_mse(quality)), 2)


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile(
            CANONICAL,
            "whole-clip MSE on uint8, box-window SSIM per frame; no codec",
            "TokenBench metrics_cli.py since its PR 3",
            _whole_clip,
            from_raw=True,
        ),
        Profile(
            "frame-mean/1",
            "mean of per-frame dB on uint8; SSIM as tokenbench/1",
            "most image-based evaluation scripts",
            _frame_mean,
            from_raw=True,
        ),
        Profile(
            "vidtok/1",
            "[0, 1] float, mean of per-frame dB; average-pooled Gaussian SSIM",
            "VidTok scripts/inference_evaluate.py",
            _vidtok,
        ),
        Profile(
            "elastictok-mse/1",
            "MSE on [-1, 1] per block of 4 frames (0.003 = 31.25 dB); no SSIM",
            "ElasticTok, section on inference",
            _blocks,
            from_raw=True,
        ),
        Profile(
            "as-published-mp4/1",
            "both sides through H.264 as mediapy writes it, then tokenbench/1",
            "the route of Cosmos-Tokenizer, InfoTok and TokenBench",
            _whole_clip,
        ),
        Profile(
            "tokenbench-uint8wrap/0",
            "squared error modulo 256: uint8 arithmetic that wraps; historical",
            "TokenBench metrics_cli.py before its PR 3",
            _whole_clip,
            plotted=False,
        ),
    )
}
