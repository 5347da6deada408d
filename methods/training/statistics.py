"""Measuring the latent statistics of a frozen tokeniser over training crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from avtbench.methods.calibration import LatentStatistics
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.training.crops import CropSampler
from avtbench.methods.training.loop import write_atomically


@torch.inference_mode()
def measure_statistics(tokenizer: FrozenTokenizer, sampler: CropSampler, count: int) -> LatentStatistics:
    """Mean and standard deviation of every channel over all positions of the sampler's first ``count`` steps."""
    total = torch.zeros(tokenizer.channels, dtype=torch.float64)
    squares, positions = torch.zeros_like(total), 0
    for step in range(count):
        for video in sampler.sample(step):
            z = tokenizer.encode(video).flatten(1).double().cpu()
            total += z.sum(1)
            squares += z.square().sum(1)
            positions += z.shape[1]
    mean = total / positions
    return LatentStatistics(mean.float(), (squares / positions - mean.square()).clamp_min(1e-12).sqrt().float())


def write_statistics(
    path: Path, found: LatentStatistics, tokenizer: FrozenTokenizer, sampler: CropSampler, count: int
) -> dict[str, Any]:
    """The file that ``statistics=FILE`` and the package read; returns what it says."""
    content = {
        "tokenizer": tokenizer.name, "tokenizer_digest": tokenizer.digest, **found.as_dict(),
        "crops": count * sampler.batch, "crop": [sampler.frames, sampler.size, sampler.size], "seed": sampler.seed,
        "data": [{"name": clip.name, "digest": clip.digest} for clip in sampler.clips],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_text(json.dumps(content, indent=1)))
    return content
