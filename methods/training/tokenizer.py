"""Training the embedded tokeniser: fit the block transform, then learn the nonlinear rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avtbench.methods.tokenizers.embedded_network import (
    BLOCK_VALUES,
    SPATIAL,
    TEMPORAL,
    EmbeddedConfig,
    EmbeddedNetwork,
    to_blocks,
)
from avtbench.methods.training.crops import CropSampler, TrainingClip


def to_signed(video: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 ``[B, T, H, W, 3]`` -> float ``[B, 3, T, H, W]`` in [-1, 1]."""
    return video.to(device).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def mean_psnr(original: Sequence[Tensor], reconstruction: Sequence[Tensor]) -> float:
    """Mean over clips of whole-clip PSNR in dB after rounding to uint8; float ``[3, T, H, W]`` in [-1, 1]."""
    pairs = zip(original, reconstruction, strict=True)
    return float(torch.stack([psnr(in_levels(a), in_levels(b)) for a, b in pairs]).mean())


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB of two tensors of levels 0 to 255, at most 88 dB."""
    return 10 * torch.log10(255**2 / (a - b).square().mean().clamp_min(1e-4))


def in_levels(x: Tensor) -> Tensor:
    """Float in [-1, 1] -> float holding the whole numbers 0 to 255, rounded half up."""
    return x.float().add(1).mul(127.5).add(0.5).floor().clamp(0, 255)


def legal(video: np.ndarray) -> Tensor:
    """uint8 ``[T, H, W, 3]`` cut to 1 + 4k frames and sides of whole blocks."""
    frames, height, width = video.shape[:3]
    frames = 1 + (frames - 1) // TEMPORAL * TEMPORAL
    cut = video[:frames, : height // SPATIAL * SPATIAL, : width // SPATIAL * SPATIAL]
    return torch.from_numpy(np.ascontiguousarray(cut))


def fit_transform(
    clips: Sequence[TrainingClip], count: int, seed: int = 0, draws: int = 80
) -> tuple[Tensor, Tensor, Tensor]:
    """Karhunen-Loeve transform of 4x8x8 RGB blocks: mean ``[768]``, basis ``[768, count]``, coefficients' std.

    Blocks are those of ``draws`` x 32 crops of 64 px, from all recordings alike; one in five repeats a single frame,
    as the first frame's block does.
    """
    total = torch.zeros(BLOCK_VALUES, dtype=torch.float64)
    outer = torch.zeros(BLOCK_VALUES, BLOCK_VALUES, dtype=torch.float64)
    samples = 0
    sampler = CropSampler(clips, frames=4, size=64, batch=32, seed=seed, pan=0.1)
    for step in range(draws):
        x = to_signed(sampler.sample(step))
        x[: len(x) // 5] = x[: len(x) // 5, :, :1]
        blocks = to_blocks(x).permute(0, 2, 3, 4, 1).reshape(-1, BLOCK_VALUES).double()
        total += blocks.sum(0)
        outer += blocks.T @ blocks
        samples += len(blocks)
    mean = total / samples
    values, vectors = torch.linalg.eigh(outer / samples - torch.outer(mean, mean))
    order = values.argsort(descending=True)[:count]
    return mean.float(), vectors[:, order].float(), values[order].clamp_min(1e-6).sqrt().float()


class TokenizerTask:
    """Reconstruct crops; the loss is the mean over crops of ``log(MSE + floor)``, on [-1, 1].

    Without the floor that is the mean of dB that is reported, and the easiest crops, whose relative error is the
    easiest to lower, take the gradient; the floor gives the hard ones their share.
    """

    def __init__(
        self, train: Sequence[TrainingClip], held_out: Mapping[str, Sequence[TrainingClip]], config: EmbeddedConfig,
        frames: int = 9, crop: int = 96, batch: int = 6, seed: int = 0, floor: float = 5e-3, draws: int = 80,
        candidates: int = 2,
    ) -> None:  # fmt: skip
        self.config, self.floor = config, floor
        self.train_clips, self.held_out_clips = train, held_out
        self.sampler = CropSampler(train, frames, crop, batch, seed, candidates=candidates)
        torch.manual_seed(seed)
        self.model: nn.Module = EmbeddedNetwork(config)
        width = max(config.encoder_width, config.decoder_width)
        self.model.start_as_transform(*fit_transform(train, width, seed, draws))

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The transform's layers mix coefficients of very different size: they learn ten times slower."""
        blocks: list[nn.Parameter] = []
        transform: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (blocks if name.startswith(("encoder.", "decoder.")) else transform).append(parameter)
        return [{"params": blocks, "scale": 1.0}, {"params": transform, "scale": 0.1}]

    def loss(self, model: nn.Module, step: int, device: torch.device) -> Tensor:
        x = to_signed(self.sampler.sample(step), device)
        error = (model(x).float() - x).square().mean(dim=(1, 2, 3, 4))
        return (error + self.floor).log().mean()

    @torch.inference_mode()
    def held_out(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        metrics = {}
        for group, clips in self.held_out_clips.items():
            originals = [to_signed(legal(c.video)[None], device) for c in clips]
            metrics[f"psnr_{group}"] = mean_psnr([x[0] for x in originals], [model(x)[0] for x in originals])
        return metrics

    def export(self, model: nn.Module, path: Path) -> None:
        tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
        mean, std = self._latent_statistics(model)
        tensors |= {"latent_mean": mean, "latent_std": std}
        save_file(tensors, path, {"config": json.dumps(self.config.as_dict())})

    @torch.inference_mode()
    def _latent_statistics(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Per-channel mean and standard deviation ``[C]`` of the latents over training crops."""
        assert isinstance(model, EmbeddedNetwork)
        device = next(model.parameters()).device
        latents = torch.cat([model.encode(to_signed(self.sampler.sample(step), device)) for step in range(40)])
        flat = latents.transpose(0, 1).flatten(1).cpu()
        return flat.mean(1), flat.std(1)

    def describe(self) -> dict[str, Any]:
        return {
            "task": "tokenizer", "config": self.config.as_dict(), "seed": self.sampler.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "loss": f"mean over crops of log(MSE + {self.floor}) on [-1, 1]",
            "crop": [self.sampler.frames, self.sampler.size, self.sampler.size], "batch": self.sampler.batch,
            "candidates": self.sampler.candidates, "pan": self.sampler.pan,
            "data": [{"name": c.name, "digest": c.digest} for c in self.train_clips],
            "held_out_clips": {
                group: [{"name": c.name, "digest": c.digest} for c in clips]
                for group, clips in self.held_out_clips.items()
            },
        }  # fmt: skip
