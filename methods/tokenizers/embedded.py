"""The embedded tokeniser: small, causal, shipped with the package, so that everything runs without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.tokenizers.embedded_network import (
    SPATIAL,
    TEMPORAL,
    EmbeddedConfig,
    EmbeddedNetwork,
    StreamState,
)
from avtbench.methods.trained import WEIGHTS, digest_of, read_safetensors

SHIPPED = WEIGHTS / "embedded.safetensors"


class EmbeddedTokenizer(FrozenTokenizer):
    """4x temporal, 8x8 spatial, 16 channels; the first frame has a latent frame of its own (T = 1 + 4k).

    weights: a file written by ``avtbench train tokenizer``; None takes the shipped one.
    """

    name: ClassVar[str] = "embedded"
    summary: ClassVar[str] = "small causal 4x8x8 autoencoder, 16 channels, shipped with the package"
    streams: ClassVar[bool] = True

    temporal = TEMPORAL
    spatial = SPATIAL
    causal_first = True

    def __init__(self, weights: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        path = Path(weights) if weights else SHIPPED
        tensors, meta = read_safetensors(path, mend="train one with: avtbench train tokenizer")
        config = EmbeddedConfig(**json.loads(meta["config"]))
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.channels = config.channels
        self.mean, self.std = tensors.pop("latent_mean").float(), tensors.pop("latent_std").float()
        self.digest = digest_of(path)
        self.network = EmbeddedNetwork(config)
        self.network.load_state_dict({name: value.float() for name, value in tensors.items()})
        self.network.to(self.device, self.dtype).eval().requires_grad_(False)
        self.mean, self.std = self.mean.to(self.device), self.std.to(self.device)

    def encode_legal(self, x: Tensor) -> Tensor:
        return self.network.encode(x.unsqueeze(0)).squeeze(0)

    def decode_latent(self, z: Tensor) -> Tensor:
        return self.network.decode(z.unsqueeze(0)).squeeze(0)

    def encode_chunk(self, x: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState]:
        """float ``[3, T, H, W]``: the first chunk has 1 + 4k frames, later ones 4k."""
        state = dict(state or {})
        return self.network.encode(x.unsqueeze(0), state).squeeze(0), state

    def decode_chunk(self, z: Tensor, state: StreamState | None) -> tuple[Tensor, StreamState]:
        """``[C, t, h, w]`` -> the frames of these latents alone."""
        state = dict(state or {})
        return self.network.decode(z.unsqueeze(0), state).squeeze(0), state
