"""InfoTok as a method of the benchmark: the published router on its own networks.

Per window, networks run as often as published: encoder and ViT encoder once (encode), ViT decoder and decoder once for
the error map (select) and once for the clip (decode). ``global_elbo`` without a given mean runs its first pass inside
``encode``, and if ``faithful`` keeps nothing of it: 2, 2, 3, 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.checkpoints import digest
from avtbench.methods.contract import ContractError, Method, Tokens
from avtbench.methods.infotok.checkpoint import load_checkpoint, random_model
from avtbench.methods.infotok.config import InfoTokConfig, resolve_config
from avtbench.methods.infotok.network import InfoTok
from avtbench.methods.infotok.pipeline import CodedWindow, decode_clip, encode_clip, error_maps, route, window_elbos
from avtbench.methods.infotok.router import check_mask_method, check_strategy
from avtbench.methods.infotok.windows import Layout, spans
from avtbench.methods.placement import place
from avtbench.methods.stages import stage


@dataclass(frozen=True)
class Coded:
    """What ``select`` needs: every window's pixels and full-rate codes, and what ``global_elbo`` compares with."""

    layout: Layout
    windows: list[CodedWindow]
    elbo_mean: float | None = None
    losses: list[Tensor] | None = None


class InfoTokMethod(Method):
    """InfoTok. Knobs:

    weights:   path of an official checkpoint (``infotok_mse.pt``), or ``"random"`` (with ``seed``) for timing.
    config:    a name of ``CONFIGS``, a JSON file or dict in the official form; the published model by default.
    strategy:  ``elbo``, ``global_elbo``, ``global_elbo_bin``, ``static`` or ``uniform``.
    mask:      ``mse``, ``order`` or ``order_K``; by default the config's.
    window, overlap: frames per window and shared by neighbours.
    elbo_mean: mean loss over the run's windows, for ``global_elbo`` (see ``collect_elbos``); the clip's own by default.
    trained_rate: the one rate that the checkpoint was trained at, as whoever trained it says; None: any (Flex).
    faithful:  False corrects the released quirks, see :mod:`avtbench.methods.infotok.router` and ``windows``.
    """

    name = "infotok"
    summary = "InfoTok: full-rate decode, error map, tokens above its quantile are kept"
    family = "router"
    tier = "faithful"
    setting_name = "rate"
    setting_unit = "share of tokens"
    default_settings = (0.125, 0.25, 0.5, 0.75, 1.0)
    needs_weights = True

    def __init__(
        self,
        weights: str | Path | None = None,
        config: InfoTokConfig | Mapping[str, Any] | str | None = None,
        strategy: str = "elbo",
        mask: str | None = None,
        window: int = 17,
        overlap: int = 0,
        elbo_mean: float | None = None,
        trained_rate: float | None = None,
        faithful: bool = True,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.config = resolve_config(config)
        self.strategy = check_strategy(strategy)
        self.mask = check_mask_method(mask or self.config.vit.method)
        spans(1, window, overlap)
        self.window, self.overlap, self.elbo_mean = window, overlap, elbo_mean
        self.trained_rate = trained_rate
        self.faithful, self.seed = faithful, seed
        self.device, self.dtype = place(device, dtype)
        self.weights = "random" if weights == "random" else "trained"
        self.model: InfoTok | None = None
        if weights == "random":
            self.model = random_model(self.config, seed, device=self.device, dtype=self.dtype)
        elif weights is not None:
            self.model = load_checkpoint(weights, self.config, device=self.device, dtype=self.dtype)

    @cached_property
    def digest(self) -> str:
        """sha256 (16 hex digits) of the parameters."""
        return digest(self._model.state_dict())

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "config": self.config.as_dict(),
            "strategy": self.strategy,
            "mask": self.mask,
            "window": self.window,
            "overlap": self.overlap,
            "elbo_mean": self.elbo_mean,
            "trained_rate": self.trained_rate,
            "faithful": self.faithful,
            "seed": self.seed,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights": self.digest if self.model is not None else None,
        }

    def check_setting(self, setting: float) -> float:
        value = super().check_setting(setting)
        if not 0 < value <= 1:
            raise ContractError(
                f"infotok: rate is {setting!r}, expected a share in (0, 1]; defaults are {self.default_settings}"
            )
        return value

    def skip(self, video: tuple[int, int, int]) -> str | None:
        if self.model is None:
            return (
                "needs weights: pass weights=PATH of infotok_mse.pt from the InfoTok project, "
                "or weights=random for timing (never for quality)"
            )
        layout, vit = self._layout(video), self.config.vit
        frames = max(layout.grid(span)[0] for span in layout.spans)
        if frames > vit.max_num_video_frames:
            return (
                f"a window of {self.window} frames has {frames} latent frames, the model knows "
                f"{vit.max_num_video_frames}; use a shorter window"
            )
        side = max(layout.grid(layout.spans[0])[1:])
        if side > vit.max_sequence_length:
            most = vit.max_sequence_length * self.config.spatial_compression
            return f"{video[1]} x {video[2]} pixels are more than the model's {most} on a side; use a smaller view"
        return None

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Coded:
        """Every window through encoder, ViT encoder and quantiser; for ``global_elbo`` its first pass comes before."""
        size = (video.shape[0], video.shape[1], video.shape[2])
        if reason := self.skip(size):
            raise ContractError(f"infotok: {reason}")
        layout = self._layout(size)
        if not self.strategy.startswith("global_elbo") or self.elbo_mean is not None:
            return Coded(layout, encode_clip(self._model, video, layout), self.elbo_mean)
        with stage("first_pass"):
            windows = encode_clip(self._model, video, layout)
            losses = error_maps(self._model, windows)
            mean = fmean(window_elbos(losses, layout))
        if self.faithful:
            return Coded(layout, encode_clip(self._model, video, layout), mean)
        return Coded(layout, windows, mean, losses)

    @torch.inference_mode()
    def select(self, latents: Coded, setting: float) -> Tokens:
        """Full-rate decode, error map, mask."""
        rate, layout = self.check_setting(setting), latents.layout
        losses = latents.losses or error_maps(self._model, latents.windows)
        routes = route(
            self._model,
            losses,
            rate,
            layout,
            strategy=self.strategy,
            method=self.mask,
            elbo_mean=latents.elbo_mean,
            seed=self.seed,
        )
        keep = torch.cat([r.keep[0] for r in routes])
        indices = torch.cat([w.indices[0] for w in latents.windows])
        return Tokens(
            values=indices[keep].long(),
            keep=keep,
            video=layout.video,
            codebook=self.config.codebook,
            extra={"window_overlap": torch.tensor([layout.window, layout.overlap], dtype=torch.int32)},
        )

    @torch.inference_mode()
    def decode(self, tokens: Tokens) -> Tensor:
        """Zero codes where nothing came, then ViT decoder and decoder for every window."""
        window, overlap = tokens.extra["window_overlap"].tolist()
        layout = self._layout(tokens.video, window, overlap)
        frames = [layout.grid(span)[0] for span in layout.spans]
        if sum(frames) != tokens.keep.shape[0]:
            raise ContractError(
                f"infotok: tokens of {tokens.keep.shape[0]} latent frames, a clip {tokens.video} in windows of "
                f"{window} with overlap {overlap} has {sum(frames)}"
            )
        codes = self._model.codes_of(tokens.values.to(self.device), tokens.keep.to(self.device))
        return decode_clip(self._model, list(codes.split(frames, dim=2)), layout)

    @property
    def _model(self) -> InfoTok:
        if self.model is None:
            raise ContractError(f"infotok: {self.skip((1, 32, 32))}")
        return self.model

    def _layout(self, video: tuple[int, int, int], window: int | None = None, overlap: int | None = None) -> Layout:
        return Layout(
            video,
            self.config.temporal_compression,
            self.config.spatial_compression,
            self.window if window is None else window,
            self.overlap if overlap is None else overlap,
            self.faithful,
        )
