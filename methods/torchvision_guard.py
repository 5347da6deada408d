"""Make torchvision importable where its compiled part cannot load.

A torchvision built for CUDA beside a CPU-only torch cannot load its operator library, and ``import torchvision`` then
raises ``operator torchvision::nms does not exist``; with it fall ``lpips`` and parts of ``diffusers``. Nothing here
uses those operators: declaring their schemas is enough for the import to succeed.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = [f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")]
_kept_alive: list[torch.library.Library] = []  # a collected Library takes its declarations with it


def ensure_importable() -> bool:
    """Call before ``import torchvision``, ``lpips`` or ``diffusers``; harmless to repeat, or where none is installed.

    True when torchvision's own operators are available, False when they are absent or only declared (box suppression
    then raises when it is called, nothing else changes).
    """
    if _kept_alive:
        return False
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    if "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms"):
        return True
    folder = Path(spec.origin).parent
    with suppress(OSError):
        for library in sorted([*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]):
            torch.ops.load_library(str(library))
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        fragment.define(schema)
    _kept_alive.append(fragment)
    return False
