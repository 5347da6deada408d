"""LIT: drop the latent positions that hardly change, fill them with a small transformer (arXiv 2606.06158)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from avtbench.methods.baselines import Hold
from avtbench.methods.contract import ContractError, Family
from avtbench.methods.lit.network import LatentInpaintingTransformer, LITConfig
from avtbench.methods.threshold import Reference
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.trained import digest_of, read_safetensors

WEIGHTS = Path(__file__).parents[1] / "weights"


class Lit(Hold):
    """One encoder pass, a threshold, one pass of the Latent Inpainting Transformer, one decoder pass.

    reference:   what a position is compared with, ``last_kept`` or ``previous``.
    lit_weights: a file written by ``avtbench train lit``; None takes the shipped one of the tokeniser.
    """

    name: ClassVar[str] = "lit"
    summary: ClassVar[str] = "temporal-L1 threshold, filled by a Latent Inpainting Transformer"
    family: ClassVar[Family] = "threshold"
    shipped: ClassVar[str] = "lit-{tokenizer}.safetensors"
    """File name of the shipped checkpoint, by tokeniser."""

    def __init__(
        self, tokenizer: FrozenTokenizer, reference: Reference = "last_kept", lit_weights: str | None = None
    ) -> None:
        super().__init__(tokenizer, reference)
        path = Path(lit_weights) if lit_weights else WEIGHTS / self.shipped.format(tokenizer=tokenizer.name)
        self.network, self.network_digest = load_lit(path, tokenizer)

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "lit_digest": self.network_digest}

    def fill(self, z: Tensor, keep: Tensor) -> Tensor:
        if bool(keep.all()):
            return z
        with self.stage("lit"):
            self.count("lit")
            return self.network(z.unsqueeze(0), keep.unsqueeze(0)).squeeze(0)


class LitPlain(Lit):
    """LIT as the abstract describes it: a mask embedding at dropped positions and nothing else.

    The network does not see the last kept value and predicts the latent itself instead of a correction.
    """

    name: ClassVar[str] = "lit-plain"
    summary: ClassVar[str] = "the abstract's plain version: mask embedding alone, no held value, no residual output"
    shipped: ClassVar[str] = "lit-plain-{tokenizer}.safetensors"


def load_lit(path: Path, tokenizer: FrozenTokenizer, task: str = "lit") -> tuple[LatentInpaintingTransformer, str]:
    """The trained network of a checkpoint on the tokeniser's device, and the checkpoint's digest."""
    mend = f"train one with: avtbench train {task} --tokenizer {tokenizer.name}"
    tensors, meta = read_safetensors(path, mend)
    config = LITConfig(**json.loads(meta["config"]))
    trained_on = meta.get("tokenizer_digest", "")
    if config.channels != tokenizer.channels or trained_on != tokenizer.digest:
        raise ContractError(
            f"{path}: trained for a tokeniser with digest {trained_on} and {config.channels} channels, but "
            f"{tokenizer.name} has {tokenizer.digest} and {tokenizer.channels}; {mend}"
        )
    network = LatentInpaintingTransformer(config)
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.to(tokenizer.device).eval().requires_grad_(False), digest_of(path)
