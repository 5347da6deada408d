"""The contract of a data set: clips with an identity, and the view of them that a preset asks for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np


class ClipError(ValueError):
    """A clip cannot be read; the message says what was found, expected and what mends it, in one line."""


@dataclass(frozen=True)
class View:
    """How clips are cut from videos: resize the shorter side, centre crop, take ``frames`` from ``start``.

    size:   side of the square centre crop, in pixels, after resizing the shorter side to it; None keeps the original
            extent (cropped to even sides).
    square: False keeps the aspect ratio (sides rounded to even) instead of cropping, as training does.
    frames: frames per clip; None takes all. A shorter video gives a shorter clip.
    start:  first frame. stride: every n-th frame.
    """

    size: int | None = 128
    square: bool = True
    frames: int | None = 17
    start: int = 0
    stride: int = 1

    def as_dict(self) -> dict[str, int | bool | None]:
        return asdict(self)


@dataclass(frozen=True)
class Clip:
    """One clip in memory. ``video``: uint8 ``[T, H, W, 3]`` RGB; ``source`` groups clips cut from one recording."""

    name: str
    dataset: str
    video: np.ndarray
    fps: float | None = None
    source: str = ""
    notes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 (16 hex digits) of the pixels and their shape: the clip's identity."""
        content = hashlib.sha256(repr(self.video.shape).encode())
        content.update(np.ascontiguousarray(self.video).data)
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class ClipRef:
    """A clip that has not been read yet. ``read()`` may raise :class:`ClipError`."""

    name: str
    dataset: str
    source: str = ""


class VideoDataset(ABC):
    """A named collection of clips. Subclass it in one file; nothing has to be registered."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def clips(self) -> list[ClipRef]:
        """The clips in a fixed order, without decoding any. Raises :class:`ClipError` when the data is not there."""

    @abstractmethod
    def read(self, ref: ClipRef, view: View) -> Clip:
        """Decode one clip as ``view`` asks; raises :class:`ClipError` in one line when it cannot be read."""

    def __iter__(self) -> Iterator[ClipRef]:
        return iter(self.clips())
