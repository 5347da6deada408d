"""The published Cosmos tokenisers as frozen base tokenisers, and the official TorchScript pair.

Every variant takes ``weights=PATH``: a state dict (.pt, .safetensors; full training checkpoints too), a ``.jit``
archive, or a folder that holds ``model.pt`` / ``model.safetensors`` or the pair ``encoder.jit`` and ``decoder.jit``,
whose parameters are then read into this implementation. ``weights=random`` builds the published size for timing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from avtbench.methods.checkpoints import digest, read_tensors
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import place, seeded
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.tokenizers.cosmos.fsq import FSQ, LEVELS
from avtbench.methods.tokenizers.cosmos.model import CosmosModel, CosmosSpec, from_official
from avtbench.methods.tokenizers.cosmos.network import CosmosConfig

WHOLE = ("model.safetensors", "model.pt", "model.pth", "autoencoder.jit")
PAIR = ("encoder.jit", "decoder.jit")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Parameters from a checkpoint file or from a folder as published (see this module); names as in the files."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return read_tensors(path)
    whole = next((path / name for name in WHOLE if (path / name).is_file()), None)
    if whole is not None:
        return read_tensors(whole)
    if all((path / name).is_file() for name in PAIR):
        return {k: v for name in PAIR for k, v in read_tensors(path / name).items()}
    raise ContractError(f"folder {path} holds no Cosmos tokeniser; expected {', '.join(WHOLE)} or {' and '.join(PAIR)}")


class CosmosTokenizer(FrozenTokenizer):
    """One published variant; subclasses state its name and its structure.

    For DV variants the latents are the codes, and ``codebook`` counts them; :meth:`indices` gives their numbers.
    """

    needs_weights = True
    structure: ClassVar[CosmosSpec]
    codebook: int | None = None

    def __init__(self, weights: str | None = None, seed: int = 0, device: str = "cpu", dtype: str = "float32"):
        if weights is None:
            raise ContractError(
                f"{self.name} needs weights: give weights=PATH (a checkpoint, or a folder with encoder.jit and "
                "decoder.jit), or weights=random to time it at its published size"
            )
        self.device, self.dtype = place(device, dtype)
        if weights == "random":
            self.weights = "random"
            with seeded(seed):
                self.model = CosmosModel(self.structure)
            self.digest = digest(self.model.state_dict())
            self.model.to(self.device, self.dtype)
        else:
            state = read_official(weights)
            self.model = from_official(
                state, self.structure, device=self.device, dtype=self.dtype, what=f"{self.name}, {Path(weights).name}"
            )
            self.digest = digest(state)
        spec = self.model.spec
        self.channels = spec.latent_channels
        self.temporal, self.spatial = spec.network.temporal_compression, spec.network.spatial_compression
        if self.model.quantizer is not None:
            self.codebook = self.model.quantizer.codebook

    def encode_legal(self, x: Tensor) -> Tensor:
        z = self.model.encode(x.unsqueeze(0))
        return (z if isinstance(z, Tensor) else z[1])[0].contiguous()

    def decode_latent(self, z: Tensor) -> Tensor:
        return self.model.decode(z.unsqueeze(0))[0]

    def indices(self, z: Tensor) -> Tensor:
        """Latents ``[C, t, h, w]`` of a DV variant -> int32 ``[t, h, w]``, the nearest codes."""
        if self.model.quantizer is None:
            raise ContractError(f"{self.name} is continuous and has no code indices")
        return self.model.quantizer.to_indices(z.unsqueeze(0))[0]


class CosmosCV8x8x8(CosmosTokenizer):
    name = "cosmos-cv8x8x8"
    summary = "Cosmos CV8x8x8 (0.1, 1.0, Tokenize1-720p): 16 channels, 8x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig())


class CosmosCV4x8x8v01(CosmosTokenizer):
    name = "cosmos-cv4x8x8-v01"
    summary = "Cosmos 0.1 CV4x8x8 (patch 4): 16 channels, 4x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig(temporal_compression=4, decoder_mult=(2, 4), dead_convs=True))


class CosmosCV4x8x8at360p(CosmosTokenizer):
    name = "cosmos-cv4x8x8-360p"
    summary = "Cosmos Tokenize1 CV4x8x8-360p (patch 2): 16 channels, 4x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig(patch_size=2, temporal_compression=4))


class CosmosDV4x8x8v01(CosmosTokenizer):
    name = "cosmos-dv4x8x8-v01"
    summary = "Cosmos 0.1 DV4x8x8 (patch 4): 64 000 codes, 4x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig(temporal_compression=4, dead_convs=True), 6, LEVELS)


class CosmosDV8x8x8v01(CosmosTokenizer):
    name = "cosmos-dv8x8x8-v01"
    summary = "Cosmos 0.1 DV8x8x8: 64 000 codes, 8x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig(dead_convs=True), 6, LEVELS)


class CosmosDV4x8x8at360p(CosmosTokenizer):
    name = "cosmos-dv4x8x8-360p"
    summary = "Cosmos Tokenize1 DV4x8x8-360p (patch 2, InfoTok's base): 64 000 codes, 4x in time, 8x8 in space"
    structure = CosmosSpec(CosmosConfig(patch_size=2, temporal_compression=4, z_channels=256), 6, LEVELS)


class CosmosDV8x16x16(CosmosTokenizer):
    name = "cosmos-dv8x16x16"
    summary = "Cosmos DV8x16x16 (1.0, Tokenize1-720p): 64 000 codes, 8x in time, 16x16 in space"
    structure = CosmosSpec(CosmosConfig(spatial_compression=16), 6, LEVELS)


class CosmosTorchScript(FrozenTokenizer):
    """The official ``encoder.jit`` and ``decoder.jit`` as they are; factors and channels are found by a probe.

    weights: the folder that holds both, the encoder's path (the decoder is looked for beside it), or both paths.
    """

    name = "cosmos-jit"
    summary = "an official Cosmos TorchScript pair (encoder.jit, decoder.jit), continuous or discrete"
    needs_weights = True
    codebook: int | None = None

    def __init__(self, weights: str | list[str] | None = None, device: str = "cpu", dtype: str = "float32"):
        self.device, self.dtype = place(device, dtype)
        paths = self._paths(weights)
        self.digest = digest({f"{p.name}/{k}": v for p in paths for k, v in read_tensors(p).items()})
        self.encoder, self.decoder = (
            torch.jit.load(str(p), map_location=self.device).eval().to(self.device, self.dtype) for p in paths
        )
        self._probe()

    def _paths(self, weights: str | list[str] | None) -> list[Path]:
        given = [weights] if isinstance(weights, str) else list(weights or [])
        paths = [Path(p).expanduser() for p in given]
        if len(paths) == 1:
            folder = paths[0] if paths[0].is_dir() else paths[0].parent
            paths = [folder / PAIR[0] if paths[0].is_dir() else paths[0], folder / PAIR[1]]
        absent = next((str(p) for p in paths if not p.is_file()), None)
        if len(paths) != 2 or absent:
            found = f"{absent} does not exist" if absent else f"{len(paths)} paths"
            raise ContractError(
                f"{self.name} needs weights=FOLDER with {' and '.join(PAIR)}, or both paths; found {found}"
            )
        return paths

    @torch.inference_mode()
    def _probe(self) -> None:
        out = self._encode(torch.zeros(1, 3, 9, 64, 64, device=self.device, dtype=self.dtype))
        t, h = out[0].shape[-3], out[0].shape[-2]
        if t < 2 or 8 % (t - 1) or 64 % h:
            raise ContractError(
                f"{self.name}: the encoder maps 9x64x64 to {list(out[0].shape)}, expected 1 + 8/k latent frames"
            )
        self.temporal, self.spatial = 8 // (t - 1), 64 // h
        self.fsq = None
        if out[0].is_floating_point():
            self.channels = out[0].shape[1]
            return
        self.fsq = FSQ(LEVELS).to(self.device)
        self.channels, self.codebook = len(LEVELS), self.fsq.codebook
        codes = out[1] if len(out) > 1 else None
        known = self.fsq.to_codes(out[0]) if int(out[0].max()) < self.codebook else None
        if known is None or (isinstance(codes, Tensor) and not torch.allclose(codes.float(), known, atol=1e-2)):
            raise ContractError(f"{self.name}: the codes of this encoder do not follow FSQ levels {list(LEVELS)}")

    def _encode(self, x: Tensor) -> tuple[Any, ...]:
        out = self.encoder(x)
        return out if isinstance(out, tuple) else (out,)

    def encode_legal(self, x: Tensor) -> Tensor:
        z = self._encode(x.unsqueeze(0))[0]
        return (z if self.fsq is None else self.fsq.to_codes(z, self.dtype))[0].contiguous()

    def decode_latent(self, z: Tensor) -> Tensor:
        batch = z.unsqueeze(0)
        out = self.decoder(batch if self.fsq is None else self.fsq.to_indices(batch))
        return (out[0] if isinstance(out, tuple) else out)[0]

    def indices(self, z: Tensor) -> Tensor:
        """Latents ``[C, t, h, w]`` of a discrete pair -> int32 ``[t, h, w]``, the nearest codes."""
        if self.fsq is None:
            raise ContractError(f"{self.name}: this pair is continuous and has no code indices")
        return self.fsq.to_indices(z.unsqueeze(0))[0]
