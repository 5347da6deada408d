"""Any videos or folders of frames, whole or by the split of a manifest."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from avtbench.datasets.contract import ClipError
from avtbench.datasets.recordings import RecordedDataset, Recording, find_recordings


class Folder(RecordedDataset):
    """Every video file and folder of frames below ``root``, at any depth.

    manifest: a csv file with the columns ``path`` (from its own folder, or from ``root`` when that is given), ``split``
              and optionally ``source``; only what it lists is used, in its order.
    split:    keep only these lines of the manifest.
    under:    keep only lines of the manifest whose path lies in this folder, e.g. ``clips``.
    """

    name = "folder"
    summary = "any videos or folders of frames (root=PATH), or what a manifest lists"
    folder = "folder"

    def __init__(
        self,
        root: str | Path | None = None,
        manifest: str | Path | None = None,
        split: str | None = None,
        windows: int = 1,
        fps: float | None = None,
        under: str | None = None,
    ):
        super().__init__(root, windows, fps)
        self.manifest, self.split, self.under = manifest, split, under
        for knob, value in (("split", split), ("under", under)):
            if value is not None and manifest is None:
                raise ClipError(
                    f"data set folder: {knob}={value} needs a manifest; add --set dataset.manifest=FILE.csv"
                )

    def root(self) -> Path:
        if self.given is None and self.manifest is not None:
            return Path(self.manifest).expanduser().parent
        return super().root()

    def recordings(self) -> list[Recording]:
        root = self.root()
        if self.manifest is not None:
            return self._listed(root, Path(self.manifest).expanduser())
        found = find_recordings(root)
        if not found:
            raise ClipError(
                f"data set folder: {root} holds no video and no folder of frames, expected files such as .mp4 or .jpg; "
                "give another folder: --set dataset.root=PATH"
            )
        return found

    def _listed(self, root: Path, manifest: Path) -> list[Recording]:
        if not manifest.is_file() and not manifest.is_absolute():
            manifest = root / manifest
        try:
            with manifest.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ClipError(
                f"data set folder: manifest {manifest} cannot be read ({error}), expected a csv file with columns "
                "path,split; check --set dataset.manifest=FILE.csv"
            ) from error
        lacking = sorted({"path", *(["split"] if self.split else [])} - set(rows[0] if rows else ()))
        if lacking:
            raise ClipError(
                f"data set folder: manifest {manifest} lacks the column {' and '.join(lacking)}, expected path,split"
            )
        chosen = [row for row in rows if self.split is None or row["split"] == self.split]
        if not chosen:
            there = ", ".join(sorted({row["split"] or "(empty)" for row in rows}))
            raise ClipError(f"data set folder: manifest {manifest} has no line of split {self.split}; there is {there}")
        if self.under is not None:
            places = sorted({PurePosixPath(row["path"]).parent.as_posix() for row in chosen})
            chosen = [row for row in chosen if PurePosixPath(row["path"]).is_relative_to(self.under)]
            if not chosen:
                raise ClipError(
                    f"data set folder: manifest {manifest} lists nothing under {self.under}; "
                    f"there is {', '.join(places)}"
                )
        return [Recording(row["path"], root / row["path"], row.get("source") or "") for row in chosen]
