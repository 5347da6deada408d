"""A benchmark built from strings: tiny methods and data sets written to files inside the test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from avtbench.bench import spec as specs
from avtbench.bench.rows import Quality, Rate, Row, Status

TOY = """
    import torch
    from avtbench.methods.contract import Method, Tokens

    class Toy(Method):
        name = "toy"
        summary = "keeps a frame when it differs from the one before"
        family = "threshold"
        default_settings = (0.0, 20.0)

        weights = "none"

        def __init__(self, gain: float = 1.0):
            self.gain = gain

        @property
        def parameters(self):
            return {"gain": self.gain}

        def encode(self, video):
            return video.float() / 255

        def select(self, z, setting):
            moved = (z[1:] - z[:-1]).abs().mean((1, 2, 3)) * 255
            keep = torch.cat([torch.ones(1, dtype=torch.bool), moved > setting])
            return Tokens(z[keep].flatten(1) * self.gain, keep[:, None, None], tuple(z.shape[:3]))

        def decode(self, tokens):
            frames, height, width = tokens.video
            held = tokens.keep.flatten().cumsum(0) - 1
            return tokens.values.reshape(-1, height, width, 3)[held]
"""

TINY = """
    import numpy as np
    from avtbench.datasets.contract import Clip, ClipError, ClipRef, VideoDataset

    class Tiny(VideoDataset):
        name = "tiny"
        summary = "seeded noise that stands still for a while"

        def __init__(self, number: int = 3, unreadable: str = "", shift: int = 0):
            self.number, self.unreadable, self.shift = number, unreadable, shift

        def clips(self):
            return [ClipRef(f"clip-{i}", self.name) for i in range(self.number)]

        def read(self, ref, view):
            if ref.name == self.unreadable:
                raise ClipError(f"{ref.name}: found no video stream, expected an mp4; download it again")
            frames = np.random.default_rng(int(ref.name[5:])).integers(0, 200, (3, 32, 32, 3)) + self.shift
            return Clip(ref.name, self.name, frames.astype(np.uint8)[[0, 0, 1, 1, 2]])
"""


@pytest.fixture
def toy() -> str:
    """Source of a method without networks."""
    return TOY


@pytest.fixture
def tiny() -> str:
    """Source of a data set without files."""
    return TINY


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write("toy.py", TOY, old, new)`` puts a dedented text into a file, with one text replaced by another."""

    def put(name: str, text: str, old: str = "", new: str = "") -> Path:
        assert old in text
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text.replace(old, new) if old else text))
        return path

    return put


@pytest.fixture
def tiny_run(write: Callable[..., Path]) -> Callable[..., specs.RunSpec]:
    """``tiny_run("seed=1", toy=path)``: the toy method on the tiny data set, with overrides."""
    dataset = write("tiny.py", TINY)
    default = write("toy.py", TOY)

    def make(*sets: str, toy: Path = default) -> specs.RunSpec:
        base = specs.RunSpec(name="test", datasets=[{"name": str(dataset)}], lpips=[], previews=0)  # type: ignore[list-item]
        return specs.override(base, [str(toy)], sets=sets)

    return make


@pytest.fixture
def row() -> Callable[..., Row]:
    """``row("k1", setting=0.5, status=Status.DONE)``: a point of the quality pass under that key."""

    def make(key: str, setting: float = 0.5, status: Status = Status.DONE) -> Row:
        done = status is Status.DONE
        rate = Rate(kept=1, total=4, payload_bits=256, mask_bits=4, mask_bits_coded=4)
        quality = Quality(
            profile="tokenbench/1",
            frame_pixels=300,
            frame_sse=[300, 300],
            frame_sse_float=[299.5, 300.5],
            frame_ssim=[1, 0.5],
        )
        return Row(
            key=key, status=status, reason="" if done else "no luck", pass_="quality", method="toy", tier="shared",
            family="threshold", weights="none", setting=setting, dataset="tiny", clip="a",
            frames=2, height=10, width=10, environment="e1", seconds=2.0, rate=rate if done else None,
            quality=quality if done else None,
        )  # fmt: skip

    return make
