"""A measure is a row of this table: label, unit, direction and how it follows from a stored row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from avtbench.bench.metrics import profiles
from avtbench.bench.rows import Quality, Rate, Row, Timing


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
    """PSNR in dB as the row's own metric profile defines it; ``inf`` where the clip is lossless."""
    q = row.quality
    return profiles.psnr(q) if q is not None and q.profile in profiles.PROFILES else None


def _reread(profile: str, value: Callable[[Quality], float] = profiles.psnr) -> Callable[[Row], float | None]:
    """The same sums under another profile, in a column of its own."""

    def read(row: Row) -> float | None:
        q = row.quality
        return value(profiles.reread(q, profile)) if q is not None and q.profile == profiles.CANONICAL else None

    return read


def _lpips(net: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        frames = row.quality.frame_lpips.get(f"lpips_{net}") if row.quality else None
        return fmean(frames) if frames else None

    return value


def _milliseconds(part: Callable[[Timing], list[float]]) -> Callable[[Row], float | None]:
    return lambda row: 1e3 * median(part(row.timing)) if row.timing and row.timing.encode_side else None


def end_to_end(row: Row) -> list[float]:
    """Seconds of encode + decode side, sample by sample."""
    return _both_sides(row.timing) if row.timing else []


def _both_sides(timing: Timing) -> list[float]:
    return [e + d for e, d in zip(timing.encode_side, timing.decode_side, strict=True)]


def _rate(value: Callable[[Rate], float]) -> Callable[[Row], float | None]:
    return lambda row: value(row.rate) if row.rate else None


def _per_pixel(bits: Callable[[Rate], int]) -> Callable[[Row], float | None]:
    return lambda row: bits(row.rate) / (row.frames * row.height * row.width) if row.rate else None


def kept_fraction(rate: Rate) -> float:
    return rate.kept / rate.total


def bpp16(rate: Rate) -> float:
    """InfoTok's BPP16: bits per 16 pixels with 16 bits per kept token of a 4x8x8 patch and a mask of 1 bit per
    position, that is ``kept fraction + 1/16``, whatever the tokens are; comparable with its tables only."""
    return kept_fraction(rate) + 1 / 16


def requested_rate(row: Row) -> float | None:
    """What was asked for, where the setting is a rate."""
    return row.setting if row.setting_name == "rate" else None


def rate_gap(row: Row) -> float | None:
    """Measured minus requested kept fraction."""
    asked = requested_rate(row)
    return None if asked is None or row.rate is None else kept_fraction(row.rate) - asked


# fmt: off
MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("psnr", "PSNR", "dB", "higher", 2, psnr),
        Measure("ssim", "SSIM", "", "higher", 4,
                lambda r: fmean(r.quality.frame_ssim) if r.quality and r.quality.frame_ssim else None),
        Measure("lpips_vgg", "LPIPS (VGG)", "", "lower", 4, _lpips("vgg")),
        Measure("lpips_alex", "LPIPS (Alex)", "", "lower", 4, _lpips("alex")),
        Measure("lpips_squeeze", "LPIPS (Squeeze)", "", "lower", 4, _lpips("squeeze")),
        Measure("psnr_frame_mean", "PSNR, mean of frames (frame-mean/1)", "dB", "higher", 2, _reread("frame-mean/1")),
        Measure("mse_elastictok", "MSE of 4-frame blocks (elastictok-mse/1)", "on [-1, 1]", "lower", 5,
                _reread("elastictok-mse/1", lambda q: fmean(profiles.block_mse(q)))),
        Measure("psnr_ceiling", "PSNR of the codec alone", "dB", "higher", 2,
                lambda r: profiles.ceiling(r.quality) if r.quality else None),
        Measure("kept_fraction", "kept tokens", "fraction", "lower", 3, _rate(kept_fraction)),
        Measure("kept", "kept tokens", "tokens per clip", "lower", 0, _rate(lambda rate: rate.kept)),
        Measure("total", "tokens of the full grid", "tokens per clip", "neither", 0, _rate(lambda rate: rate.total)),
        Measure("requested_rate", "requested rate", "fraction", "neither", 3, requested_rate),
        Measure("rate_gap", "measured - requested rate", "fraction", "neither", 3, rate_gap),
        Measure("bpp", "rate with mask", "bits per pixel", "lower", 3,
                _per_pixel(lambda rate: rate.payload_bits + rate.mask_bits_coded + rate.extra_bits)),
        Measure("payload_bpp", "payload", "bits per pixel", "lower", 3, _per_pixel(lambda rate: rate.payload_bits)),
        Measure("mask_bpp", "mask, 1 bit per position", "bits per pixel", "lower", 4,
                _per_pixel(lambda rate: rate.mask_bits)),
        Measure("mask_bpp_coded", "mask, entropy coded", "bits per pixel", "lower", 4,
                _per_pixel(lambda rate: rate.mask_bits_coded)),
        Measure("bpp16", "BPP16 (InfoTok)", "", "lower", 3, _rate(bpp16)),
        Measure("encode_ms", "encode side", "ms", "lower", 1,
                _milliseconds(lambda timing: timing.encode_side)),
        Measure("decode_ms", "decode side", "ms", "lower", 1,
                _milliseconds(lambda timing: timing.decode_side)),
        Measure("total_ms", "end to end", "ms", "lower", 1, _milliseconds(_both_sides)),
        Measure("nfe", "network evaluations", "", "lower", 1, lambda r: float(sum(r.evaluations.values())) or None),
        Measure("peak_mb", "peak memory", "MB", "lower", 0,
                lambda r: r.timing.peak_bytes / 2**20 if r.timing and r.timing.peak_bytes else None),
        Measure("motion", "motion", "mean |luma difference|, 0-255", "neither", 2, lambda r: r.motion),
    )
}
# fmt: on
