"""A measure is a row of this table: label, unit, direction and how it follows from a stored row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from avtbench.bench.rows import Row


@dataclass(frozen=True)
class Measure:
    """A derived quantity. ``value`` returns None where the row does not hold what it needs."""

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    digits: int
    value: Callable[[Row], float | None]

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    @property
    def axis(self) -> str:
        """Axis label, e.g. ``PSNR (dB)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def mse(row: Row) -> float | None:
    """Whole-clip mean squared error on uint8 values; 0 means lossless."""
    q = row.quality
    return None if q is None else sum(q.frame_sse) / (q.frame_pixels * len(q.frame_sse))


def psnr(row: Row) -> float | None:
    """Whole-clip PSNR in dB against a peak of 255; ``inf`` where the clip is lossless."""
    error = mse(row)
    return None if error is None else math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _lpips(net: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        frames = row.quality.frame_lpips.get(f"lpips_{net}") if row.quality else None
        return fmean(frames) if frames else None

    return value


def _seconds(part: Callable[[Row], list[float]]) -> Callable[[Row], float | None]:
    return lambda row: 1e3 * median(part(row)) if row.timing and row.timing.encode_side else None


def end_to_end(row: Row) -> list[float]:
    """Seconds of encode + decode side, sample by sample."""
    assert row.timing is not None
    return [e + d for e, d in zip(row.timing.encode_side, row.timing.decode_side, strict=True)]


def _per_pixel(bits: Callable[[Row], int]) -> Callable[[Row], float | None]:
    return lambda row: bits(row) / (row.frames * row.height * row.width) if row.rate else None


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("psnr", "PSNR", "dB", "higher", 2, psnr),
        Measure("ssim", "SSIM", "", "higher", 4, lambda r: fmean(r.quality.frame_ssim) if r.quality else None),
        Measure("lpips_vgg", "LPIPS (VGG)", "", "lower", 4, _lpips("vgg")),
        Measure("lpips_alex", "LPIPS (Alex)", "", "lower", 4, _lpips("alex")),
        Measure("lpips_squeeze", "LPIPS (Squeeze)", "", "lower", 4, _lpips("squeeze")),
        Measure(
            "kept_fraction",
            "kept tokens",
            "fraction",
            "lower",
            3,
            lambda r: r.rate.kept / r.rate.total if r.rate else None,
        ),
        Measure(
            "bpp",
            "rate with mask",
            "bits per pixel",
            "lower",
            3,
            _per_pixel(lambda r: r.rate.payload_bits + r.rate.mask_bits_coded + r.rate.extra_bits),
        ),  # type: ignore[union-attr]
        Measure("encode_ms", "encode side", "ms", "lower", 1, _seconds(lambda r: r.timing.encode_side)),  # type: ignore[union-attr]
        Measure("decode_ms", "decode side", "ms", "lower", 1, _seconds(lambda r: r.timing.decode_side)),  # type: ignore[union-attr]
        Measure("total_ms", "end to end", "ms", "lower", 1, _seconds(end_to_end)),
        Measure("nfe", "network evaluations", "", "lower", 1, lambda r: float(sum(r.evaluations.values())) or None),
        Measure(
            "peak_mb",
            "peak memory",
            "MB",
            "lower",
            0,
            lambda r: r.timing.peak_bytes / 2**20 if r.timing and r.timing.peak_bytes else None,
        ),
        Measure("motion", "motion", "mean |luma difference|, 0-255", "neither", 2, lambda r: r.motion),
    )
}
