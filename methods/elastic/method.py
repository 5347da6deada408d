"""ElasticTok's search on the shared tokeniser: per latent frame, the fewest prefix tokens that meet an MSE target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError, Family, Tokens
from avtbench.methods.elastic.network import ElasticAdapter, ElasticConfig, prefix_mask, prefix_order
from avtbench.methods.forced import Forced
from avtbench.methods.latents import LatentMethod, Latents
from avtbench.methods.placement import seeded
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import read_trained_for


class ElasticTokStyle(LatentMethod):
    """Nested tail drop with a binary search on the token count of every latent frame, each probe a real reconstruction.

    A probe packs the frame for a count, unpacks it and decodes it on top of the frames already committed (adapter
    context and decoder state are cached, as ElasticTok caches keys and values); its error is the frame's MSE on
    [-1, 1], after ElasticTok (specification section 6). The search returns the smallest passing count that it tested,
    or everything where none passed.

    adapter_weights: a file written by ``avtbench train elastictok-style``; None takes the shipped one; ``random`` is
                     for timing alone.
    least: smallest count tried, as a fraction of the frame's tokens (ElasticTok: 128 of 2048).
    forced: ``{"probes": 12, "kept": 512}``: a declared trace for timing, every latent frame taking that many probes and
           keeping that many tokens; with ``"run": 1`` only so many probes are made, and :attr:`shortened` says what
           they stand for. None searches.
    """

    name: ClassVar[str] = "elastictok-style"
    summary: ClassVar[str] = "tail drop, token count by binary search on an MSE target, elastic adapter"
    family: ClassVar[Family] = "search"
    setting_name: ClassVar[str] = "MSE target"
    setting_unit: ClassVar[str] = "on [-1, 1], per latent frame"
    default_settings: ClassVar[tuple[float, ...]] = (0.004, 0.01, 0.025, 0.06)

    def __init__(
        self,
        tokenizer: FrozenTokenizer,
        adapter_weights: str | None = None,
        least: float = 0.0625,
        forced: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(tokenizer)
        if adapter_weights == "random":
            self.weights, self.adapter_digest = "random", "random"
            with seeded(0):
                self.adapter = ElasticAdapter(ElasticConfig(channels=tokenizer.channels))
        else:
            config, tensors, self.adapter_digest = read_trained_for(tokenizer, self.name, adapter_weights)
            self.adapter = ElasticAdapter(ElasticConfig(**config))
            self.adapter.load_state_dict(tensors)
        self.adapter.to(tokenizer.device).eval().requires_grad_(False)
        if not 0 < least <= 1:
            raise ContractError(f"{self.name}: least is {least:g}, expected a fraction above 0 and up to 1")
        self.least = least
        self.forced = Forced.given(self.name, forced)

    @property
    def parameters(self) -> Mapping[str, Any]:
        forced = {} if self.forced is None else {"forced": self.forced.as_dict()}
        return {**super().parameters, "adapter_digest": self.adapter_digest, "least": self.least, **forced}

    @property
    def shortened(self) -> Mapping[str, float]:
        """Stages of which a call makes only a part, with what one made evaluation stands for."""
        share = 1.0 if self.forced is None else self.forced.share
        return {"select/search/probe": share} if share > 1 else {}

    def check_setting(self, setting: float) -> float:
        target = super().check_setting(setting)
        if target < 0:
            raise ContractError(f"{self.name}: MSE target is {target:g}, expected 0 or more")
        return target

    def select(self, latents: Latents, setting: float) -> Tokens:
        target = self.check_setting(setting)
        c, t, h, w = latents.z.shape
        context = latents.z.new_zeros(1, c, h, w)
        state: Any = None
        kept, values = [], []
        for k in range(t):
            frame = latents.z[:, k].unsqueeze(0)
            with self.stage("search"):
                count = self._search(frame, context, state, latents, k, target)
            with self.stage("commit"):
                keep = prefix_mask(torch.tensor([count], device=frame.device), h, w)
                tokens = self._pack(frame, context, keep).half().float()
                context = self._unpack(tokens, context, keep)
                if self.tokenizer.streams:
                    _, state = self._decode_next(context, state)
                else:
                    state = context.unsqueeze(2) if state is None else torch.cat([state, context.unsqueeze(2)], 2)
            order = prefix_order(h, w).to(frame.device)
            values.append(tokens[0].flatten(1).T[order[:count]].half())
            row = torch.zeros(h * w, dtype=torch.bool, device=frame.device)
            row[:count] = True
            kept.append(row)
        grid = torch.tensor([h, w], dtype=torch.int16)
        return Tokens(torch.cat(values), torch.stack(kept), latents.extent, "prefix", extra={"grid": grid})

    def decode(self, tokens: Tokens) -> Tensor:
        h, w = tokens.extra["grid"].tolist()
        device = self.center.device
        order = prefix_order(h, w).to(device)
        context = torch.zeros(1, self.tokenizer.channels, h, w, device=device)
        frames, start = [], 0
        with self.stage("fill"):
            for count in tokens.keep.sum(1).tolist():
                grid = torch.zeros(h * w, self.tokenizer.channels, device=device)
                grid[order[:count]] = tokens.values[start : start + count].to(device).float()
                start += count
                keep = prefix_mask(torch.tensor([count], device=device), h, w)
                context = self._unpack(grid.T.reshape(1, -1, h, w), context, keep)
                frames.append(context[0])
        return self.tokenizer.decode(torch.stack(frames, 1) * self.scale + self.center, tokens.video)

    def choose(self, latents: Latents, setting: float) -> Tensor:
        """The prefix masks ``bool [t, h * w]`` of :meth:`select`."""
        return self.select(latents, setting).keep

    def _search(self, frame: Tensor, context: Tensor, state: Any, latents: Latents, k: int, target: float) -> int:
        """The token count of latent frame ``k``."""
        positions = frame.shape[2] * frame.shape[3]
        original = self._pixels(latents, k)

        def error(count: int) -> float:
            with self.stage("probe"):
                keep = prefix_mask(torch.tensor([count], device=frame.device), *frame.shape[2:])
                rebuilt = self._unpack(self._pack(frame, context, keep), context, keep)
                decoded = self._decode_probe(rebuilt, state, latents, k)
                with self.stage("error"):
                    return float((decoded - original).square().mean())

        if self.forced is not None:
            self.forced.check(positions)
            for _ in range(self.forced.made):
                error(self.forced.kept)
            return self.forced.kept
        low, high, best = max(round(self.least * positions), 1), positions, positions
        while low <= high:
            count = (low + high) // 2
            if error(count) < target:
                best, high = count, count - 1
            else:
                low = count + 1
        return best

    def _pack(self, frame: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        with self.stage("pack"):
            self.count("adapter_encoder")
            return self.adapter.pack(frame, context, keep)

    def _unpack(self, tokens: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        with self.stage("unpack"):
            self.count("adapter_decoder")
            return self.adapter.unpack(tokens, context, keep)

    def _decode_next(self, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        latent = (z[0].unsqueeze(1) * self.scale + self.center).to(self.tokenizer.dtype)
        with self.stage("decoder"):
            self.count("decoder_step")
            return self.tokenizer.decode_chunk(latent, state)

    def _decode_probe(self, z: Tensor, state: Any, latents: Latents, k: int) -> Tensor:
        """Pixels of latent frame ``k``, ``[T, H, W, 3]`` on [-1, 1], cropped to the clip."""
        frames, height, width = latents.extent
        if self.tokenizer.streams:
            x = self._decode_next(z, state)[0][:, :, :height, :width].permute(1, 2, 3, 0).float()
        else:
            whole = z.unsqueeze(2) if state is None else torch.cat([state, z.unsqueeze(2)], 2)
            first, last = self._span(k)
            x = self.tokenizer.decode(whole[0] * self.scale + self.center, (last, height, width))[first:] * 2 - 1
        first, last = self._span(k)
        return x[: max(min(last, frames) - first, 0)]

    def _span(self, k: int) -> tuple[int, int]:
        """First and one past the last pixel frame of latent frame ``k``."""
        step = self.tokenizer.temporal
        if self.tokenizer.causal_first:
            return (0, 1) if k == 0 else (1 + (k - 1) * step, 1 + k * step)
        return k * step, (k + 1) * step

    def _pixels(self, latents: Latents, k: int) -> Tensor:
        first, last = self._span(k)
        return latents.video[first:last].to(self.center.device).float().div(127.5).sub(1)
