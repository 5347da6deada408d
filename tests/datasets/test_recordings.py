"""Data sets on disk: where they are looked for, what they hold, and what they say when they are not there."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from avtbench.datasets.contract import ClipError, View
from avtbench.datasets.davis import Davis
from avtbench.datasets.folder import Folder
from avtbench.datasets.tokenbench import TokenBench
from avtbench.datasets.video import write_lossless

SMALL = View(size=32, frames=4)


def make_video(path, frames=8, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 8 + value
    write_lossless(path, np.broadcast_to(ramp, (frames, 32, 32, 3)))
    return path


def make_frames(folder, frames=5, value=0):
    folder.mkdir(parents=True)
    for t in range(frames):
        Image.new("RGB", (48, 32), (t * 8 + value,) * 3).save(folder / f"{t:05d}.jpg")


def names(dataset):
    return [ref.name for ref in dataset.clips()]


# --- folder ------------------------------------------------------------------------------------------------------


def test_folder_finds_videos_and_frame_folders_at_any_depth(tmp_path):
    make_video(tmp_path / "b.mp4")
    make_video(tmp_path / "deep" / "er" / "ünï côdé.MKV")
    make_frames(tmp_path / "a sequence")
    make_video(tmp_path / "with poster" / "c.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "with poster" / "poster.jpg")
    (tmp_path / "notes.txt").write_text("not a clip")
    make_video(tmp_path / ".hidden" / "d.mp4")
    make_video(tmp_path / "._e.mp4")
    dataset = Folder(tmp_path)
    assert names(dataset) == ["a sequence", "b.mp4", "deep/er/ünï côdé.MKV", "with poster/c.mp4"]
    for ref in dataset.clips():
        clip = dataset.read(ref, SMALL)
        assert clip.video.shape == (4, 32, 32, 3)
        assert clip.notes["motion"] == pytest.approx(8, abs=0.5)
        assert (clip.name, clip.dataset, clip.source) == (ref.name, "folder", ref.source)


def test_symlink_loops_end_and_linked_folders_count_once(tmp_path):
    make_video(tmp_path / "real" / "a.mp4")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    dataset = Folder(tmp_path)
    assert names(dataset) == ["real/a.mp4", "self.mp4"]
    with pytest.raises(ClipError, match=r"self\.mp4"):
        dataset.read(dataset.clips()[1], SMALL)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    make_video(tmp_path / "elsewhere" / "a.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(Folder(tmp_path / "root")) == ["link/a.mp4"]


def test_an_unreadable_clip_spoils_no_other(tmp_path):
    make_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("text")
    dataset = Folder(tmp_path)
    good, bad = dataset.clips()
    with pytest.raises(ClipError, match=r"b\.mp4: cannot be opened"):
        dataset.read(bad, SMALL)
    assert len(dataset.read(good, SMALL).video) == 4


def test_windows_follow_each_other_and_share_a_source(tmp_path):
    make_video(tmp_path / "a.mp4", frames=9)
    dataset = Folder(tmp_path, windows=3)
    refs = dataset.clips()
    assert [(r.name, r.source) for r in refs] == [("a.mp4@0", "a.mp4"), ("a.mp4@1", "a.mp4"), ("a.mp4@2", "a.mp4")]
    view = View(size=None, frames=2, start=1, stride=2)
    first = [dataset.read(ref, view).video[:, 0, 0, 0].tolist() for ref in refs[:2]]
    assert first == [[8, 24], [40, 56]]
    with pytest.raises(ClipError, match="has 9 frames, expected more than 9"):
        dataset.read(refs[2], view)


def test_windows_need_a_length(tmp_path):
    make_video(tmp_path / "a.mp4")
    dataset = Folder(tmp_path, windows=2)
    with pytest.raises(ClipError, match="set frames"):
        dataset.read(dataset.clips()[1], View(frames=None))
    with pytest.raises(ClipError, match="windows is 0"):
        Folder(tmp_path, windows=0)


def test_a_fresh_data_set_reads_a_reference_made_elsewhere(tmp_path):
    make_video(tmp_path / "a.mp4")
    ref = Folder(tmp_path).clips()[0]
    assert Folder(tmp_path).read(ref, SMALL).digest == Folder(tmp_path).read(ref, SMALL).digest
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    with pytest.raises(ClipError, match=r"has no clip a\.mp4"):
        Folder(tmp_path).read(ref, SMALL)


# --- manifests ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    for name in ("a.mp4", "b.mp4", "sub dir/c.mp4"):
        make_video(tmp_path / name)
    lines = [
        "path,split,source,notes",
        "sub dir/c.mp4,train,road,x",
        "a.mp4,eval,,y",
        "b.mp4,train,road,",
        "gone.mp4,eval,,",
    ]
    (tmp_path / "MANIFEST.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_manifest_chooses_orders_and_groups(listed):
    dataset = Folder(manifest=listed / "MANIFEST.csv", split="train")
    assert [(r.name, r.source) for r in dataset.clips()] == [("sub dir/c.mp4", "road"), ("b.mp4", "road")]
    assert dataset.read(dataset.clips()[0], SMALL).video.shape == (4, 32, 32, 3)
    assert names(Folder(listed, manifest="MANIFEST.csv")) == ["sub dir/c.mp4", "a.mp4", "b.mp4", "gone.mp4"]


def test_a_manifest_can_be_read_under_one_folder(listed):
    assert names(Folder(manifest=listed / "MANIFEST.csv", split="train", under="sub dir")) == ["sub dir/c.mp4"]
    with pytest.raises(ClipError, match="lists nothing under sub; there is"):
        Folder(manifest=listed / "MANIFEST.csv", under="sub").clips()
    with pytest.raises(ClipError, match="under=sub needs a manifest"):
        Folder(listed, under="sub")


def test_a_listed_file_that_is_gone_is_one_bad_clip(listed):
    dataset = Folder(manifest=listed / "MANIFEST.csv", split="eval")
    assert names(dataset) == ["a.mp4", "gone.mp4"]
    with pytest.raises(ClipError, match="no such file"):
        dataset.read(dataset.clips()[1], SMALL)


def test_manifest_mistakes_are_named(listed):
    with pytest.raises(ClipError, match="split=train needs a manifest"):
        Folder(listed, split="train")
    with pytest.raises(ClipError, match="no line of split test; there is eval, train"):
        Folder(listed, manifest="MANIFEST.csv", split="test").clips()
    with pytest.raises(ClipError, match=r"absent\.csv cannot be read"):
        Folder(listed, manifest="absent.csv").clips()
    (listed / "bad.csv").write_text("file\na.mp4\n")
    with pytest.raises(ClipError, match="lacks the column path and split"):
        Folder(listed, manifest="bad.csv", split="train").clips()


# --- DAVIS -------------------------------------------------------------------------------------------------------


@pytest.fixture
def davis(tmp_path):
    root = tmp_path / "DAVIS"
    for name in ("bear", "camel", "dog"):
        make_frames(root / "JPEGImages" / "480p" / name)
    for year, split, content in (
        ("2016", "val", "dog\nbear\n"),
        ("2017", "val", "camel\n"),
        ("2017", "train", "bear\n\n"),
    ):
        (root / "ImageSets" / year).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / year / f"{split}.txt").write_text(content)
    return root


def test_davis_follows_the_list_of_the_year(davis):
    assert names(Davis(davis)) == ["dog", "bear"]
    assert names(Davis(davis, year=2017)) == ["camel"]
    assert names(Davis(davis.parent, year=2017, split="train")) == ["bear"]
    clip = Davis(davis).read(Davis(davis).clips()[0], SMALL)
    assert clip.video.shape == (4, 32, 32, 3)
    assert clip.fps == 24


def test_davis_reads_the_lists_of_the_2016_archive(davis):
    (davis / "ImageSets" / "480p").mkdir()
    pairs = [
        f"/JPEGImages/480p/{n}/{t:05d}.jpg /Annotations/480p/{n}/{t:05d}.png" for n in ("dog", "bear") for t in (0, 1)
    ]
    (davis / "ImageSets" / "480p" / "train.txt").write_text("\n".join(pairs))
    assert names(Davis(davis, split="train")) == ["dog", "bear"]


def test_davis_mistakes_are_named(davis, tmp_path):
    with pytest.raises(ClipError, match="there is 2016/val, 2017/train, 2017/val"):
        Davis(davis, split="test").clips()
    with pytest.raises(ClipError, match="year is 2018, expected 2016 or 2017"):
        Davis(davis, year=2018)
    with pytest.raises(ClipError, match=r"no folder JPEGImages/Full-Resolution.*avtbench fetch davis"):
        Davis(davis, resolution="Full-Resolution").clips()


def test_a_listed_sequence_without_frames_is_one_bad_clip(davis):
    (davis / "ImageSets" / "2016" / "val.txt").write_text("dog\nlost\n")
    dataset = Davis(davis)
    assert len(dataset.read(dataset.clips()[0], SMALL).video) == 4
    with pytest.raises(ClipError, match="lost"):
        dataset.read(dataset.clips()[1], SMALL)


# --- where data sets are looked for ------------------------------------------------------------------------------


def test_the_environment_names_the_place(tmp_path, monkeypatch):
    make_video(tmp_path / "tokenbench" / "bdd_100" / "a.mp4")
    monkeypatch.setenv("AVTBENCH_DATA", str(tmp_path))
    assert names(TokenBench()) == ["bdd_100/a.mp4"]


def test_without_the_environment_the_folder_data_is_used(tmp_path, monkeypatch):
    make_video(tmp_path / "data" / "tokenbench" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert names(TokenBench()) == ["a.mp4"]


@pytest.mark.parametrize(
    ("cls", "fetch"), [(Davis, "avtbench fetch davis"), (TokenBench, "avtbench fetch tokenbench-240p")]
)
def test_an_absent_data_set_says_what_mends_it(cls, fetch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClipError) as caught:
        cls().clips()
    line = str(caught.value)
    for part in (f"data/{cls.folder}", "AVTBENCH_DATA is not set", fetch, "--set dataset.root=PATH"):
        assert part in line
    with pytest.raises(ClipError, match="no folder nowhere, expected"):
        cls(root="nowhere").clips()


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(ClipError, match="holds no video"):
        TokenBench(tmp_path).clips()
    with pytest.raises(ClipError, match="holds no video and no folder of frames"):
        Folder(tmp_path).clips()


def test_importing_data_sets_is_cheap():
    code = (
        "import avtbench.datasets.davis, avtbench.datasets.folder, avtbench.datasets.tokenbench, sys\n"
        "import avtbench.datasets.synthetic\n"
        "print([m for m in ('torch', 'av', 'PIL', 'skimage', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert run.stdout.strip() == "[]"


# --- the real thing ----------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("view", [View(), View(size=64, frames=5, start=3, stride=2)])
def test_real_davis_and_tokenbench(shared, view):
    for dataset, count in ((Davis(shared / "data" / "DAVIS"), 13), (TokenBench(shared / "data" / "tokenbench"), 5)):
        refs = dataset.clips()
        assert len(refs) == count
        for ref in refs:
            clip = dataset.read(ref, view)
            assert clip.video.shape == (view.frames, view.size, view.size, 3)
            assert clip.video.std() > 10
            assert 0.1 < clip.notes["motion"] < 60


@pytest.mark.shared
def test_every_clip_of_the_manifest_can_be_read(shared):
    manifest = shared / "data" / "MANIFEST.csv"
    splits = {s: Folder(manifest=manifest, split=s).clips() for s in ("train", "eval")}
    assert not {r.name for r in splits["train"]} & {r.name for r in splits["eval"]}
    dataset = Folder(manifest=manifest)
    assert len(dataset.clips()) >= sum(map(len, splits.values())) > 50
    for ref in dataset.clips():
        assert dataset.read(ref, View(size=32, frames=2)).video.shape == (2, 32, 32, 3)


@pytest.mark.shared
def test_motion_agrees_with_the_manifest(shared):
    """The manifest's values were measured on all frames at full size, independently of this code."""
    dataset = Davis(shared / "data" / "DAVIS")
    clip = dataset.read(dataset.clips()[0], View(size=None, frames=None))
    assert clip.name == "blackswan"
    assert clip.notes["motion"] == pytest.approx(17.068, rel=0.05)
