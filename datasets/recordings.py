"""Data sets that lie on disk: where they are looked for, which recordings they hold, how windows are cut from them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from avtbench.datasets.contract import Clip, ClipError, ClipRef, VideoDataset, View
from avtbench.datasets.motion import motion
from avtbench.datasets.video import FRAME_SUFFIXES, VIDEO_SUFFIXES, read

DATA = "AVTBENCH_DATA"
"""Environment variable naming the folder that holds the data sets."""


@dataclass(frozen=True)
class Recording:
    """A video file or a folder of frames. ``source`` groups recordings cut from one longer one; default its name."""

    name: str
    path: Path
    source: str = ""


class RecordedDataset(VideoDataset):
    """Base of data sets on disk: say which recordings there are, the rest follows.

    root:    folder of the data set; None looks in ``$AVTBENCH_DATA/<folder>``, then in ``data/<folder>``.
    windows: clips cut from each recording, one after the other from ``view.start``; they share a ``source``, so that
             statistics resample them together.
    fps:     frame rate of folders of frames, which do not say their own.
    """

    folder: ClassVar[str]
    expects: ClassVar[str] = "videos or folders of frames"
    mend: ClassVar[str] = ""
    """Command that gets the data set, where one can."""

    def __init__(self, root: str | Path | None = None, windows: int = 1, fps: float | None = None):
        if windows < 1:
            raise ClipError(f"data set {self.name}: windows is {windows}, expected 1 or more")
        self.given, self.windows, self.fps = root, windows, fps
        self._known: dict[str, tuple[Recording, int]] = {}

    @abstractmethod
    def recordings(self) -> list[Recording]:
        """The recordings in a fixed order, without opening any; raises :class:`ClipError` when there are none."""

    def root(self) -> Path:
        """The folder of the data set; raises :class:`ClipError` with all places looked at."""
        if self.given is not None:
            places = [Path(self.given).expanduser()]
        else:
            base = os.environ.get(DATA)
            places = [*([Path(base).expanduser() / self.folder] if base else []), Path("data") / self.folder]
        for place in places:
            if place.is_dir():
                return place
        looked = " or ".join(str(p) for p in places)
        unset = "" if self.given is not None or os.environ.get(DATA) else f" ({DATA} is not set)"
        mend = f"{self.mend}, or " if self.mend else ""
        raise ClipError(
            f"data set {self.name}: there is no folder {looked}{unset}, expected {self.expects} there; "
            f"{mend}give its place: --set dataset.root=PATH"
        )

    def clips(self) -> list[ClipRef]:
        known = {}
        for recording in self.recordings():
            for window in range(self.windows):
                name = recording.name if self.windows == 1 else f"{recording.name}@{window}"
                known[name] = (recording, window)
        self._known = known
        return [ClipRef(name, self.name, r.source or r.name) for name, (r, _) in known.items()]

    def read(self, ref: ClipRef, view: View) -> Clip:
        if ref.name not in self._known:
            self.clips()
        if ref.name not in self._known:
            raise ClipError(f"data set {self.name}: has no clip {ref.name}; its clips() lists those there are")
        recording, window = self._known[ref.name]
        if window:
            if view.frames is None:
                raise ClipError(
                    f"data set {self.name}: windows={self.windows} needs a length; set frames in the preset"
                )
            view = replace(view, start=view.start + window * view.frames * view.stride)
        try:
            footage = read(recording.path, view, self.fps)
        except OSError as error:
            raise ClipError(
                f"{recording.path}: cannot be read ({error.strerror or error}); check the path and its permissions"
            ) from error
        notes: dict[str, float | str] = {"recorded": f"{footage.width}x{footage.height}"}
        moved = motion(footage.video)
        if moved is not None:
            notes["motion"] = moved
        return Clip(ref.name, self.name, footage.video, footage.fps, recording.source or recording.name, notes)


def find_recordings(root: Path) -> list[Recording]:
    """Video files and folders of frames below ``root``, sorted, named by their path from ``root``.

    A folder that holds images and no video is one recording. Links are followed; a folder is entered once, so loops
    end. Hidden files and folders are left out. Raises :class:`ClipError` for a folder that cannot be listed.
    """
    return [Recording(path.relative_to(root).as_posix(), path) for path in sorted(_walk(root, set()))]


def _walk(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        place = folder.stat()
        if (place.st_dev, place.st_ino) in entered:
            return
        entered.add((place.st_dev, place.st_ino))
        entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise ClipError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    folders = [e for e in entries if _is_dir(e)]
    suffixes = {e.name: Path(e.name).suffix.lower() for e in entries if e not in folders}
    videos = [name for name, suffix in suffixes.items() if suffix in VIDEO_SUFFIXES]
    yield from (folder / name for name in videos)
    if not videos and any(suffix in FRAME_SUFFIXES for suffix in suffixes.values()):
        yield folder
    # real folders before links to them, so that names do not depend on where a link sorts
    for entry in sorted(folders, key=lambda e: e.is_symlink()):
        yield from _walk(Path(entry.path), entered)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself: left to fail where it is read
        return False
