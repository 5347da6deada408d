"""LPIPS v0.1 (Zhang et al. 2018) through the ``lpips`` package, with backbones that are found, never made up.

The linear heads ship with the package; the backbone (torchvision's ImageNet weights) is looked for in this order:

1. the file given (``--lpips-weights FILE``);
2. ``AVTBENCH_WEIGHTS``: a file, or a folder that holds one (also one level down);
3. torchvision's cache: ``$TORCH_HOME/hub/checkpoints``, where ``avtbench fetch lpips-vgg`` puts it, too;
4. a download, only where ``allow_download=True`` asks for it.

Taken are ``.pth`` files of the whole net or of its ``features`` alone, ``.safetensors`` and ``.npz`` with the same
names (any of ``features.0.weight``, ``0.weight``, ``net.0.weight``). Where there is none, ``absent`` says so and the
column is missing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avtbench.bench.identity import file_digest
from avtbench.methods.torchvision_guard import ensure_importable

_BATCH_PIXELS = 1 << 17
_SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")


@dataclass(frozen=True)
class _Backbone:
    title: str
    file: str
    """In torchvision's cache; the eight digits begin the file's sha256."""
    smallest: int
    """Shortest side of a frame that leaves something to compare in the last layer."""

    @property
    def url(self) -> str:
        return f"https://download.pytorch.org/models/{self.file}"


BACKBONES: Mapping[str, _Backbone] = {
    "vgg": _Backbone("VGG-16", "vgg16-397923af.pth", 16),
    "alex": _Backbone("AlexNet", "alexnet-owt-7be5be79.pth", 31),
    "squeeze": _Backbone("SqueezeNet 1.1", "squeezenet1_1-b8a52dc0.pth", 17),
}


class Lpips:
    """One LPIPS column. Call it with uint8 ``[F, H, W, 3]`` twice for one distance per frame."""

    def __init__(self, net: str, module: torch.nn.Module | None, digest: str = "", absent: str | None = None):
        self.net = net
        self.column = f"lpips_{net}"
        self.absent = absent
        """Why the column cannot be measured, or None."""
        self.digest = digest
        """sha256 (16 hex digits) of the backbone's file; empty where absent."""
        self._module = module

    def unable(self, height: int, width: int) -> str | None:
        """Why frames of this size cannot be measured, or None."""
        if self.absent:
            return self.absent
        backbone = BACKBONES[self.net]
        if min(height, width) < (least := backbone.smallest):
            return f"{self.column}: frames are {height}x{width}, {backbone.title} needs at least {least}x{least}"
        return None

    def __call__(self, original: Tensor, reconstruction: Tensor) -> list[float]:
        """Distances of ``F`` frames, a batch at a time, on the device of ``reconstruction``."""
        if self._module is None:
            raise ValueError(self.absent)
        module = self._module.to(reconstruction.device)
        frames = max(1, _BATCH_PIXELS // (original.shape[1] * original.shape[2]))
        found: list[float] = []
        with torch.inference_mode():
            for x, y in zip(original.split(frames), reconstruction.split(frames), strict=True):
                found += module(_scaled(x.to(y.device)), _scaled(y)).flatten().tolist()
        return found

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Float ``[F, 3, H, W]`` in [-1, 1] twice -> distances ``[F]``, differentiable: LPIPS as a training loss."""
        if self._module is None:
            raise ValueError(self.absent)
        return self._module.to(x.device)(x, y).flatten()


def _scaled(frames: Tensor) -> Tensor:
    """uint8 ``[F, H, W, 3]`` -> float32 ``[F, 3, H, W]`` in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def load(net: str, weights: str | Path | None = None, allow_download: bool = False) -> Lpips:
    """The LPIPS column of ``net`` (``vgg``, ``alex`` or ``squeeze``), cached in this process.

    ``weights``: a backbone file to be taken before anything else. Raises ValueError for another net; a backbone that
    cannot be had is not an error but the ``absent`` of what is returned.
    """
    if net not in BACKBONES:
        raise ValueError(f"there is no LPIPS net {net!r}, expected one of {', '.join(BACKBONES)}")
    ways = os.environ.get("AVTBENCH_WEIGHTS", ""), str(_cache())
    return _load(net, str(weights) if weights else "", *ways, allow_download)


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


@lru_cache(maxsize=32)
def _load(net: str, given: str, configured: str, cache: str, allow_download: bool) -> Lpips:
    backbone = BACKBONES[net]
    refused: list[str] = []
    for path in _candidates(backbone, given, configured, cache, refused):
        try:
            state = _read(path)
            module = _build(net, state)
        except Exception as error:
            refused.append(f"{path} does not hold it ({_brief(error)})")
            continue
        return Lpips(net, module, file_digest(path))
    if allow_download:
        try:
            path = Path(cache) / backbone.file
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = backbone.file.rpartition("-")[2].removesuffix(".pth")
            torch.hub.download_url_to_file(backbone.url, str(path), hash_prefix=prefix, progress=False)
            return Lpips(net, _build(net, _read(path)), file_digest(path))
        except Exception as error:
            refused.append(f"{backbone.url} cannot be had ({_brief(error)})")
    where = [
        f"AVTBENCH_WEIGHTS={configured}" if configured else "AVTBENCH_WEIGHTS (not set)",
        f"torchvision's cache {cache}",
    ]
    seen = "; ".join(refused) or f"looked in {' and '.join(where)}"
    return Lpips(
        net,
        None,
        absent=f"lpips_{net}: no {backbone.title} backbone: {seen}; get it with `avtbench fetch lpips-{net}` "
        f"or give {backbone.file} with --lpips-weights",
    )


def _candidates(backbone: _Backbone, given: str, configured: str, cache: str, refused: list[str]) -> Iterator[Path]:
    for place in (given, configured):
        path = Path(place).expanduser()
        if place and path.is_dir():
            yield from _in_folder(path, backbone)
        elif place and path.is_file():
            yield path
        elif place:
            refused.append(f"{place} does not exist")
    cached = Path(cache) / backbone.file
    if cached.is_file():
        yield cached


def _in_folder(folder: Path, backbone: _Backbone) -> Iterator[Path]:
    """Files of a folder (and of those in it) whose name speaks of the backbone."""
    family = backbone.file.partition("-")[0].partition("_")[0].rstrip("0123456789")  # vgg, alexnet, squeezenet
    words = (family, family.removesuffix("net"))
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.suffix in _SUFFIXES and path.is_file() and any(word in path.name.lower() for word in words):
            yield path


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        import numpy

        with numpy.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, expected a state dict")
    return dict(state)


def _build(net: str, state: Mapping[str, Tensor]) -> torch.nn.Module:
    ensure_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips speaks to an older torchvision
        import lpips

        with torch.random.fork_rng(devices=[]):  # the trunk is built with random numbers, all of which are replaced
            module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = module.net.state_dict()  # names are sliceK.<index in features>.<rest>
    filled = {}
    for name, parameter in trunk.items():
        rest = name.partition(".")[2]
        found = next((state[p + rest] for p in ("features.", "net.", "net.features.", "") if p + rest in state), None)
        if found is None or found.shape != parameter.shape:
            shape = "is missing" if found is None else f"is {tuple(found.shape)}, expected {tuple(parameter.shape)}"
            raise ValueError(f"features.{rest} {shape}")
        filled[name] = found.float()
    module.net.load_state_dict(filled, strict=True)
    return module.eval().requires_grad_(False)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
