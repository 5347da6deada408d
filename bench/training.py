"""From data sets to training: read what a trainer needs, and keep what is evaluated out of it."""

from __future__ import annotations

from collections.abc import Iterable

from avtbench.bench import plugins
from avtbench.bench.errors import UserError
from avtbench.datasets.contract import ClipError, VideoDataset, View
from avtbench.methods.training.crops import TrainingClip

LONGEST = 120
"""Frames read of a window; longer recordings give up to three windows."""


def read_clips(dataset: VideoDataset, view: View, least_frames: int = 9) -> tuple[list[TrainingClip], list[str]]:
    """Decode every clip of ``dataset``; returns the clips and one line for each that could not be used."""
    clips, refused = [], []
    for ref in dataset.clips():
        try:
            clip = dataset.read(ref, view)
        except ClipError as error:
            refused.append(str(error))
            continue
        if len(clip.video) < least_frames:
            refused.append(f"{ref.name}: {len(clip.video)} frames, expected {least_frames} or more; left out")
        else:
            clips.append(TrainingClip(clip.name, clip.digest, clip.video, clip.source))
    return clips, refused


def require_apart(train: Iterable[TrainingClip], held_out: Iterable[TrainingClip]) -> None:
    """Raise when a held-out clip, or another window of its recording, is among the training clips."""
    sources = {c.source or c.name for c in train}
    digests = {c.digest for c in train}
    shared = [c.name for c in held_out if c.digest in digests or (c.source or c.name) in sources]
    if shared:
        raise UserError(
            f"{len(shared)} held-out clips are among the training clips ({', '.join(shared[:3])}); "
            "take them out of --data or out of --held-out"
        )


def read_apart(
    data: Iterable[str], held_out: Iterable[str], size: int
) -> tuple[list[TrainingClip], dict[str, list[TrainingClip]]]:
    """Training clips and groups of held-out ones; raises where a recording is in both."""
    train, held = read_training(data, size), read_held_out(held_out, size)
    require_apart(train, [clip for group in held.values() for clip in group])
    return train, held


def read_training(places: Iterable[str], size: int) -> list[TrainingClip]:
    """Clips of folders or ``MANIFEST.csv:SPLIT``, shorter side resized to ``size``; says what was left out and why."""
    train: list[TrainingClip] = []
    for place in places:
        clips, refused = read_clips(videos_at(place, windows=3), View(size, square=False, frames=LONGEST))
        train += clips
        ended = sum("expected more than" in line for line in refused)
        print(f"{place}: {len(clips)} clips; {ended} windows begin after the end of their recording")
        for line in refused:
            if "expected more than" not in line:
                print(f"  left out: {line}")
    return train


def read_held_out(pairs: Iterable[str], size: int) -> dict[str, list[TrainingClip]]:
    """Groups ``NAME=FOLDER`` or ``NAME=MANIFEST.csv:SPLIT`` of square clips with 17 frames."""
    held: dict[str, list[TrainingClip]] = {}
    for pair in pairs:
        name, sign, place = pair.partition("=")
        if not sign:
            raise UserError(f"--held-out {pair}: expected NAME=FOLDER or NAME=MANIFEST.csv:SPLIT")
        held[name], refused = read_clips(videos_at(place), View(size, frames=17))
        print(f"held out {name}: {len(held[name])} clips")
        for line in refused:
            print(f"  left out: {line}")
    return held


def videos_at(place: str, windows: int = 1) -> VideoDataset:
    """The data set that ``FOLDER`` or ``MANIFEST.csv:SPLIT`` names."""
    manifest, colon, split = place.rpartition(":")
    if colon and manifest.endswith(".csv"):
        return plugins.create("dataset", "folder", manifest=manifest, split=split, windows=windows)
    return plugins.create("dataset", "folder", root=place, windows=windows)
