"""What a mask costs once a real entropy coder has packed it: an adaptive binary range coder that a test decodes.

Bits are coded one by one with 32-bit integer arithmetic and probabilities that both sides learn while they go
(Krichevsky-Trofimov counts per context; Krichevsky & Trofimov 1981). The carry is propagated as LZMA's range coder
does. Contexts are what a receiver already knows:

* position masks ``[t, h, w]``: the same place in the previous latent frame, and the left, upper and upper right
  neighbours (16 contexts), as JBIG does for bi-level images;
* prefix masks ``[blocks, M]``: the count of every block, most significant bit first, each bit in the context of the
  bits above it (a binary tree), so that frequent counts get short.

Why not a library: zlib and lzma know neither rows nor frames and cost more than the plain bits on masks of a few
hundred positions; ``constriction`` has no Linux wheel for aarch64. Integer counts also make the size the same on
every machine. A mask that is pure noise costs slightly more here than one bit per position; that is what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

_TOP = 1 << 24
_FULL = (1 << 32) - 1


class _BitCoder(Protocol):
    """Codes one bit whose chance of being 0 is ``zeros / seen``; returns the bit."""

    def bit(self, bit: int, zeros: int, seen: int) -> int: ...


class _Encoder:
    def __init__(self) -> None:
        self.low, self.range, self.bytes = 0, _FULL, bytearray()

    def bit(self, bit: int, zeros: int, seen: int) -> int:
        bound = self.range * zeros // seen
        if bit:
            self.low += bound
            self.range -= bound
            if self.low > _FULL:
                self._carry()
        else:
            self.range = bound
        while self.range < _TOP:
            self.bytes.append(self.low >> 24)
            self.low = (self.low << 8) & _FULL
            self.range <<= 8
        return bit

    def _carry(self) -> None:
        self.low &= _FULL
        place = len(self.bytes) - 1
        while self.bytes[place] == 255:
            self.bytes[place] = 0
            place -= 1
        self.bytes[place] += 1

    def finish(self) -> bytes:
        """The shortest bytes that lie in the final interval; the decoder reads zeros after the end."""
        for kept in range(5):
            step = 1 << (32 - 8 * kept)
            value = -(-self.low // step) * step
            if value < self.low + self.range:
                break
        self.low = value
        if self.low > _FULL:
            self._carry()
        self.bytes += self.low.to_bytes(4, "big")
        return bytes(self.bytes).rstrip(b"\0")


class _Decoder:
    def __init__(self, blob: bytes) -> None:
        self.blob, self.place, self.range, self.code = blob, 0, _FULL, 0
        for _ in range(4):
            self.code = self.code << 8 | self._next()

    def _next(self) -> int:
        self.place += 1
        return self.blob[self.place - 1] if self.place <= len(self.blob) else 0

    def bit(self, _: int, zeros: int, seen: int) -> int:
        bound = self.range * zeros // seen
        bit = int(self.code >= bound)
        if bit:
            self.code -= bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < _TOP:
            self.code = self.code << 8 | self._next()
            self.range <<= 8
        return bit


class _Contexts:
    """Counts in halves, so that both start at 1/2; halved before they outgrow the coder's 24 bits."""

    def __init__(self, coder: _BitCoder) -> None:
        self.coder = coder
        self.counts: dict[int, list[int]] = {}

    def bit(self, bit: int, context: int) -> int:
        counts = self.counts.setdefault(context, [1, 1])
        bit = self.coder.bit(bit, counts[0], counts[0] + counts[1])
        counts[bit] += 2
        if counts[bit] > 1 << 16:
            counts[:] = [count >> 1 | 1 for count in counts]
        return bit


def _positions(contexts: _Contexts, shape: tuple[int, ...], known: Callable[[int, int, int], int]) -> np.ndarray:
    """Walk a ``[t, h, w]`` mask in coding order; ``known`` gives the bit to the encoder, anything to the decoder."""
    t, h, w = shape
    field = np.zeros((t + 1, h + 1, w + 2), np.uint8).tolist()  # a border of zeros before, above, left and right
    for i in range(1, t + 1):
        for j in range(1, h + 1):
            before, above, row = field[i - 1][j], field[i][j - 1], field[i][j]
            for k in range(1, w + 1):
                context = before[k] << 3 | row[k - 1] << 2 | above[k] << 1 | above[k + 1]
                row[k] = contexts.bit(known(i - 1, j - 1, k - 1), context)
    return np.asarray(field, bool)[1:, 1:, 1:-1]


def count_bits(length: int) -> int:
    """Bits that tell one count of 0..length apart: ``ceil(log2(length + 1))``."""
    return int(length).bit_length()


def _counts(contexts: _Contexts, blocks: int, width: int, known: Callable[[int], int]) -> list[int]:
    found = []
    for block in range(blocks):
        count, node = known(block), 1
        for place in reversed(range(width)):
            node = node << 1 | contexts.bit(count >> place & 1, node)
        found.append(node - (1 << width))
    return found


def encode_positions(keep: np.ndarray) -> bytes:
    """bool ``[t, h, w]`` -> bytes. The receiver knows the shape."""
    encoder = _Encoder()
    bits = keep.astype(int).tolist()
    _positions(_Contexts(encoder), keep.shape, lambda i, j, k: bits[i][j][k])
    return encoder.finish()


def decode_positions(blob: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Inverse of :func:`encode_positions`."""
    return _positions(_Contexts(_Decoder(blob)), shape, lambda i, j, k: 0)


def encode_prefix(keep: np.ndarray) -> bytes:
    """bool ``[blocks, M]``, rows of True followed by False -> bytes. The receiver knows the shape."""
    encoder = _Encoder()
    counts = keep.sum(axis=1).tolist()
    _counts(_Contexts(encoder), len(counts), count_bits(keep.shape[1]), lambda block: counts[block])
    return encoder.finish()


def decode_prefix(blob: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of :func:`encode_prefix`."""
    counts = _counts(_Contexts(_Decoder(blob)), shape[0], count_bits(shape[1]), lambda block: 0)
    return np.arange(shape[1])[None, :] < np.asarray(counts, int).reshape(-1, 1)
