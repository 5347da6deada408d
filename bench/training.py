"""From data sets to training: read what a trainer needs, and keep what is evaluated out of it."""

from __future__ import annotations

from collections.abc import Iterable

from avtbench.datasets.contract import ClipError, VideoDataset, View
from avtbench.methods.training.crops import TrainingClip


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
        raise ValueError(
            f"{len(shared)} held-out clips are among the training clips ({', '.join(shared[:3])}); "
            "take them out of --data or out of --held-out"
        )
