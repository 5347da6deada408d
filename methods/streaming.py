"""A video of any length, chunk by chunk: the three verbs of a method once more, each with a state of its own.

    latents, encoding = method.encode_chunk(video, encoding)                # sender
    tokens, selecting = method.select_chunk(latents, setting, selecting)    # sender
    video, decoding   = method.decode_chunk(tokens, decoding)               # receiver, from tokens and its own state

A state is None before the first chunk. It is never changed, so that one may be used again (another setting, another
try); its size does not depend on how much went by; it never crosses from sender to receiver. Chunk lengths follow from
:meth:`StreamingMethod.chunking`; only the last chunk may have any other length, and ends the stream.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError, Method, Tokens

CHUNK = 16
"""Frames of a chunk where nobody asks for another number."""


@dataclass(frozen=True)
class Caches:
    """What is remembered from one chunk to the next, after LIT's streaming variant; a tokeniser's own state always is.

    selection: C_sel, the sender's: the last kept latent of every position. Without it every chunk is selected like a
               clip of its own, its first latent frame kept whole.
    fill:      C_fill, the receiver's: recent filled latents. Without it the receiver begins every chunk with nothing,
               and a position that is dropped there has no value to go by until it is kept again.
    """

    selection: bool = True
    fill: bool = True

    def __str__(self) -> str:
        held = [name for name, on in (("C_sel", self.selection), ("C_fill", self.fill)) if on]
        return " + ".join(held) or "none"


@dataclass(frozen=True)
class EncodingState:
    """The tokeniser's encoder between two chunks; ``ended``: the last chunk was padded in time, no other may follow."""

    tokenizer: Any
    ended: bool


@dataclass(frozen=True)
class FillState:
    """C_fill. ``recent``: ``[C, k, h, w]``, the latest latent frames as they were filled; in the newest every position
    has its last kept value."""

    recent: Tensor

    @property
    def held(self) -> Tensor:
        """Last kept value of every position, ``[C, h, w]``."""
        return self.recent[:, -1]


@dataclass(frozen=True)
class DecodingState:
    """The tokeniser's decoder and the filler between two chunks."""

    tokenizer: Any
    fill: FillState | None


class StreamingMethod(Method):
    """A method whose video may come in chunks."""

    @property
    def no_stream(self) -> str | None:
        """Reason why this method, as it was built, takes a clip only as a whole, or None."""
        return None

    @property
    def step(self) -> int:
        """Frames of one latent frame; later chunks hold a multiple of it."""
        return 1

    @property
    def lead(self) -> int:
        """Frames that the first chunk has more, because the first frame has a latent frame of its own."""
        return 0

    def chunking(self, chunk: int) -> tuple[int, int]:
        """Frames of the first and of every later chunk when ``chunk`` are asked for."""
        if chunk < 1 or chunk % self.step:
            raise ContractError(f"{self.name}: chunk is {chunk} frames, expected a multiple of {self.step}")
        return self.lead + chunk, chunk

    @abstractmethod
    def encode_chunk(self, video: Tensor, state: Any | None) -> tuple[Any, Any]:
        """uint8 ``[n, H, W, 3]``, the next frames, -> what ``select_chunk`` needs, and the state to carry on."""

    @abstractmethod
    def select_chunk(self, latents: Any, setting: float, state: Any | None) -> tuple[Tokens, Any]:
        """The chunk's tokens (``Tokens.video`` is the chunk's own extent), and the state to carry on."""

    @abstractmethod
    def decode_chunk(self, tokens: Tokens, state: Any | None) -> tuple[Tensor, Any]:
        """float32 ``[n, H, W, 3]`` in [0, 1] (not necessarily clamped), and the state to carry on."""

    def forget_fill(self, state: Any) -> Any:
        """A receiver's state without C_fill; a method that has no such cache returns it as it is."""
        return state

    def stream(self, video: Tensor, setting: float) -> Iterator[Tokens | Tensor]:
        """A whole clip in chunks of :data:`CHUNK` frames: the tokens of each chunk, then its frames."""
        return stream(self, split(video, *self.chunking(CHUNK)), setting)


def stream(
    method: StreamingMethod, chunks: Iterable[Tensor], setting: float, caches: Caches = Caches()
) -> Iterator[Tokens | Tensor]:
    """Sender and receiver in one place: for each chunk ``uint8 [n, H, W, 3]`` its :class:`Tokens`, then its frames."""
    encoding = selecting = decoding = None
    for chunk in chunks:
        with method.stage("encode"):
            latents, encoding = method.encode_chunk(chunk, encoding)
        with method.stage("select"):
            tokens, selecting = method.select_chunk(latents, setting, selecting if caches.selection else None)
        yield tokens
        with method.stage("decode"):
            frames, decoding = method.decode_chunk(tokens, decoding)
        yield frames
        if not caches.fill:
            decoding = method.forget_fill(decoding)


def split(frames: Iterable[Tensor], first: int, later: int) -> Iterator[Tensor]:
    """Gather single frames ``[H, W, 3]`` (a clip is an iterable of them) into chunks ``[n, H, W, 3]``; the last may be
    shorter."""
    gathered: list[Tensor] = []
    due = first
    for frame in frames:
        gathered.append(frame)
        if len(gathered) == due:
            yield torch.stack(gathered)
            gathered, due = [], later
    if gathered:
        yield torch.stack(gathered)
