"""Running a method chunk by chunk: what each chunk kept, how well its frames came back, how long both sides took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avtbench.bench.metrics.quality import to_uint8
from avtbench.bench.timing.clock import synchroniser
from avtbench.methods.contract import Tokens
from avtbench.methods.streaming import Caches, StreamingMethod, stream


@dataclass(frozen=True)
class Chunk:
    """One chunk that went through, its reconstruction uint8 ``[n, H, W, 3]``.

    sse:    per frame, the squared error summed over uint8 values, as ``tokenbench/1`` has it. jumps: the same of the
            change of that error since the frame before, what flickers (0 in the first frame of a stream).
    values: of a frame, H x W x 3. encode_side, decode_side: seconds. read: seconds, outside both, until the frames were
            there, on the device.
    """

    reconstruction: Tensor
    kept: int
    total: int
    sse: list[int]
    jumps: list[int]
    values: int
    encode_side: float
    decode_side: float
    read: float = 0.0


@torch.inference_mode()
def run(
    method: StreamingMethod,
    chunks: Iterable[Tensor],
    setting: float,
    caches: Caches = Caches(),
    device: torch.device = torch.device("cpu"),
    nanoseconds: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[Chunk]:
    """Send chunks ``uint8 [n, H, W, 3]`` through a method, one in memory at a time."""
    synchronise = synchroniser(device)
    original, asked, began, before = torch.empty(0), 0, 0, torch.empty(0)

    def fed() -> Iterator[Tensor]:
        nonlocal original, asked, began
        asked = nanoseconds()
        for chunk in chunks:
            original = chunk.to(device)
            synchronise()
            began = nanoseconds()
            yield original
            asked = nanoseconds()

    parts = stream(method, fed(), setting, caches)
    for tokens in parts:
        assert isinstance(tokens, Tokens)
        synchronise()
        between = nanoseconds()
        frames = next(parts)
        assert isinstance(frames, Tensor)
        synchronise()
        ended = nanoseconds()
        rebuilt = to_uint8(frames)
        error = rebuilt.int() - original.int()
        change = error.diff(dim=0, prepend=before if before.numel() else error[:1])
        before = error[-1:].clone()
        yield Chunk(
            rebuilt, tokens.kept, tokens.total, _squared(error), _squared(change), original[0].numel(),
            (between - began) * 1e-9, (ended - between) * 1e-9, (began - asked) * 1e-9,
        )  # fmt: skip


def _squared(error: Tensor) -> list[int]:
    return error.square().flatten(1).sum(1, dtype=torch.int64).tolist()


@dataclass
class Error:
    """Squared error summed over some frames."""

    sse: int = 0
    frames: int = 0

    def add(self, sse: list[int]) -> None:
        self.sse += sum(sse)
        self.frames += len(sse)

    def psnr(self, values: int) -> float:
        """dB over all these frames with ``values`` each; inf where nothing is lost, nan where there is no frame."""
        if not self.frames:
            return math.nan
        return 10 * math.log10(255**2 * values * self.frames / self.sse) if self.sse else math.inf

    def rms(self, values: int) -> float:
        """Root mean square, in levels of 0 to 255."""
        return math.sqrt(self.sse / (values * self.frames)) if self.frames else math.nan


@dataclass
class Totals:
    """What went through so far, in a fixed amount of memory.

    border: error in the first ``step`` frames of every chunk but the first, those of the first latent frame after a
    border; inside: in the other frames of these chunks. Both are of different frames, so that they differ by content
    as well: :mod:`avtbench.bench.seams` compares the same frames.
    """

    step: int
    chunks: int = 0
    kept: int = 0
    total: int = 0
    values: int = 0
    whole: Error = field(default_factory=Error)
    border: Error = field(default_factory=Error)
    inside: Error = field(default_factory=Error)
    first_chunk: float = 0.0
    encode_side: float = 0.0
    decode_side: float = 0.0
    read: float = 0.0

    def add(self, chunk: Chunk) -> None:
        if self.chunks:
            self.border.add(chunk.sse[: self.step])
            self.inside.add(chunk.sse[self.step :])
        else:
            self.values, self.first_chunk = chunk.values, chunk.encode_side + chunk.decode_side
        self.whole.add(chunk.sse)
        self.chunks += 1
        self.kept += chunk.kept
        self.total += chunk.total
        self.encode_side += chunk.encode_side
        self.decode_side += chunk.decode_side
        self.read += chunk.read
