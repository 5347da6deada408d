"""A folder as users have it, from the command line: what can be read is measured, the rest is a row with a reason."""

import av
import numpy as np
import pytest
from PIL import Image

from avtbench.bench import cli
from avtbench.bench.rows import Status
from avtbench.bench.store import Store
from avtbench.datasets.video import write_h264, write_lossless


def drift(frames=5, height=48, width=64):
    video = np.full((frames, height, width, 3), 90, np.uint8)
    for t, frame in enumerate(video):
        frame[8:24, 4 * t : 4 * t + 16] = 220
    return video


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my videos"
    (root / "frames").mkdir(parents=True)
    write_lossless(root / "plain.mp4", drift())
    write_lossless(root / "one frame.mp4", drift(1))
    write_lossless(root / "odd.mkv", drift(height=47, width=63))
    write_lossless(root / "ünïcode 視頻.mp4", drift(4))
    for t, pixels in enumerate(drift(3)):
        Image.fromarray(pixels).convert("L").save(root / "frames" / f"{t}.png")
    (root / "loop").symlink_to(root)
    (root / "itself.mp4").symlink_to(root / "itself.mp4")
    (root / "text.mp4").write_text("no video")
    write_h264(root / "cut.mp4", drift(20))
    (root / "cut.mp4").write_bytes((root / "cut.mp4").read_bytes()[:-200])
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return root


def test_what_cannot_be_read_is_a_failed_row_and_the_rest_is_measured(folder, write, toy, tmp_path, capsys):
    method, store = write("toy.py", toy), tmp_path / "store.sqlite"
    arguments = ["run", "demo", "--method", method, "--dataset", "folder", "--set", f"dataset.folder.root={folder}"]
    arguments += ["--set", "view.size=32", "--set", "passes=quality", "--set", "lpips=[]", "--no-report"]
    code = cli._main([*map(str, arguments), "--store", str(store)])
    said = capsys.readouterr()
    assert code == 1
    assert "8 of 18 points failed" in said.err
    with Store(store, create=False) as opened:
        rows = opened.rows(opened.find_run().id)
    done = {row.clip: row for row in rows if row.status is Status.DONE}
    assert set(done) == {"plain.mp4", "one frame.mp4", "odd.mkv", "ünïcode 視頻.mp4", "frames"}
    assert done["one frame.mp4"].frames == 1
    assert all(row.height == row.width == 32 for row in done.values())
    failed = {row.clip: row.reason for row in rows if row.status is Status.FAILED}
    for clip, reason in {
        "text.mp4": "cannot be opened as a video",
        "cut.mp4": "cannot be opened as a video",
        "sound.mp4": "no video stream",
        "itself.mp4": "itself.mp4",
    }.items():
        assert reason in failed.pop(clip)
    assert not failed
