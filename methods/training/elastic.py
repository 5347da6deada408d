"""Training the elastic adapter: nested tail drop over latent frames, with the data and schedule of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avtbench.methods.calibration import latent_statistics
from avtbench.methods.contract import ContractError
from avtbench.methods.elastic.network import ElasticAdapter, ElasticConfig, prefix_mask
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import header_for
from avtbench.methods.training.crops import CropSampler, TrainingClip
from avtbench.methods.training.decoded import DecodedDistance, Objective, Perceptual
from avtbench.methods.training.inpainting import FRACTIONS, LatentBank
from avtbench.methods.training.tokenizer import mean_psnr


class ElasticTask:
    """Rebuild every latent frame from a prefix of its tokens, counts uniform between 1/16 of the frame and all of it.

    The loss of a frame is its error, channels weighted by what they move in pixels, over that of the same prefix
    without the network (kept values, and the context elsewhere); ``pixel`` and ``lpips`` add what
    :class:`DecodedDistance` says of the clip.
    """

    def __init__(
        self, tokenizer: FrozenTokenizer, train: Sequence[TrainingClip],
        held_out: Mapping[str, Sequence[TrainingClip]], config: ElasticConfig, frames: int = 17, crop: int = 128,
        batch: int = 8, count: int = 1200, seed: int = 0, cache: Path | None = None,
        objective: Objective = "latent-l2", perceptual: Perceptual | None = None, lpips_weight: float | None = None,
        judder: float = 0.0, codec: float = 0.0,
    ) -> None:  # fmt: skip
        if objective == "latent-l1":
            raise ContractError("loss is 'latent-l1', which the elastic adapter lacks; take another")
        self.tokenizer, self.config, self.batch, self.seed = tokenizer, config, batch, seed
        self.train_clips, self.held_out_clips = train, held_out
        self.sampler = CropSampler(train, frames, crop, 1, seed, judder=judder, codec=codec)
        self.decoded = DecodedDistance(tokenizer, self.sampler, objective, perceptual, lpips_weight)
        self.bank = LatentBank.build(tokenizer, self.sampler, count, cache)
        torch.manual_seed(seed)
        self.model: nn.Module = ElasticAdapter(config)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "scale": 1.0}]

    def loss(self, model: nn.Module, step: int, device: torch.device) -> Tensor:
        rng = np.random.default_rng((self.seed, 2, step))
        crops = rng.integers(len(self.bank.z), size=self.batch)
        z = self.bank.z[crops].float().to(device)
        weight = self.bank.weight.to(device).view(1, -1, 1, 1)
        h, w = z.shape[3:]
        context, frames, plains, errors, bases = torch.zeros_like(z[:, :, 0]), [], [], [], []
        for k in range(z.shape[2]):
            counts = torch.from_numpy(rng.integers(h * w // 16, h * w + 1, size=self.batch)).to(device)
            keep, frame = prefix_mask(counts, h, w), z[:, :, k]
            rebuilt = model(frame, context, keep)
            plain = torch.where(keep.unsqueeze(1), frame, context)
            errors.append(((rebuilt - frame).square() * weight).mean(dim=(1, 2, 3)))
            bases.append(((plain - frame).square() * weight).mean(dim=(1, 2, 3)) + 1e-3)
            frames.append(rebuilt)
            plains.append(plain)
            context = rebuilt.detach()
        error, base = torch.stack(errors), torch.stack(bases)
        return (error / base).mean() + self.decoded(
            torch.stack(frames, 2).float(), torch.stack(plains, 2), z, crops, base.mean(0), self.bank.effect
        )

    @torch.inference_mode()
    def held_out(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean PSNR in dB where every latent frame keeps the same fraction (by group and fraction)."""
        statistics = latent_statistics(self.tokenizer)
        center, scale = statistics.center, statistics.scale
        metrics = {}
        for group, clips in self.held_out_clips.items():
            for fraction in FRACTIONS:
                originals, decoded = [], []
                for clip in clips:
                    video = torch.from_numpy(np.ascontiguousarray(clip.video))
                    z = ((self.tokenizer.encode(video).float() - center) / scale).to(device)
                    h, w = z.shape[2:]
                    keep = prefix_mask(torch.tensor([round(fraction * h * w)], device=device), h, w)
                    context, frames = torch.zeros_like(z[None, :, 0]), []
                    for k in range(z.shape[1]):
                        context = model(z[None, :, k], context, keep)
                        frames.append(context[0])
                    filled = torch.stack(frames, 1).to(center.device) * scale + center
                    extent = (video.shape[0], video.shape[1], video.shape[2])
                    decoded.append(self.tokenizer.decode(filled, extent).mul(2).sub(1))
                    originals.append(video.to(center.device).float().div(127.5).sub(1))
                metrics[f"psnr_{group}_{round(100 * fraction)}"] = mean_psnr(originals, decoded)
        return metrics

    def export(self, model: nn.Module, path: Path) -> None:
        tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, path, header_for(self.tokenizer, self.config.as_dict()))

    def describe(self) -> dict[str, Any]:
        return {
            "task": "elastictok-style", "config": self.config.as_dict(), "tokenizer": self.tokenizer.name,
            "tokenizer_digest": self.tokenizer.digest, "seed": self.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **self.decoded.describe(),
            "masks": "nested tail drop, counts uniform in [1/16, 1]", "crops": len(self.bank.z),
            **self.sampler.describe(), "batch": self.batch,
            "data": [{"name": c.name, "digest": c.digest} for c in self.train_clips],
            "held_out_clips": {
                group: [{"name": c.name, "digest": c.digest} for c in clips]
                for group, clips in self.held_out_clips.items()
            },
        }  # fmt: skip
