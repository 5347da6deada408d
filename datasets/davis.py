"""DAVIS in its official layout: JPEGImages/480p/<sequence>/%05d.jpg with the lists of 2016 and 2017."""

from __future__ import annotations

from pathlib import Path

from avtbench.datasets.contract import ClipError
from avtbench.datasets.recordings import RecordedDataset, Recording


class Davis(RecordedDataset):
    """DAVIS 2016 or 2017 (Perazzi et al. 2016; Pont-Tuset et al. 2017).

    root:       the folder that holds ``JPEGImages`` and ``ImageSets`` (or the one above it).
    year:       2016 or 2017, whose list of sequences is used. split: train, val, trainval, test-dev, ...
    resolution: folder below ``JPEGImages``: 480p or Full-Resolution.
    """

    name = "davis"
    summary = "DAVIS 2016 / 2017 sequences in the official layout (root=PATH, year=2016|2017, split=val)"
    folder = "DAVIS"
    expects = "JPEGImages/480p and ImageSets"
    mend = "run: avtbench fetch davis"

    def __init__(
        self,
        root: str | Path | None = None,
        year: int = 2016,
        split: str = "val",
        windows: int = 1,
        resolution: str = "480p",
        fps: float | None = 24.0,
    ):
        super().__init__(root, windows, fps)
        if year not in (2016, 2017):
            raise ClipError(f"data set davis: year is {year}, expected 2016 or 2017")
        self.year, self.split, self.resolution = year, split, resolution

    def recordings(self) -> list[Recording]:
        root = self.root()
        if not (root / "JPEGImages").is_dir() and (root / "DAVIS" / "JPEGImages").is_dir():
            root = root / "DAVIS"
        frames = root / "JPEGImages" / self.resolution
        if not frames.is_dir():
            raise ClipError(
                f"data set davis: {root} has no folder JPEGImages/{self.resolution}, expected the official layout; "
                f"{self.mend}, or give its place: --set dataset.root=PATH"
            )
        return [Recording(name, frames / name) for name in self._sequences(root)]

    def _sequences(self, root: Path) -> list[str]:
        # the archive of 2016 alone keeps its lists, of frame pairs, under the resolution
        places = [root / "ImageSets" / str(self.year), *([root / "ImageSets" / "480p"] if self.year == 2016 else [])]
        listing = next((p / f"{self.split}.txt" for p in places if (p / f"{self.split}.txt").is_file()), None)
        if listing is None:
            there = sorted({f"{p.parent.name}/{p.stem}" for p in (root / "ImageSets").glob("*/*.txt")})
            raise ClipError(
                f"data set davis: no list ImageSets/{self.year}/{self.split}.txt in {root}; there is "
                f"{', '.join(there) or 'none'}: --set dataset.year=... --set dataset.split=..."
            )
        lines = [line.split()[0] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [Path(line).parent.name if "/" in line else line for line in lines]
        if not names:
            raise ClipError(f"data set davis: {listing} is empty, expected one sequence a line; {self.mend}")
        return list(dict.fromkeys(names))
