"""Rows made from a formula: a small world in which every answer is known."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avtbench.bench.rows import Preview, Quality, Rate, Row, StageCost, Status, Timing

FRAMES, SIZE = 17, 128
SHARES = (0.08, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)


def psnr_of(method: str, share: float, clip: int) -> float:
    """Saturating curves: oracle above the learned methods above hold above random; harder clips lie lower."""
    ceiling = 31.0 - 0.35 * clip
    loss = {"full-rate": 0.0, "oracle": 1.6, "lit": 2.6, "infotok-style": 3.1, "elastictok-style": 3.6, "hold": 4.6}
    return ceiling - loss.get(method, 7.5) * (1 - share) ** 1.4 - 0.4 * math.sin(5 * clip + len(method)) * (1 - share)


def quality_row(
    method: str = "lit",
    share: float = 0.5,
    clip: int = 0,
    *,
    dataset: str = "davis",
    setting: float | None = None,
    psnr: float | None = None,
    source: str = "",
    profile: str = "tokenbench/1",
    lpips: bool = True,
    **changes: Any,
) -> Row:
    pixels = SIZE * SIZE * 3
    value = psnr_of(method, share, clip) if psnr is None else psnr
    sse = 0 if math.isinf(value) else round(255**2 / 10 ** (value / 10) * pixels)
    total = 5 * 16 * 16
    kept = max(1, round(share * total))
    flat = 1 - 10 ** (-(30 if math.isinf(value) else value) / 18)
    columns = {"lpips_squeeze": [(1 - flat) * 4] * FRAMES} if lpips else {}
    fields: dict[str, Any] = {
        "key": f"q-{dataset}-{method}-{share}-{clip}-{sorted(changes.items())}",
        "status": Status.DONE,
        "pass_": "quality",
        "method": method,
        "tier": "shared",
        "family": FAMILIES.get(method, "threshold"),
        "weights": "trained",
        "tokenizer": "embedded",
        "setting_name": "threshold",
        "setting": round(1 - share, 3) if setting is None else setting,
        "dataset": dataset,
        "clip": f"clip-{clip:02d}",
        "source": source,
        "frames": FRAMES,
        "height": SIZE,
        "width": SIZE,
        "motion": 1.5 * clip + 0.3,
        "view": {"size": SIZE, "frames": FRAMES},
        "environment": "env0",
        "seconds": 0.5,
        "evaluations": {"encoder": 1, "decoder": 1},
        "rate": Rate(
            kept=kept, total=total, payload_bits=kept * 256, mask_bits=total, mask_bits_coded=round(total * 0.7)
        ),
        "quality": Quality(
            profile=profile,
            frame_pixels=pixels,
            frame_sse=[sse] * FRAMES,
            frame_sse_float=[sse / 255**2] * FRAMES,
            frame_ssim=[1.0 if math.isinf(value) else flat] * FRAMES,
            frame_lpips=columns,
            absent={"lpips_vgg": "no backbone weights; give --lpips-weights FILE", "lpips_alex": "no backbone weights"},
        ),
    }
    return Row(**(fields | changes))


FAMILIES = {
    "full-rate": "bound",
    "hold": "bound",
    "random": "bound",
    "oracle": "bound",
    "elastictok-style": "search",
    "infotok-style": "threshold",
}

COST = {
    "full-rate": 0.030,
    "hold": 0.031,
    "oracle": 0.080,
    "lit": 0.042,
    "infotok-style": 0.055,
    "elastictok-style": 0.30,
}


def speed_row(
    method: str = "lit",
    share: float = 0.5,
    clip: int = 0,
    *,
    dataset: str = "davis",
    cost: float | None = None,
    launch: int = 0,
    setting: float | None = None,
    scenario: str = "latency",
    **changes: Any,
) -> Row:
    """Eight samples; a common slowness per round that pairing removes."""
    base = (COST.get(method, 0.031) if cost is None else cost) * (1 + 0.04 * clip)
    if method == "elastictok-style":
        base *= 0.6 + 0.4 * share
    noise = np.random.default_rng([launch, clip, len(method)])
    rounds = list(range(8))
    drift = np.random.default_rng([launch, clip]).lognormal(0, 0.1, 8)
    totals = base * drift * noise.lognormal(0, 0.01, 8)
    encode, decode = 0.6 * totals, 0.4 * totals
    stages = {"encode": 0.2 * totals, "select": 0.38 * totals, "decode": 0.39 * totals, "unattributed": 0.03 * totals}
    if method == "elastictok-style":
        stages |= {
            "select/search": 0.37 * totals,
            "select/search/encoder": 0.12 * totals,
            "select/search/decoder": 0.2 * totals,
        }
    elif method == "lit":
        stages |= {"decode/fill": 0.2 * totals, "decode/decoder": 0.18 * totals}
    fields: dict[str, Any] = {
        "key": f"s-{dataset}-{method}-{share}-{clip}-{launch}-{scenario}",
        "status": Status.DONE,
        "pass_": "speed",
        "method": method,
        "tier": "shared",
        "family": FAMILIES.get(method, "threshold"),
        "weights": "trained",
        "tokenizer": "embedded",
        "setting_name": "threshold",
        "setting": round(1 - share, 3) if setting is None else setting,
        "dataset": dataset,
        "clip": f"clip-{clip:02d}",
        "frames": FRAMES,
        "height": SIZE,
        "width": SIZE,
        "view": {"size": SIZE, "frames": FRAMES},
        "environment": "env0",
        "evaluations": {"encoder": 1, "decoder": 12 if method == "elastictok-style" else 1},
        "timing": Timing(
            scenario=scenario,
            device="cpu",
            dtype="float32",
            launch=launch,
            rounds=rounds,
            encode_side=list(encode),
            decode_side=list(decode),
            warmup=[0.1],
            stop_reason="interval",
            seed=1,
            peak_bytes=300 * 2**20,
            stages=[StageCost(path=p, seconds=list(s)) for p, s in stages.items()],
        ),
    }
    return Row(**(fields | changes))


def failed_row(method: str, clip: int, reason: str = "cannot decode: no video stream", **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "key": f"f-{method}-{clip}-{sorted(changes.items())}",
        "status": Status.FAILED,
        "reason": reason,
        "pass_": "quality",
        "method": method,
        "tier": "shared",
        "family": FAMILIES.get(method, "threshold"),
        "weights": "trained",
        "dataset": "davis",
        "clip": f"clip-{clip:02d}",
    }
    return Row(**(fields | changes))


METHODS = ("full-rate", "hold", "random", "oracle", "lit", "elastictok-style", "infotok-style")


def sweep(methods: Sequence[str] = METHODS, clips: int = 8, dataset: str = "davis", speed: bool = True) -> list[Row]:
    """A whole run: every method at every share on every clip; the rate differs a little from clip to clip."""
    rows = []
    for method in methods:
        for share in (1.0,) if method == "full-rate" else SHARES:
            for clip in range(clips):
                reached = share if method == "full-rate" else min(1.0, share * (0.9 + 0.03 * clip))
                common: dict[str, Any] = {"dataset": dataset, "setting": round(1 - share, 3)}
                rows.append(quality_row(method, reached, clip, **common))
                if speed and share in (0.2, 0.5, 1.0) and clip < 4:
                    rows.append(speed_row(method, reached, clip, **common))
    return rows


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def preview(row: Row, frame: int = 8) -> Preview:
    """A photograph-like ramp with a disc; the reconstruction is blurred where tokens were dropped."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    disc = (x - 0.6) ** 2 + (y - 0.45) ** 2 < 0.05
    original = np.stack([200 * x, 160 * y + 40 * np.sin(30 * x), 120 + 80 * np.cos(9 * x * y)], -1)
    original[disc] = (230, 180, 60)
    original = original.clip(0, 255).astype(np.uint8)
    keep = np.repeat(np.repeat(disc.reshape(16, 8, 16, 8).any((1, 3)), 8, 0), 8, 1)
    noise = np.random.default_rng(0).normal(0, 14, original.shape) * ~keep[..., None]
    rebuilt = (original + noise).clip(0, 255).astype(np.uint8)
    return Preview(
        key=row.key,
        frame=frame,
        original=png(original),
        reconstruction=png(rebuilt),
        keep=png(keep[::8, ::8].astype(np.uint8) * 255),
    )


ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "device": "cpu",
    "cpu": "a processor with two cores",
    "threads": 2,
}


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers above: ``make.sweep(...)``, ``make.quality_row(...)``."""
    return SimpleNamespace(
        quality_row=quality_row, speed_row=speed_row, failed_row=failed_row, sweep=sweep, preview=preview,
        psnr_of=psnr_of,
        environment=ENVIRONMENT, methods=METHODS,
    )  # fmt: skip
