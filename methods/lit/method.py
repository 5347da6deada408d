"""LIT: drop the latent positions that hardly change, fill them with a small transformer (arXiv 2606.06158)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from avtbench.methods.baselines import Hold
from avtbench.methods.contract import ContractError, Family
from avtbench.methods.latents import Latents
from avtbench.methods.lit.network import LatentInpaintingTransformer, LITConfig
from avtbench.methods.placement import seeded
from avtbench.methods.streaming import FillState
from avtbench.methods.threshold import Reference, declared_mask, last_held
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import read_trained_for


class Lit(Hold):
    """One encoder pass, a threshold, one pass of the Latent Inpainting Transformer, one decoder pass.

    reference:   what a position is compared with, ``last_kept`` or ``previous``.
    lit_weights: a file written by ``avtbench train lit``; None takes the shipped one of the tokeniser; ``random`` is
                 for timing alone.
    size:        depth x width of a random network (trained ones know theirs): ``12x512`` is about 50 M parameters.
    compute:     ``dropped`` positions alone, or ``all``: the same result in more time, which tells what leaving kept
                 positions out of the network saves, and skipping it where nothing was dropped.
    forced:      ``{"kept": 0.5}``: a declared rate for timing; the threshold's scan runs, its outcome is replaced by a
                 mask that keeps this share, because untrained latents say nothing about the rate. None decides.
    """

    name: ClassVar[str] = "lit"
    summary: ClassVar[str] = "temporal-L1 threshold, filled by a Latent Inpainting Transformer"
    family: ClassVar[Family] = "threshold"
    declared_trace: ClassVar[Mapping[str, float]] = {"kept": 0.5}

    def __init__(
        self,
        tokenizer: FrozenTokenizer,
        reference: Reference = "last_kept",
        lit_weights: str | None = None,
        size: str = "12x512",
        compute: Literal["dropped", "all"] = "dropped",
        forced: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(tokenizer, reference)
        if forced is not None and not (set(forced) == {"kept"} and 0 < forced["kept"] <= 1):
            raise ContractError(f"{self.name}: forced is {dict(forced)}, expected kept with a share in (0, 1]")
        self.forced = forced
        if lit_weights == "random":
            self.network, self.network_digest = random_lit(size, tokenizer), f"random {size}"
            self.weights = "random"
        else:
            self.network, self.network_digest = load_lit(tokenizer, self.name, lit_weights)
        self.network.every = compute == "all"

    @property
    def parameters(self) -> Mapping[str, Any]:
        forced = {} if self.forced is None else {"forced": dict(self.forced)}
        compute = {"compute": "all"} if self.network.every else {}
        return {**super().parameters, "lit_digest": self.network_digest, **compute, **forced}

    def choose_chunk(self, latents: Latents, setting: float, state: Tensor | None) -> Tensor:
        keep = super().choose_chunk(latents, setting, state)
        return keep if self.forced is None else declared_mask(keep, self.forced["kept"])

    def fill_chunk(self, z: Tensor, keep: Tensor, state: FillState | None) -> tuple[Tensor, FillState]:
        """The network sees C_fill, taken for kept, before the chunk: no more latent frames than it was trained with.

        The newest frame of C_fill holds last kept values, not what the network made of them: it corrects what the frame
        before shows, and corrections of corrections would drift.
        """
        longest = self.network.config.frames
        if state is None:
            whole = self._inpaint(z, keep)
            past = whole[:, :-1]
        else:
            context = state.recent[:, -max(longest - z.shape[1], 1) :]
            known = keep.new_ones(context.shape[1:])
            whole = self._inpaint(torch.cat([context, z], dim=1), torch.cat([known, keep]))[:, context.shape[1] :]
            past = torch.cat([state.recent, whole[:, :-1]], dim=1)
        held = last_held(z, keep, state.held if state else None)
        recent = torch.cat([past, held.unsqueeze(1)], dim=1)[:, 1 - longest :]
        return whole, FillState(recent)

    def _inpaint(self, z: Tensor, keep: Tensor) -> Tensor:
        if not self.network.every and bool(keep.all()):
            return z
        with self.stage("lit"):
            self.count("lit")
            whole = self.network(z.unsqueeze(0).to(self.network.out.weight.dtype), keep.unsqueeze(0))
            return whole.squeeze(0).float()


class LitPlain(Lit):
    """LIT as the abstract describes it: a mask embedding at dropped positions and nothing else.

    The network does not see the last kept value and predicts the latent itself instead of a correction.
    """

    name: ClassVar[str] = "lit-plain"
    summary: ClassVar[str] = "the abstract's plain version: mask embedding alone, no held value, no residual output"


def random_lit(size: str, tokenizer: FrozenTokenizer) -> LatentInpaintingTransformer:
    """An untrained network of ``depth x width``, heads of 64, an MLP of four times the width; as if for 17 frames."""
    depth, _, width = size.partition("x")
    if not (depth.isdigit() and width.isdigit() and int(depth) and int(width) and int(width) % 64 == 0):
        raise ContractError(f"size is {size!r}, expected depth x width with the width a multiple of 64, such as 12x512")
    frames = max(tokenizer.grid(17, 1, 1)[0], 2)
    config = LITConfig(tokenizer.channels, int(width), int(depth), heads=int(width) // 64, ratio=4, frames=frames)
    with seeded(0):
        network = LatentInpaintingTransformer(config)
    return network.to(tokenizer.device, tokenizer.dtype).eval().requires_grad_(False)


def load_lit(tokenizer: FrozenTokenizer, task: str, path: str | Path | None) -> tuple[LatentInpaintingTransformer, str]:
    """The network that ``avtbench train TASK`` made for a tokeniser, on its device, and the checkpoint's digest."""
    config, tensors, digest = read_trained_for(tokenizer, task, path)
    try:
        network = LatentInpaintingTransformer(LITConfig(**config))
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:120]
        raise ContractError(
            f"{task}: the checkpoint is of another version of the network ({said}); "
            f"train one with: avtbench train {task} --tokenizer {tokenizer.name}"
        ) from None
    return network.to(tokenizer.device).eval().requires_grad_(False), digest
