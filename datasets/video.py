"""Reading and writing videos: files through PyAV, folders of frames through Pillow, the same resampling for both.

How a frame is made, so that a clip has the same digest everywhere: decode; convert to 8-bit RGB (swscale, bicubic
chroma, bit-exact flags; the matrix and range the stream declares, BT.601 where it declares none; no tone mapping);
turn as the rotation flag says; with ``view.size`` take the centred square of the shorter side and resample it with
Pillow's bicubic filter, whose support grows with the reduction (antialiased); without it drop the last row or column
of odd sides. Time stamps are not used: frames count in display order, whatever the rate does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avtbench.datasets.contract import ClipError, View

if TYPE_CHECKING:
    from PIL import Image

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv", ".y4m",
    ".gif",
)  # fmt: skip
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_EXACT = 4 | 0x40000 | 0x80000
"""swscale's BICUBIC, ACCURATE_RND and BITEXACT: the same bytes on every processor."""


@dataclass(frozen=True)
class Footage:
    """What was read of one recording. ``video``: uint8 ``[T, H, W, 3]``; ``fps`` after striding, None if unknown.

    ``height`` and ``width`` are those of the recording as displayed, before cropping and resizing.
    """

    video: np.ndarray
    fps: float | None
    height: int
    width: int


class Reel:
    """A recording, frame by frame, one in memory at a time; each ``uint8 [H, W, 3]``, cropped and resized already.

    To be gone through once. ``fps`` after striding, None if unknown; ``extent``: (height, width) of the recording as
    displayed, once a frame was read.
    """

    def __init__(self, path: Path, frames: Iterable[_Frame], view: View, fps: float | None):
        self.path, self.view = path, view
        self.fps = fps / view.stride if fps else None
        self.extent: tuple[int, int] | None = None
        self._frames = frames

    def __iter__(self) -> Iterator[np.ndarray]:
        view, seen, taken = self.view, 0, 0
        for index, frame in enumerate(self._frames):
            seen = index + 1
            if index < view.start or (index - view.start) % view.stride:
                continue
            pixels = frame.rgb()
            if self.extent not in (None, pixels.shape[:2]):
                raise ClipError(
                    f"{self.path}: frame {index} is {_size(pixels.shape)}, the frames before are {_size(self.extent)}; "
                    "expected one size throughout; re-encode the recording"
                )
            self.extent = (pixels.shape[0], pixels.shape[1])
            yield fit(pixels, view.size, view.square)
            taken += 1
            if taken == view.frames:
                return
        if taken:
            return
        if seen:
            raise ClipError(
                f"{self.path}: has {seen} frame{'s' * (seen > 1)}, expected more than {view.start} to start there; "
                "lower start or windows"
            )
        raise ClipError(f"{self.path}: holds no frame, expected at least one; remove it or fetch it again")


def read(path: Path, view: View, fps: float | None = None) -> Footage:
    """Read a video file, or a folder of frames, as ``view`` asks.

    ``fps``: the rate of a folder of frames, which does not say its own. Only the frames that are needed are converted
    and kept, each already resampled, so that memory follows the size asked for. Raises :class:`ClipError`.
    """
    with opened(path, view, fps) as reel:
        video = np.stack(list(reel))
    assert reel.extent is not None
    return Footage(video, reel.fps, *reel.extent)


@contextmanager
def opened(path: Path, view: View, fps: float | None = None) -> Iterator[Reel]:
    """The same frame by frame, for recordings that memory does not hold; they may turn out damaged while being read."""
    check_view(view)
    if path.is_dir():
        yield Reel(path, _frames_of_folder(path), view, fps)
        return
    if not path.is_file():
        raise ClipError(f"{path}: there is no such file; check the path, or fetch the data set again")
    with _opened_file(path) as (frames, rate):
        yield Reel(path, frames, view, rate)


def check_view(view: View) -> None:
    """Raise :class:`ClipError` for a size, length, start or stride that no clip can have."""
    for knob, least in (("size", 1), ("frames", 1), ("start", 0), ("stride", 1)):
        value = getattr(view, knob)
        if value is not None and value < least:
            raise ClipError(f"view.{knob} is {value}, expected {least} or more; change {knob} in the preset")


class _Frame:
    """A frame that is turned into pixels only when it is wanted."""

    def rgb(self) -> np.ndarray:
        raise NotImplementedError


def _size(extent: Any) -> str:
    return f"{extent[1]}x{extent[0]}"


def fit(pixels: np.ndarray, size: int | None, square: bool = True) -> np.ndarray:
    """Bring a frame ``uint8 [H, W, 3]`` to ``[size, size, 3]`` (resize the shorter side, centre crop).

    None: the frame itself, cropped to even sides. Resizing and cropping are one antialiased bicubic resampling of the
    centred square, so the scale is exactly ``size / min(H, W)`` on both axes. ``square=False`` resamples the whole
    frame instead, its longer side rounded to even.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    if size is None:
        return np.ascontiguousarray(pixels[: height - height % 2 or 1, : width - width % 2 or 1])
    side = min(height, width)
    if (height, width) == (size, size):
        return np.ascontiguousarray(pixels)
    if not square:
        to = (round(width * size / side / 2) * 2, round(height * size / side / 2) * 2)
        return np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.BICUBIC))
    x, y = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side)))


# --- video files -----------------------------------------------------------------------------------------------------


class _Decoded(_Frame):
    def __init__(self, frame: Any, path: Path):
        self.frame, self.path = frame, path

    def rgb(self) -> np.ndarray:
        import av

        try:
            pixels = self.frame.to_ndarray(format="rgb24", interpolation=_EXACT)
        except (av.error.FFmpegError, ValueError) as error:
            raise ClipError(
                f"{self.path}: a frame in pixel format {self.frame.format.name} cannot be converted to RGB "
                f"({_said(error)}); re-encode it, for instance as yuv420p"
            ) from error
        return np.rot90(pixels, round(getattr(self.frame, "rotation", 0) / 90))


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())


@contextmanager
def _opened_file(path: Path) -> Iterator[tuple[Iterator[_Frame], float | None]]:
    import av

    try:
        # file only: a playlist that poses as a video must not reach for the network
        container = av.open(os.path.abspath(path), container_options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ClipError(
            f"{path}: cannot be opened as a video ({_said(error)}; {path.stat().st_size} bytes), expected a file "
            "that ffmpeg reads, such as mp4; remove it or fetch it again"
        ) from error
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None:
            kinds = sorted({str(s.type) for s in container.streams}) or ["none"]
            raise ClipError(
                f"{path}: has no video stream (streams: {', '.join(kinds)}), expected one; remove it from the data set"
            )
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        yield _frames_of_stream(path, container, stream), float(rate) if rate else None


_ATTACHED_PICTURE = 0x400
"""ffmpeg's disposition flag of a cover picture in a sound file."""


def _is_cover(stream: Any) -> bool:
    flags = getattr(stream, "disposition", 0)  # an enum.Flag or an enum.IntFlag, by PyAV's version
    return bool(getattr(flags, "value", flags) & _ATTACHED_PICTURE)


def _frames_of_stream(path: Path, container: Any, stream: Any) -> Iterator[_Frame]:
    """Frames in display order; raises where the file turns out damaged before the caller has enough."""
    import av

    count, damage = 0, ""
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                damage = "a packet is cut off"
            for frame in stream.codec_context.decode(None if damage else packet):
                if frame.is_corrupt:
                    damage = damage or "a frame is corrupt"
                    break
                count += 1
                yield _Decoded(frame, path)
            if damage:
                break
    except av.error.FFmpegError as error:
        damage = _said(error)
    damage = damage or _missing_bytes(path)
    if damage:
        raise ClipError(
            f"{path}: damaged or cut short after {count} frame{'s' * (count != 1)} ({damage}), expected a whole file; "
            "fetch it again, or ask for fewer frames"
        )


def _missing_bytes(path: Path) -> str:
    """What an mp4/mov (ISO 14496-12 boxes) or avi (RIFF) file lacks of the length it declares; empty if nothing."""
    actual = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little") + 8
            return f"{actual} of {declared} bytes are there" if actual < declared else ""
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            return ""
        at = 0
        while at + 8 <= actual:
            file.seek(at)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length == 0:
                return ""
            if length < 8:
                return f"box at byte {at} declares {length} bytes"
            at += length
    return f"{actual} of {at} bytes are there" if actual < at else ""


# --- folders of frames -----------------------------------------------------------------------------------------------


class _Picture(_Frame):
    def __init__(self, path: Path):
        self.path = path

    def rgb(self) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(self.path) as image:
                return _eight_bit_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ClipError(
                f"{self.path}: cannot be read as an image ({_said(error)}), expected a whole jpg, png or the like; "
                "replace this frame"
            ) from error


def _eight_bit_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to 255, not scale it
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that counts: frame_2 before frame_10."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", path.name) if p]


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder in order; hidden files are left out."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES and not p.name.startswith(".")), key=natural
    )


def _frames_of_folder(folder: Path) -> Iterator[_Frame]:
    return (_Picture(path) for path in frame_files(folder))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_lossless(path: Path, video: np.ndarray, fps: float = 24.0) -> None:
    """Write ``uint8 [T, H, W, 3]`` so that :func:`read` gives back the same bytes (H.264 in RGB, quantiser 0)."""
    _write(path, video, fps, "libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})


def write_h264(path: Path, video: np.ndarray, fps: float = 24.0, qp: int | None = None) -> None:
    """Write ``uint8 [T, H, W, 3]`` as the mp4 that the field publishes: H.264, yuv420p (yuv444p for odd sides).

    ``qp``: constant quantiser; None chooses as mediapy does, whose ``write_video`` TokenBench and Cosmos call: 20 up to
    640 x 480 pixels, 28 above.
    """
    _, height, width, _ = video.shape
    _write(path, video, fps, *_published(height, width, qp))


def _published(height: int, width: int, qp: int | None = None) -> tuple[str, str, dict[str, str]]:
    chosen = qp if qp is not None else 20 if height * width <= 640 * 480 else 28
    return "libx264", "yuv444p" if height % 2 or width % 2 else "yuv420p", {"qp": str(chosen)}


Append = Callable[[np.ndarray], None]
"""Takes the next frames, ``uint8 [n, H, W, 3]``."""


@contextmanager
def writing_h264(path: Path, height: int, width: int, fps: float = 24.0) -> Iterator[Append]:
    """:func:`write_h264` for a video that memory does not hold: call what is given with some frames after the other."""
    with _writing(path, height, width, fps, *_published(height, width)) as append:
        yield append


def _write(path: Path, video: np.ndarray, fps: float, codec: str, layout: str, options: dict[str, str]) -> None:
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not len(video):
        raise ValueError(f"a video is uint8 [T >= 1, H, W, 3], got {video.dtype} {list(video.shape)}")
    with _writing(path, video.shape[1], video.shape[2], fps, codec, layout, options) as append:
        append(video)


@contextmanager
def _writing(
    path: Path, height: int, width: int, fps: float, codec: str, layout: str, options: dict[str, str]
) -> Iterator[Append]:
    import av

    part = path.with_name(f".part-{path.name}")  # the ending names the container
    try:
        with av.open(os.fspath(part), "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, layout

            def append(frames: np.ndarray) -> None:
                for pixels in frames:
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                    container.mux(stream.encode(frame.reformat(format=layout, interpolation=_EXACT)))

            yield append
            container.mux(stream.encode(None))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
