"""Procedural clips with known motion, from photographs that scikit-image carries: the data set that is always there.

A scene is a window onto a photograph, sampled with Pillow's antialiased bicubic filter at fractions of a pixel, so that
motion is exact and smooth. All lengths are fractions of the side of the picture: the same scene is rendered at every
size, and the notes of a clip give its motion in pixels of that size.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from avtbench.datasets.contract import Clip, ClipError, ClipRef, VideoDataset, View
from avtbench.datasets.motion import motion
from avtbench.datasets.video import check_view

PHOTOGRAPHS = (
    "astronaut", "coffee", "chelsea", "motorcycle_left", "camera", "grass", "coins", "brick", "ihc", "moon",
)  # fmt: skip
"""Lossless files inside scikit-image's wheel, so that the pixels do not depend on a JPEG library."""

KINDS = ("static", "pan", "zoom", "sprite", "cut", "noise")

FPS = 24.0
SIZE, FRAMES = 256, 33
"""Side and length rendered where a view asks for the original extent, or for all frames."""

CUT_EVERY = 9
"""Frames per shot: two shots in a clip of 17."""


@dataclass(frozen=True)
class Scene:
    """What is filmed. Lengths are fractions of the picture's side, per frame where they are speeds."""

    name: str
    kind: str
    photo: str
    other: str
    """Photograph of the sprite, or of every second shot."""
    speed: float
    """Of the pan or the sprite."""
    angle: float
    """Direction in radians."""
    zoom: float
    """Factor per frame."""
    noise: float
    """Standard deviation of the sensor noise, in 8-bit steps."""
    view: float
    """Side of the window as a fraction of the photograph's shorter side."""
    x: float
    y: float
    """Top left corner of the window at frame 0, in units of its side."""
    seed: tuple[int, int]


class Synthetic(VideoDataset):
    """Static, pan, zoom, sprite over a still background, cut, sensor noise, in turn; slower and faster ones.

    clips: how many. seed: chooses photographs, windows, directions; the same seed gives the same pixels.
    Any ``view`` is honoured by rendering: frame ``start + i * stride`` of a scene that never ends.
    """

    name = "synthetic"
    summary = "procedural clips with known motion from scikit-image's photographs (needs no download)"
    requires = ("skimage",)

    def __init__(self, clips: int = 12, seed: int = 0):
        if clips < 1:
            raise ClipError(f"data set synthetic: clips is {clips}, expected 1 or more")
        self.scenes = {scene.name: scene for scene in _scenes(clips, seed)}

    def clips(self) -> list[ClipRef]:
        return [ClipRef(s.name, self.name, s.photo) for s in self.scenes.values()]

    def read(self, ref: ClipRef, view: View) -> Clip:
        scene = self.scenes.get(ref.name)
        if scene is None:
            raise ClipError(f"data set synthetic: has no clip {ref.name}, expected one of {', '.join(self.scenes)}")
        check_view(view)
        size, frames = view.size or SIZE, view.frames or FRAMES
        moments = range(view.start, view.start + frames * view.stride, view.stride)
        video = np.stack([render(scene, t, size) for t in moments])
        notes: dict[str, float | str] = {"kind": scene.kind, "photo": scene.photo, **_truth(scene, size, view.stride)}
        moved = motion(video)
        if moved is not None:
            notes["motion"] = moved
        return Clip(ref.name, self.name, video, FPS / view.stride, scene.photo, notes)


def _scenes(clips: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    photos = [PHOTOGRAPHS[i] for i in rng.permutation(len(PHOTOGRAPHS))]
    scenes = []
    for i in range(clips):
        view = float(rng.uniform(0.6, 0.9))
        inside = 1 / view - 1  # so far the window can be moved without leaving the photograph
        kind, turn = KINDS[i % len(KINDS)], i // len(KINDS)
        photo = photos[i % len(photos)]
        vivid = [p for p in PHOTOGRAPHS[:4] if p != photo]
        speed = (0.003, 0.02)[turn % 2] * rng.uniform(0.75, 1.25)
        scenes.append(
            Scene(
                name=f"{kind}-{turn}",
                kind=kind,
                photo=photo,
                other=vivid[int(rng.integers(len(vivid)))],
                speed=float(speed) if kind in ("pan", "sprite") else 0.0,
                angle=float(rng.uniform(0, 2 * math.pi)),
                zoom=(1.004, 1.016)[turn % 2] if kind == "zoom" else 1.0,
                noise=(2.0, 6.0)[turn % 2] if kind == "noise" else 0.0,
                view=view,
                x=float(rng.uniform(0, inside)),
                y=float(rng.uniform(0, inside)),
                seed=(seed, i),
            )
        )
    return scenes


def _truth(scene: Scene, size: int, stride: int) -> dict[str, float | str]:
    """The known motion, in pixels of the delivered clip and per delivered frame."""
    if scene.kind in ("pan", "sprite"):
        return {"pixels_per_frame": scene.speed * size * stride}
    if scene.kind == "zoom":
        return {"zoom_per_frame": scene.zoom**stride}
    if scene.kind == "cut":
        return {"cut_every": CUT_EVERY / stride}
    if scene.kind == "noise":
        return {"noise_sigma": scene.noise}
    return {}


def render(scene: Scene, moment: int, size: int) -> np.ndarray:
    """Frame number ``moment`` of a scene, uint8 ``[size, size, 3]``."""
    travel = scene.speed * moment
    along = (math.cos(scene.angle), math.sin(scene.angle))
    if scene.kind == "pan":
        return _window(scene.photo, size, scene.view, scene.x + travel * along[0], scene.y + travel * along[1])
    if scene.kind == "zoom":
        # in, and out again after one octave
        octaves = _bounce(moment * math.log2(scene.zoom), 1.0)
        shrink = 2.0**-octaves
        centre = (1 - shrink) / 2
        return _window(scene.photo, size, scene.view * shrink, (scene.x + centre) / shrink, (scene.y + centre) / shrink)
    if scene.kind == "sprite":
        return _sprite(scene, travel, along, size)
    if scene.kind == "cut" and moment // CUT_EVERY % 2:
        return _window(scene.other, size, scene.view, scene.x, scene.y)
    still = _window(scene.photo, size, scene.view, scene.x, scene.y)
    if scene.noise:
        rng = np.random.default_rng([*scene.seed, moment])
        grain = rng.normal(0.0, scene.noise, still.shape)
        return np.floor(still + grain + 0.5).clip(0, 255).astype(np.uint8)
    return still


RADIUS = 0.18


def _sprite(scene: Scene, travel: float, along: tuple[float, float], size: int) -> np.ndarray:
    """A disc cut from another photograph that crosses a still one and turns back at the borders."""
    room = 1 - 2 * RADIUS
    cx = RADIUS + _bounce(room / 2 + travel * along[0], room)
    cy = RADIUS + _bounce(room / 2 + travel * along[1], room)
    ground = _window(scene.photo, size, scene.view, scene.x, scene.y)
    skin = _window(scene.other, size, scene.view, 1 - cx, 1 - cy)  # its texture moves with the disc
    at = (np.arange(size) + 0.5) / size
    distance = np.hypot(at[None, :] - cx, at[:, None] - cy)
    cover = ((RADIUS - distance) * size + 0.5).clip(0, 1)[..., None]
    return np.floor(ground * (1 - cover) + skin * cover + 0.5).astype(np.uint8)


def _bounce(way: float, room: float) -> float:
    """Position within ``[0, room]`` after going ``way`` and turning at both ends."""
    phase = way % (2 * room)
    return phase if phase <= room else 2 * room - phase


@lru_cache(maxsize=4)
def _window(photo: str, size: int, view: float, x: float, y: float) -> np.ndarray:
    """Through a square window with its corner at (x, y), in units of its side; photographs go on mirrored. Not to be
    written to: what does not move is resized once."""
    from PIL import Image

    canvas, height, width = _canvas(photo)
    side = view * min(height, width)
    left, top = (x * side) % (2 * width), (y * side) % (2 * height)
    box = (left, top, left + side, top + side)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC, box=box))


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _canvas(photo: str):  # type: ignore[no-untyped-def]
    """A photograph followed by its mirror image and itself again, both ways, and the size of one of them."""
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    path = Path(*(spec.submodule_search_locations or ())[:1], "data", f"{photo}.png") if spec else Path()
    if not path.is_file():
        raise ClipError(
            f"data set synthetic: the photograph {photo}.png is not in scikit-image's package, expected it at {path}; "
            "run: pip install --force-reinstall scikit-image"
        )
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    row = np.concatenate([pixels, pixels[:, ::-1], pixels], axis=1)
    return Image.fromarray(np.concatenate([row, row[::-1], row], axis=0)), height, width
