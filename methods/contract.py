"""The contract of a method: three verbs, the same for every system.

    latents = method.encode(video)              # independent of the setting: once per clip in a sweep
    tokens  = method.select(latents, setting)   # threshold, search or routing: what the method is about
    video   = method.decode(tokens)             # fill what was dropped, back to pixels

Letters used everywhere: ``video: uint8 [T, H, W, 3]``, ``z: float [C, t, h, w]``, ``keep: bool [t, h, w]``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from avtbench.methods.stages import evaluated, stage

MaskKind = Literal["positions", "prefix"]
Tier = Literal["shared", "faithful"]
Weights = Literal["trained", "random", "none"]
Family = Literal["bound", "threshold", "search", "router"]


class ContractError(ValueError):
    """A method, a setting or a clip broke the contract; the message says what was found, expected and what mends it."""


@dataclass(frozen=True)
class Tokens:
    """What a receiver needs and nothing else; ``decode`` works from this alone, in another process.

    values:    kept tokens in the order of ``keep`` (row-major): float ``[n, C]``, or int64 codes ``[n]``.
    keep:      bool. ``mask_kind="positions"``: ``[t, h, w]`` (first axis: latent frames, over all coded windows);
               ``mask_kind="prefix"``: ``[blocks, M]``, each row a run of True followed by False, so that one count a
               block tells it all.
    video:     (T, H, W) of the original clip, before padding.
    codebook:  number of codes for discrete tokens, None for continuous ones.
    precision: bits per channel in which continuous values are stated to be sent.
    extra:     small tensors that the receiver needs besides (window layout, a rate); counted as side information.
    """

    values: Tensor
    keep: Tensor
    video: tuple[int, int, int]
    mask_kind: MaskKind = "positions"
    codebook: int | None = None
    precision: int = 16
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = int(self.keep.count_nonzero())
        if self.keep.dtype != torch.bool:
            raise ContractError(f"Tokens.keep has dtype {self.keep.dtype}, expected torch.bool")
        if self.values.shape[0] != kept:
            raise ContractError(f"Tokens hold {self.values.shape[0]} values for {kept} kept positions; one each is due")
        if self.values.is_floating_point() == (self.codebook is not None):
            raise ContractError("Tokens with a codebook carry integer codes, tokens without one carry float values")

    @property
    def kept(self) -> int:
        """Number of tokens that are sent."""
        return self.values.shape[0]

    @property
    def total(self) -> int:
        """Number of tokens of the full grid; positions coded by several windows count as often as they are coded."""
        return self.keep.numel()

    def to_bytes(self) -> bytes:
        """Serialise to a safetensors blob."""
        meta = {
            "video": self.video,
            "mask_kind": self.mask_kind,
            "codebook": self.codebook,
            "precision": self.precision,
        }
        tensors = {"values": self.values, "keep": self.keep, **{f"extra.{k}": v for k, v in self.extra.items()}}
        return save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"tokens": json.dumps(meta)})

    @classmethod
    def from_bytes(cls, blob: bytes, device: torch.device | str = "cpu") -> Tokens:
        """Inverse of :meth:`to_bytes`."""
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        meta = json.loads(header["__metadata__"]["tokens"])
        tensors = {k: v.to(device) for k, v in load(blob).items()}
        extra = {k.removeprefix("extra."): v for k, v in tensors.items() if k.startswith("extra.")}
        meta["video"] = tuple(meta["video"])
        return cls(values=tensors["values"], keep=tensors["keep"], extra=extra, **meta)


class Method(ABC):
    """One way of choosing which video tokens to keep. Subclass it in one file; nothing has to be registered.

    The class attributes are plain literals: ``avtbench ls`` reads them without importing the file (or torch).
    Constructor keywords are the method's knobs (``--set method.NAME=VALUE``); those that take a tokeniser name it
    ``tokenizer``. ``encode``, ``select`` and ``decode`` run under ``torch.inference_mode``.
    """

    name: ClassVar[str]
    """Unique; lower case with dashes."""
    summary: ClassVar[str] = ""
    """One line for ``avtbench ls``."""
    family: ClassVar[Family] = "threshold"
    tier: ClassVar[Tier] = "shared"
    """``shared``: a rule on the common frozen tokeniser; ``faithful``: the published architecture itself."""
    setting_name: ClassVar[str] = "threshold"
    setting_unit: ClassVar[str] = ""
    default_settings: ClassVar[tuple[float, ...]] = ()
    """Swept by default, from low to high."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Importable modules needed beyond the core installation."""

    weights: Weights = "trained"
    """Where the networks' parameters come from; random ones are barred from quality tables."""

    stage = staticmethod(stage)
    count = staticmethod(evaluated)

    def check_setting(self, setting: float) -> float:
        """Return the setting as a float, or raise :class:`ContractError` in one line. Override to narrow the range."""
        try:
            value = float(setting)
        except (TypeError, ValueError):
            value = float("nan")
        if value != value:
            raise ContractError(
                f"{self.name}: {self.setting_name} is {setting!r}, expected a number; "
                f"defaults are {self.default_settings}"
            )
        return value

    def skip(self, video: tuple[int, int, int]) -> str | None:
        """Reason why a clip of (T, H, W) cannot be run by this method, or None."""
        return None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Everything besides the setting that changes results: knobs, tokeniser, weight digests (JSON-able)."""
        return {}

    @abstractmethod
    def encode(self, video: Tensor) -> Any:
        """uint8 ``[T, H, W, 3]`` -> whatever ``select`` needs; must not depend on the setting nor change ``video``."""

    @abstractmethod
    def select(self, latents: Any, setting: float) -> Tokens:
        """Decide which tokens to keep. Deterministic; must not change ``latents``."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens -> float32 ``[T, H, W, 3]`` in [0, 1] (not necessarily clamped), cropped to the original extent."""
