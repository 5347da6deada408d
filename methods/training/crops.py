"""Training crops, drawn by (seed, step) alone, so that a resumed run sees what an unbroken one saw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from avtbench.methods.contract import ContractError


@dataclass(frozen=True)
class TrainingClip:
    """A decoded clip. ``video``: uint8 ``[T, H, W, 3]``; ``digest``: of its pixels; ``source``: its recording."""

    name: str
    digest: str
    video: np.ndarray
    source: str = ""


@dataclass(frozen=True)
class CropSampler:
    """Random crops of ``frames`` x ``size`` x ``size``, every recording equally likely.

    Augmentation: time stride 1 or 2, reversal, horizontal flip, and, with probability ``pan``, a procedural clip: a
    window that moves at a constant velocity over one still frame (global motion, which small training sets lack).
    ``judder``: probability that a crop repeats frames in the middle of motion, as videos do whose frame rate was
    converted (the recording shown at 0.4 to 0.95 of its rate) or that lost frames (each replaced by the one before).
    ``codec``: probability that a crop goes through H.264 at a constant rate factor of 18 to 34: resized recordings have
    lost the skipped blocks and quantisation that videos have at their own size.
    ``candidates``: crops drawn for each one that is taken, the one that changes most in space and time; above 1 it
    turns training towards detail and motion and away from the still screens that recordings are full of.
    """

    clips: Sequence[TrainingClip]
    frames: int
    size: int
    batch: int
    seed: int = 0
    pan: float = 0.2
    candidates: int = 1
    judder: float = 0.0
    codec: float = 0.0

    def __post_init__(self) -> None:
        small = [c.name for c in self.clips if min(c.video.shape[1:3]) < self.size]
        if small or not self.clips:
            raise ContractError(
                f"{len(self.clips)} training clips, of which {small[:3]} are smaller than the crop of {self.size} px; "
                "give larger clips or a smaller --crop"
            )

    @cached_property
    def _recordings(self) -> list[list[TrainingClip]]:
        groups: dict[str, list[TrainingClip]] = {}
        for clip in self.clips:
            groups.setdefault(clip.source or clip.name, []).append(clip)
        return list(groups.values())

    def describe(self) -> dict[str, Any]:
        """For the training card."""
        return {"crop": [self.frames, self.size, self.size], "judder": self.judder, "codec": self.codec}

    def sample(self, step: int) -> Tensor:
        """uint8 ``[B, T, size, size, 3]`` of that step."""
        rng = np.random.default_rng((self.seed, step))
        return torch.from_numpy(np.stack([self._busiest(rng) for _ in range(self.batch)]))

    def _busiest(self, rng: np.random.Generator) -> np.ndarray:
        crops = [self._crop(rng) for _ in range(self.candidates)]
        return crops[0] if len(crops) == 1 else max(crops, key=_busyness)

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        windows = self._recordings[rng.integers(len(self._recordings))]
        video = windows[rng.integers(len(windows))].video
        total, height, width = video.shape[:3]
        y, x = rng.integers(height - self.size + 1), rng.integers(width - self.size + 1)
        if rng.random() < self.pan:
            frame = video[rng.integers(total)]
            speed = rng.uniform(-6, 6, 2)
            at = np.rint([y, x] + np.arange(self.frames)[:, None] * speed).astype(int)
            at = at.clip(0, [height - self.size, width - self.size])
            crop = np.stack([frame[v : v + self.size, u : u + self.size] for v, u in at])
        else:
            stride = int(rng.integers(1, 3))
            first = rng.integers(max(total - (self.frames - 1) * stride, 1))
            index = np.minimum(first + stride * np.arange(self.frames), total - 1)
            crop = video[index, y : y + self.size, x : x + self.size]
        if rng.random() < 0.5:
            crop = crop[::-1]
        if rng.random() < 0.5:
            crop = crop[:, :, ::-1]
        if self.judder and rng.random() < self.judder:
            crop = crop[_repeating(self.frames, rng)]
        if self.codec and rng.random() < self.codec:
            crop = recompressed(crop, int(rng.integers(18, 35)))
        return np.ascontiguousarray(crop)


def recompressed(crop: np.ndarray, rate_factor: int) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` after H.264 (4:2:0, even sides) at a constant rate factor, 0 (best) to 51."""
    frames, height, width = crop.shape[:3]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": str(rate_factor), "preset": "veryfast", "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in crop:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])[:frames]


def _repeating(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Which frame is shown at each of ``frames`` instants of a video that repeats some."""
    if rng.random() < 0.5:
        return np.floor(rng.random() + np.arange(frames) * rng.uniform(0.4, 0.95)).astype(int)
    lost = rng.random(frames) < rng.uniform(0.1, 0.4)
    return np.maximum.accumulate(np.where(lost, 0, np.arange(frames)))


def _busyness(crop: np.ndarray) -> float:
    """Mean absolute change between frames plus that between neighbours in a row, on every second or fourth sample."""
    in_time = np.abs(np.diff(crop[::2, ::2, ::2].astype(np.int16), axis=0)).mean()
    in_space = np.abs(np.diff(crop[::4].astype(np.int16), axis=2)).mean()
    return float(in_time + in_space)
