"""Video autoencoders of the diffusers library as frozen tokenisers: what their plugins share.

Traps that are handled here: clips of an illegal length lose frames without a word (padded and cropped instead), the
latent is the distribution's mode and never a sample, overlapped temporal tiles are switched off, and a checkpoint with
missing parameters, which diffusers would fill at random with a warning, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from avtbench.methods.checkpoints import digest
from avtbench.methods.contract import ContractError
from avtbench.methods.placement import place, seeded
from avtbench.methods.tokenizers.contract import FrozenTokenizer
from avtbench.methods.torchvision_guard import ensure_importable


class DiffusersVAE(FrozenTokenizer):
    """A plugin names the diffusers class, the published repository and the published factors.

    weights: a Hugging Face repository, a local folder (with ``config.json``, or with it in a subfolder ``vae``), or
             ``random``, which builds the published size, or ``config``, from ``seed``.
    ``mean`` and ``std`` are the model's own latent statistics where it has them; statistics per latent frame are merged
    into one per channel, and a bare ``scaling_factor`` counts as one over the standard deviation around zero.
    """

    requires = ("diffusers",)
    needs_weights = True
    vae_class: ClassVar[str]
    repo: ClassVar[str]
    subfolder: ClassVar[str] = "vae"
    frame_step: ClassVar[int] = 0
    """Frames between legal lengths, 1 + k * frame_step, where that is more than ``temporal``."""
    cpu_bfloat16: ClassVar[bool] = True
    """False where torch lacks an operation of the model on the CPU in half precision; ``instead`` says what to do."""
    instead: ClassVar[str] = "use dtype=float32"

    def __init__(
        self,
        weights: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        if weights is None:
            raise ContractError(
                f"{self.name} needs weights: give weights={self.repo} (or a local copy), or weights=random to time it"
            )
        self.device, self.dtype = place(device, dtype)
        if self.device.type == "cpu" and self.dtype != torch.float32 and not self.cpu_bfloat16:
            raise ContractError(f"{self.name}: torch cannot run this model on the CPU in {dtype}; {self.instead}")
        vae_class = self._class()
        if weights == "random":
            self.weights = "random"
            with seeded(seed):
                self.vae = vae_class(**(config or {}))
        else:
            self.vae = self._load(vae_class, weights)
        torch.nn.Module.to(self.vae, self.device, self.dtype)  # diffusers' own only adds a warning
        self.vae.eval().requires_grad_(False)
        for flag in ("use_framewise_encoding", "use_framewise_decoding", "use_tiling"):
            if hasattr(self.vae, flag):
                setattr(self.vae, flag, False)
        self.digest = digest(self.vae.state_dict())
        settings = self.vae.config
        self.channels = settings.get("z_dim") or settings.get("latent_channels")
        self.temporal, self.spatial = self._factor("temporal"), self._factor("spatial")
        if self.weights == "trained":
            self.mean, self.std = self._statistics()

    def _class(self) -> Any:
        ensure_importable()
        try:
            import diffusers

            return getattr(diffusers, self.vae_class)
        except (ImportError, AttributeError) as error:
            raise ContractError(
                f"{self.name} needs a diffusers with {self.vae_class}: pip install -U 'avtbench[diffusers]' ({error})"
            ) from None

    def _load(self, vae_class: Any, weights: str) -> Any:
        folder, subfolder = Path(weights).expanduser(), self.subfolder or None
        if folder.is_dir():
            weights, subfolder = str(folder), None if (folder / "config.json").is_file() else subfolder
            self._check_class(folder / (subfolder or "") / "config.json")
        try:
            vae, info = vae_class.from_pretrained(
                weights, subfolder=subfolder, torch_dtype=self.dtype, output_loading_info=True, low_cpu_mem_usage=False
            )
        except Exception as error:  # diffusers and huggingface_hub raise many kinds, most over several lines
            said = " ".join(str(error).split())[:200]
            raise ContractError(f"{self.name}: {weights} cannot be loaded as {self.vae_class}: {said}") from None
        for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            if info[what]:
                first = next(iter(info[what]))
                raise ContractError(
                    f"{self.name}: {weights} is no {self.vae_class}: {what.replace('_', ' ')}, first {first}"
                )
        return vae

    def _check_class(self, path: Path) -> None:
        if not path.is_file():
            raise ContractError(f"{self.name}: {path} does not exist; expected a folder saved by {self.vae_class}")
        found = json.loads(path.read_text()).get("_class_name", self.vae_class)
        if found != self.vae_class:
            raise ContractError(f"{self.name}: {path.parent} holds {found}, expected {self.vae_class}")

    def _factor(self, axis: str) -> int:
        """Compression as the model states it, or as published where it does not."""
        for source in (self.vae.config, vars(self.vae)):
            for key in (f"scale_factor_{axis}", f"{axis}_compression_ratio"):
                if source.get(key):
                    return int(source[key])
        return int(getattr(type(self), axis))

    def _statistics(self) -> tuple[Tensor | None, Tensor | None]:
        settings = self.vae.config
        buffers = dict(self.vae.named_buffers(recurse=False))
        mean, std = (buffers.get(key, settings.get(key)) for key in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            factor = settings.get("scaling_factor") or 1.0
            if factor == 1.0:
                return None, None
            scale = torch.full((self.channels,), 1 / factor, device=self.device)
            return torch.zeros_like(scale), scale
        means, stds = (torch.as_tensor(v, dtype=torch.float32).view(self.channels, -1).cpu() for v in (mean, std))
        merged = (stds.square().mean(1) + means.var(1, correction=0)).sqrt()
        return means.mean(1).to(self.device), merged.to(self.device)

    def legal(self, frames: int, height: int, width: int, starts: bool = True) -> tuple[int, int, int]:
        legal_frames, *sides = super().legal(frames, height, width, starts)
        step = self.frame_step or self.temporal
        return 1 + -(-(legal_frames - 1) // step) * step, sides[0], sides[1]

    def encode_legal(self, x: Tensor) -> Tensor:
        return self.vae.encode(x.unsqueeze(0)).latent_dist.mode()[0]

    def decode_latent(self, z: Tensor) -> Tensor:
        return self.vae.decode(z.unsqueeze(0)).sample[0]
