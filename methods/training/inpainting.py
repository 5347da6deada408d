"""Training a Latent Inpainting Transformer on the cached latents of any frozen tokeniser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avtbench.methods.baselines import per_position
from avtbench.methods.calibration import latent_statistics
from avtbench.methods.lit.network import LatentInpaintingTransformer, LITConfig
from avtbench.methods.threshold import hold, threshold_mask
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import header_for
from avtbench.methods.training.crops import CropSampler, TrainingClip
from avtbench.methods.training.loop import write_atomically

Masks = Literal["threshold", "error"]
FRACTIONS = (0.25, 0.5, 0.75)
"""Kept fractions at which held-out quality is reported."""


@dataclass(frozen=True)
class LatentBank:
    """Training crops seen through the frozen tokeniser, encoded once.

    z:      float16 ``[N, C, t, h, w]``, standardised. error: float16 ``[N, t, h, w]``, mean absolute pixel error of the
    full-rate decode at each position (what InfoTok's rule ranks by).
    weight: float ``[C]``, mean squared pixel change per unit of each channel, scaled to mean 1.
    """

    z: Tensor
    error: Tensor
    weight: Tensor

    @classmethod
    @torch.no_grad()
    def build(cls, tokenizer: FrozenTokenizer, sampler: CropSampler, count: int, cache: Path | None) -> LatentBank:
        """Encode ``count`` crops, or read them from ``cache`` when it holds just these."""
        statistics = latent_statistics(tokenizer)
        asked = (tokenizer.digest, statistics.digest, sampler.seed, sampler.frames, sampler.size, sampler.pan, count)
        identity = sha256(json.dumps([asked, [c.digest for c in sampler.clips]]).encode()).hexdigest()[:16]
        file = cache / f"latents-{tokenizer.name}-{identity}.safetensors" if cache else None
        if file is not None and file.is_file():
            return cls(**load_file(file))
        center, scale = statistics.center, statistics.scale
        latents, errors, changes = [], [], torch.zeros(tokenizer.channels)
        for index in range(count):
            video = sampler.sample(index)[0]
            extent = (video.shape[0], video.shape[1], video.shape[2])
            z = tokenizer.encode(video).float()
            decoded = tokenizer.decode(z, extent)
            absolute = (decoded - video.to(decoded.device).float() / 255).abs().mean(-1)
            errors.append(per_position(absolute, tokenizer).half().cpu())
            latents.append(((z - center) / scale).half().cpu())
            if index < 2 * tokenizer.channels:
                channel = index % tokenizer.channels
                moved = z.clone()
                moved[channel] += 0.5 * statistics.std[channel]
                changes[channel] += (tokenizer.decode(moved, extent) - decoded).square().mean().cpu()
        bank = cls(torch.stack(latents), torch.stack(errors), changes / changes.mean())
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"z": bank.z, "error": bank.error, "weight": bank.weight}
            write_atomically(file, lambda part: save_file(tensors, part))
        return bank


def mask_at(z: Tensor, fraction: float, reference: str = "last_kept") -> Tensor:
    """Threshold mask of ``z: [C, t, h, w]`` whose kept fraction is as near to ``fraction`` as a threshold brings it."""
    low, high = 0.0, float((z[:, 1:] - z[:, :1]).abs().mean(0).max()) * 4 + 1e-3 if z.shape[1] > 1 else 1.0
    for _ in range(18):
        tau = (low + high) / 2
        keep, _ = threshold_mask(z, tau, reference)  # type: ignore[arg-type]
        low, high = (tau, high) if keep.float().mean() > fraction else (low, tau)
    return keep


class InpaintingTask:
    """Fill dropped latents. The loss of a clip is its error at dropped positions over that of holding the last value,
    each channel weighted by what it moves in pixels.

    masks: ``threshold`` draws LIT's masks (both references, kept fractions 5 to 95 %) and, one time in five, random
    ones; ``error`` draws InfoTok's (positions of least full-rate error are dropped, the first frame's too).
    """

    def __init__(
        self, tokenizer: FrozenTokenizer, train: Sequence[TrainingClip],
        held_out: Mapping[str, Sequence[TrainingClip]], config: LITConfig, masks: Masks = "threshold",
        frames: int = 17, crop: int = 128, batch: int = 8, count: int = 1200, seed: int = 0, cache: Path | None = None,
        references: Sequence[str] = ("last_kept", "previous"),
    ) -> None:  # fmt: skip
        self.tokenizer, self.config, self.masks, self.batch, self.seed = tokenizer, config, masks, batch, seed
        self.train_clips, self.held_out_clips, self.references = train, held_out, references
        self.sampler = CropSampler(train, frames, crop, 1, seed)
        self.bank = LatentBank.build(tokenizer, self.sampler, count, cache)
        torch.manual_seed(seed)
        self.model: nn.Module = LatentInpaintingTransformer(config)
        self._examples: dict[str, list[tuple[Tensor, Tensor, Tensor, float, float]]] | None = None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "scale": 1.0}]

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents ``[B, C, t, h, w]`` and masks ``[B, t, h, w]`` of a step."""
        rng = np.random.default_rng((self.seed, 1, step))
        index = rng.integers(len(self.bank.z), size=self.batch)
        z = self.bank.z[index].float()
        return z, torch.stack([self._mask(z[i], self.bank.error[n], rng) for i, n in enumerate(index)])

    def _mask(self, z: Tensor, error: Tensor, rng: np.random.Generator) -> Tensor:
        fraction = rng.uniform(0.05, 0.95)
        if self.masks == "error":
            return error > error.float().flatten().quantile(1 - fraction)
        if rng.random() < 0.2:
            keep = torch.from_numpy(rng.random(z.shape[1:]) < fraction)
            keep[0] = True
            return keep
        scores = (z[:, 1:] - z[:, :-1]).abs().mean(0)
        tau = float(scores.flatten().quantile(1 - fraction))
        reference = self.references[int(rng.integers(len(self.references)))]
        return threshold_mask(z, tau, reference)[0]  # type: ignore[arg-type]

    def loss(self, model: nn.Module, step: int, device: torch.device) -> Tensor:
        z, keep = (x.to(device) for x in self.draw(step))
        held = torch.stack([hold(a, k) for a, k in zip(z, keep, strict=True)])
        weight = self.bank.weight.to(device).view(1, -1, 1, 1, 1)
        error = ((model(z, keep, held) - z).square() * weight).mean(dim=(1, 2, 3, 4))
        base = ((held - z).square() * weight).mean(dim=(1, 2, 3, 4))
        return (error / (base + 1e-3)).mean()

    @torch.inference_mode()
    def held_out(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean PSNR gain in dB over holding the last value, at equal masks (by group and kept fraction)."""
        if self._examples is None:
            self._examples = {group: self._prepare(clips) for group, clips in self.held_out_clips.items()}
        center, scale = self._statistics()
        metrics = {}
        for group, examples in self._examples.items():
            gains: dict[float, list[float]] = {}
            for video, z, keep, fraction, base in examples:
                filled = model(z[None].to(device), keep[None].to(device))[0].to(center.device)
                gains.setdefault(fraction, []).append(self._psnr(filled * scale + center, video) - base)
            for fraction, values in gains.items():
                metrics[f"gain_{group}_{round(100 * fraction)}"] = float(np.mean(values))
        return metrics

    def _statistics(self) -> tuple[Tensor, Tensor]:
        statistics = latent_statistics(self.tokenizer)
        return statistics.center, statistics.scale

    def _prepare(self, clips: Sequence[TrainingClip]) -> list[tuple[Tensor, Tensor, Tensor, float, float]]:
        center, scale = self._statistics()
        examples = []
        for clip in clips:
            video = torch.from_numpy(np.ascontiguousarray(clip.video))
            z = (self.tokenizer.encode(video).float() - center) / scale
            extent = (video.shape[0], video.shape[1], video.shape[2])
            decoded = self.tokenizer.decode(z * scale + center, extent)
            error = per_position((decoded - video.to(decoded.device).float() / 255).abs().mean(-1), self.tokenizer)
            for fraction in FRACTIONS:
                keep = mask_at(z, fraction) if self.masks == "threshold" else error > error.quantile(1 - fraction)
                base = self._psnr(hold(z, keep) * scale + center, video)
                examples.append((video, z, keep, fraction, base))
        return examples

    def _psnr(self, z: Tensor, video: Tensor) -> float:
        extent = (video.shape[0], video.shape[1], video.shape[2])
        decoded = self.tokenizer.decode(z, extent).mul(255).add(0.5).floor().clamp(0, 255)
        error = (decoded - video.to(decoded.device).float()).square().mean().clamp_min(1e-4)
        return float(10 * torch.log10(255**2 / error))

    def export(self, model: nn.Module, path: Path) -> None:
        tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, path, header_for(self.tokenizer, self.config.as_dict()))

    def describe(self) -> dict[str, Any]:
        return {
            "task": "lit" if self.masks == "threshold" else "infotok-style", "config": self.config.as_dict(),
            "tokenizer": self.tokenizer.name, "tokenizer_digest": self.tokenizer.digest, "seed": self.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "loss": "squared error at dropped positions over that of holding, channels weighted by their pixel effect",
            "masks": self.masks, "references": list(self.references), "kept_fraction": [0.05, 0.95],
            "crops": len(self.bank.z), "crop": [self.sampler.frames, self.sampler.size, self.sampler.size],
            "batch": self.batch, "data": [{"name": c.name, "digest": c.digest} for c in self.train_clips],
            "held_out_clips": {
                group: [{"name": c.name, "digest": c.digest} for c in clips]
                for group, clips in self.held_out_clips.items()
            },
        }  # fmt: skip
