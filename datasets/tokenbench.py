"""TokenBench: a folder of mp4 files, as NVIDIA's list or its 240p edition unpacks."""

from __future__ import annotations

from avtbench.datasets.contract import ClipError
from avtbench.datasets.recordings import RecordedDataset, Recording, find_recordings


class TokenBench(RecordedDataset):
    """TokenBench (BDD100K, BridgeData V2, EgoExo-4D, Panda-70M): every video below ``root``, sorted by path."""

    name = "tokenbench"
    summary = "TokenBench clips, a folder of mp4 files (root=PATH)"
    folder = "tokenbench"
    expects = "mp4 files"
    mend = "run: avtbench fetch tokenbench-240p"

    def recordings(self) -> list[Recording]:
        root = self.root()
        found = find_recordings(root)
        if not found:
            raise ClipError(
                f"data set tokenbench: {root} holds no video, expected mp4 files; {self.mend}, or give their place: "
                "--set dataset.root=PATH"
            )
        return found
