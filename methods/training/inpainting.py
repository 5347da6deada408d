"""Training a Latent Inpainting Transformer on the cached latents of any frozen tokeniser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avtbench.methods.baselines import per_position
from avtbench.methods.calibration import latent_statistics
from avtbench.methods.contract import ContractError
from avtbench.methods.lit.method import load_lit
from avtbench.methods.lit.network import LatentInpaintingTransformer, LITConfig
from avtbench.methods.threshold import Reference, hold, threshold_mask
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import header_for
from avtbench.methods.training.crops import CropSampler, TrainingClip
from avtbench.methods.training.decoded import DecodedDistance, Objective, Perceptual
from avtbench.methods.training.loop import write_atomically
from avtbench.methods.training.tokenizer import in_levels, psnr

Masks = Literal["threshold", "error"]

FRACTIONS = (0.25, 0.5, 0.75)
"""Kept fractions at which held-out quality is reported."""


@dataclass(frozen=True)
class LatentBank:
    """Training crops seen through the frozen tokeniser, encoded once.

    z:      float16 ``[N, C, t, h, w]``, standardised. error: float16 ``[N, t, h, w]``, mean absolute pixel error of the
    full-rate decode at each position (what InfoTok's rule ranks by), empty where nobody asked for it.
    weight: float ``[C]``, mean squared pixel change per squared standard deviation of each channel, scaled to mean 1;
    effect: mean squared change of pixels in [-1, 1] when every channel moves by one standard deviation.
    """

    z: Tensor
    error: Tensor
    weight: Tensor
    effect: Tensor

    @classmethod
    @torch.no_grad()
    def build(
        cls, tokenizer: FrozenTokenizer, sampler: CropSampler, count: int, cache: Path | None, error: bool = False
    ) -> LatentBank:
        """Encode ``count`` crops, or read them from ``cache`` when it holds just these."""
        statistics = latent_statistics(tokenizer)
        drawn = {option.name: getattr(sampler, option.name) for option in fields(sampler) if option.name != "clips"}
        asked = (tokenizer.digest, statistics.digest, drawn, count, error)
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
            latents.append(((z - center) / scale).half().cpu())
            probes = range(index, 2 * tokenizer.channels, count)  # two for every channel, spread over the crops
            if not (error or probes):
                continue
            decoded = tokenizer.decode(z, extent)
            if error:
                absolute = (decoded - video.to(decoded.device).float() / 255).abs().mean(-1)
                errors.append(per_position(absolute, tokenizer).half().cpu())
            for probe in probes:
                channel = probe % tokenizer.channels
                moved = z.clone()
                moved[channel] += 0.5 * statistics.std[channel]
                changes[channel] += 8 * (tokenizer.decode(moved, extent) - decoded).square().mean().cpu()
        mean = changes.mean().clamp_min(1e-12)
        shown = torch.stack(errors) if error else torch.empty(0)
        bank = cls(torch.stack(latents), shown, changes / mean, mean * tokenizer.channels)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"z": bank.z, "error": bank.error, "weight": bank.weight, "effect": bank.effect}
            write_atomically(file, lambda part: save_file(tensors, part))
        return bank


def mask_at(z: Tensor, fraction: float, reference: Reference = "last_kept") -> Tensor:
    """Threshold mask of ``z: [C, t, h, w]`` whose kept fraction is as near to ``fraction`` as a threshold brings it."""
    low, high = 0.0, float((z[:, 1:] - z[:, :1]).abs().mean(0).max()) * 4 + 1e-3 if z.shape[1] > 1 else 1.0
    for _ in range(18):
        tau = (low + high) / 2
        keep = threshold_mask(z, tau, reference)
        low, high = (tau, high) if keep.float().mean() > fraction else (low, tau)
    return keep


class InpaintingTask:
    """Fill dropped latents.

    masks: ``threshold`` draws LIT's masks (``references``: against the last kept or the previous latent; kept fractions
    5 to 95 %) and, one time in five, random ones; ``error`` draws InfoTok's (positions of least full-rate error are
    dropped, the first frame's too).
    objective: ``latent-l2`` is a clip's squared error at dropped positions over that of holding the last value, each
    channel weighted by what it moves in pixels; ``latent-l1`` the same with absolute errors; the others add what
    :class:`DecodedDistance` says. perceptual: for that, and reported for held-out clips where given.
    start: a checkpoint for the same tokeniser, of the same shape, to fine-tune; None begins with holding.
    still: probability that a crop is drawn from the half of the crops whose latents change least; 0 draws all alike.
    """

    def __init__(
        self, tokenizer: FrozenTokenizer, train: Sequence[TrainingClip],
        held_out: Mapping[str, Sequence[TrainingClip]], config: LITConfig, masks: Masks = "threshold",
        frames: int = 17, crop: int = 128, batch: int = 8, count: int = 1200, seed: int = 0, cache: Path | None = None,
        references: Sequence[Reference] = ("last_kept", "previous"), objective: Objective = "latent-l2",
        perceptual: Perceptual | None = None, lpips_weight: float | None = None, judder: float = 0.0,
        codec: float = 0.0, start: Path | None = None, still: float = 0.0,
    ) -> None:  # fmt: skip
        latent_frames = tokenizer.grid(frames, crop, crop)[0]
        if latent_frames < 2:
            raise ContractError(
                f"crops of {frames} frames are one latent frame of {tokenizer.name}, expected two or more"
            )
        config = replace(config, frames=latent_frames)
        self.tokenizer, self.config, self.masks, self.batch, self.seed = tokenizer, config, masks, batch, seed
        self.train_clips, self.held_out_clips, self.references = train, held_out, references
        self.objective, self.perceptual = objective, perceptual
        self.sampler = CropSampler(train, frames, crop, 1, seed, judder=judder, codec=codec)
        self.decoded = DecodedDistance(tokenizer, self.sampler, objective, perceptual, lpips_weight)
        self.bank = LatentBank.build(tokenizer, self.sampler, count, cache, error=masks == "error")
        self.statistics = latent_statistics(tokenizer)
        self.still = still
        if still:
            change = (self.bank.z[:, :, 1:] - self.bank.z[:, :, :-1]).abs().float().mean((1, 2, 3, 4))
            self._stillest = change.argsort()[: max(len(change) // 2, 1)].numpy()
        torch.manual_seed(seed)
        network = LatentInpaintingTransformer(config)
        if config.latents == "raw":
            network.center.copy_(self.statistics.mean)
            network.scale.copy_(self.statistics.std)
        self.start = ""
        if start is not None:
            trained, self.start = load_lit(tokenizer, self.name, start)
            if shape_of(trained.config) != shape_of(config):
                raise ContractError(
                    f"{start} is {shape_of(trained.config)}, expected {shape_of(config)} as the options say; "
                    "give the options of its training card"
                )
            network.load_state_dict(trained.state_dict())
        self.model: nn.Module = network
        self._examples: dict[str, list[_Example]] | None = None

    @property
    def name(self) -> str:
        return "infotok-style" if self.masks == "error" else "lit-plain" if self.config.input == "mask" else "lit"

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "scale": 1.0}]

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents ``[B, C, t, h, w]`` and masks ``[B, t, h, w]`` of a step."""
        rng = self._rng(step)
        index = self._drawn(rng)
        z = self.bank.z[index].float()
        fraction = torch.from_numpy(rng.uniform(0.05, 0.95, self.batch)).float()
        if self.masks == "error":
            error = self.bank.error[index].float()
            keep = error > _row_quantile(error, 1 - fraction).view(-1, 1, 1, 1)
        else:
            keep = self._threshold_masks(z, fraction, rng)
        if bool(keep.all()):
            keep[:, -1, 0, 0] = False  # a step without a dropped position has nothing to learn from
        return z, keep

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, 1, step))

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of a step's crops: the first thing that its generator is asked for."""
        index = rng.integers(len(self.bank.z), size=self.batch)
        if not self.still:
            return index
        return np.where(rng.random(self.batch) < self.still, self._stillest[index % len(self._stillest)], index)

    def _threshold_masks(self, z: Tensor, fraction: Tensor, rng: np.random.Generator) -> Tensor:
        b, c, t, h, w = z.shape
        tau = _row_quantile((z[:, :, 1:] - z[:, :, :-1]).abs().mean(1), 1 - fraction)
        # clips side by side in height: one pass of the rule, each row with its clip's threshold
        beside = z.permute(1, 2, 0, 3, 4).reshape(c, t, b * h, w)
        rows = tau.repeat_interleave(h).unsqueeze(1)
        kinds = [threshold_mask(beside, rows, r).view(t, b, h, w).transpose(0, 1) for r in self.references]
        drawn = torch.from_numpy(rng.random((b, t, h, w))) < fraction.view(-1, 1, 1, 1)
        drawn[:, 0] = True
        choice = torch.from_numpy(rng.integers(len(kinds), size=b))
        choice[torch.from_numpy(rng.random(b) < 0.2)] = len(kinds)
        keep = torch.stack([*kinds, drawn])[choice, torch.arange(b)]
        # a stream's later chunks begin with whole frames that are known already
        known = rng.integers(1, t, size=b) * (rng.random(b) < 0.15)
        return keep | (torch.arange(t) < torch.from_numpy(known)[:, None]).view(b, t, 1, 1)

    def loss(self, model: nn.Module, step: int, device: torch.device) -> Tensor:
        z, keep = (x.to(device) for x in self.draw(step))
        held, filled = hold(z, keep), model(z, keep).float()
        weight = self.bank.weight.to(device).view(1, -1, 1, 1, 1)

        def distance(a: Tensor) -> Tensor:
            apart = (a - z).abs() * weight.sqrt() if self.objective == "latent-l1" else (a - z).square() * weight
            return apart.mean(dim=(1, 2, 3, 4))

        base = distance(held) + 1e-3
        crops = self._drawn(self._rng(step))
        return (distance(filled) / base).mean() + self.decoded(filled, held, z, crops, base, self.bank.effect)

    @torch.inference_mode()
    def held_out(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """By group and kept fraction, at equal masks: mean PSNR gain in dB over holding the last value (``gain``) and,
        where a backbone was given, mean LPIPS below that of holding (``lpips_gain``, on every fourth frame).
        """
        if self._examples is None:
            self._examples = {group: self._prepare(clips) for group, clips in self.held_out_clips.items()}
        metrics = {}
        for group, examples in self._examples.items():
            psnrs: dict[float, list[float]] = {}
            lpips: dict[float, list[float]] = {}
            for at in examples:
                filled = model(at.z[None].to(device), at.keep[None].to(device))[0].float()
                frames = self._cropped(filled.to(self.tokenizer.device), at.original)
                gain = float(psnr(in_levels(frames), at.original.float())) - at.psnr
                psnrs.setdefault(at.fraction, []).append(gain)
                if self.perceptual is not None:
                    lpips.setdefault(at.fraction, []).append(at.lpips - self._lpips(frames, at.original))
            for name, gains in (("gain", psnrs), ("lpips_gain", lpips)):
                for fraction, values in gains.items():
                    metrics[f"{name}_{group}_{round(100 * fraction)}"] = float(np.mean(values))
        return metrics

    def _prepare(self, clips: Sequence[TrainingClip]) -> list[_Example]:
        examples = []
        for clip in clips:
            video = torch.from_numpy(np.ascontiguousarray(clip.video))
            z = (self.tokenizer.encode(video).float() - self.statistics.center) / self.statistics.scale
            original = video.to(z.device).permute(0, 3, 1, 2)
            full = self._cropped(z, original).add(1).div(2) - original.float() / 255
            error = per_position(full.abs().mean(1), self.tokenizer)
            for fraction in FRACTIONS:
                keep = mask_at(z, fraction) if self.masks == "threshold" else error > error.quantile(1 - fraction)
                frames = self._cropped(hold(z, keep), original)
                lpips = self._lpips(frames, original) if self.perceptual is not None else 0.0
                base = float(psnr(in_levels(frames), original.float()))
                examples.append(_Example(z, keep, original, fraction, base, lpips))
        return examples

    def _cropped(self, z: Tensor, original: Tensor) -> Tensor:
        frames, _, height, width = original.shape
        return self.decoded.decode(z)[:frames, :, :height, :width]

    def _lpips(self, frames: Tensor, original: Tensor) -> float:
        assert self.perceptual is not None
        rounded = in_levels(frames).div(127.5).sub(1)
        return float(self.perceptual(rounded[::4], original[::4].float().div(127.5).sub(1)).mean())

    def export(self, model: nn.Module, path: Path) -> None:
        tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, path, header_for(self.tokenizer, self.config.as_dict()))

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.name, **({"start": self.start} if self.start else {}), "config": self.config.as_dict(),
            "tokenizer": self.tokenizer.name, "tokenizer_digest": self.tokenizer.digest,
            "statistics_digest": self.statistics.digest, "seed": self.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **self.decoded.describe(),
            "masks": self.masks, "references": list(self.references), "kept_fraction": [0.05, 0.95],
            "crops": len(self.bank.z), "still": self.still, **self.sampler.describe(),
            "batch": self.batch, "data": [{"name": c.name, "digest": c.digest} for c in self.train_clips],
            "held_out_clips": {
                group: [{"name": c.name, "digest": c.digest} for c in clips]
                for group, clips in self.held_out_clips.items()
            },
        }  # fmt: skip


def shape_of(config: LITConfig) -> dict[str, Any]:
    """What two networks must share so that one may begin with the other's weights."""
    return {name: value for name, value in config.as_dict().items() if name not in ("frames", "bound", "centred")}


@dataclass(frozen=True)
class _Example:
    """A held-out clip at one kept fraction. original: uint8 ``[T, 3, H, W]``; psnr, lpips: of holding."""

    z: Tensor
    keep: Tensor
    original: Tensor
    fraction: float
    psnr: float
    lpips: float


def _row_quantile(x: Tensor, q: Tensor) -> Tensor:
    """The ``q[i]`` quantile of ``x[i]`` (lower neighbour), ``[B]``."""
    ordered = x.flatten(1).sort(1).values
    return ordered.gather(1, (q * (ordered.shape[1] - 1)).long().unsqueeze(1)).squeeze(1)
