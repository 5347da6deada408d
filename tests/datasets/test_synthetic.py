"""The data set that is always there: its motion is known, so it can be measured back."""

import numpy as np
import pytest
from PIL import Image

from avtbench.datasets.contract import ClipError, View
from avtbench.datasets.synthetic import CUT_EVERY, KINDS, Synthetic


@pytest.fixture(scope="module")
def clips():
    dataset = Synthetic()
    return {ref.name: dataset.read(ref, View()) for ref in dataset.clips()}


def steps(clip):
    """Mean absolute difference of each frame to the one before."""
    video = clip.video.astype(float)
    return np.abs(video[1:] - video[:-1]).mean(axis=(1, 2, 3))


def test_twelve_clips_two_of_each_kind(clips):
    assert list(clips) == [f"{kind}-{turn}" for turn in (0, 1) for kind in KINDS]
    for name, clip in clips.items():
        assert clip.video.shape == (17, 128, 128, 3)
        assert clip.video.dtype == np.uint8
        assert clip.fps == 24
        assert clip.notes["kind"] == name.split("-")[0]
        assert clip.video.std() > 10


def test_the_seed_decides_the_pixels(clips):
    digests = {name: clip.digest for name, clip in clips.items()}
    assert len(set(digests.values())) == 12
    again = Synthetic(seed=0)
    for ref in again.clips()[1::2]:
        assert again.read(ref, View()).digest == digests[ref.name]
    small = View(size=32, frames=2)
    seeds = [{d.read(ref, small).digest for ref in d.clips()} for d in (Synthetic(seed=0), Synthetic(seed=1))]
    assert not seeds[0] & seeds[1]


def test_static_clips_do_not_move(clips):
    assert clips["static-0"].notes["motion"] == 0
    assert (clips["static-1"].video == clips["static-1"].video[:1]).all()


def test_pan_moves_by_the_stated_pixels(clips):
    """Phase correlation over eight frames finds the shift."""
    from skimage.registration import phase_cross_correlation

    for name in ("pan-0", "pan-1"):
        video, apart = clips[name].video.mean(-1), 8
        window = np.hanning(128)[:, None] * np.hanning(128)
        first, last = ((frame - frame.mean()) * window for frame in (video[0], video[apart]))
        shift = phase_cross_correlation(first, last, upsample_factor=20)[0]
        assert np.hypot(*shift) / apart == pytest.approx(clips[name].notes["pixels_per_frame"], abs=0.15)


def test_zoom_grows_by_the_stated_factor(clips):
    """Of several factors, the stated one, applied to the first frame, comes nearest to the ninth."""
    clip = clips["zoom-1"]
    first, ninth = Image.fromarray(clip.video[0]), clip.video[8].astype(float)
    errors = {}
    for power in (0, 4, 7, 8, 9, 12):
        side = 128 / clip.notes["zoom_per_frame"] ** power
        box = (64 - side / 2, 64 - side / 2, 64 + side / 2, 64 + side / 2)
        errors[power] = np.abs(np.asarray(first.resize((128, 128), Image.Resampling.BICUBIC, box=box)) - ninth).mean()
    assert min(errors, key=errors.get) == 8
    assert errors[8] < 0.25 * errors[0]


def test_a_sprite_leaves_the_background_still(clips):
    for name in ("sprite-0", "sprite-1"):
        video = clips[name].video
        still = (video == video[:1]).all(axis=(0, 3)).mean()
        assert 0.4 < still < 0.95
        assert clips[name].notes["motion"] > 0


def test_a_cut_falls_where_it_is_said(clips):
    for name in ("cut-0", "cut-1"):
        moved = steps(clips[name])
        assert np.flatnonzero(moved).tolist() == [CUT_EVERY - 1]
        assert moved.max() > 20
        assert clips[name].notes["cut_every"] == CUT_EVERY


def test_noise_has_the_stated_deviation(clips):
    for name in ("noise-0", "noise-1"):
        video = clips[name].video.astype(float)
        unclipped = ((video > 40) & (video < 215)).all(axis=0)
        assert video[:, unclipped].std(axis=0, ddof=1).mean() == pytest.approx(
            clips[name].notes["noise_sigma"], rel=0.05
        )


def test_a_view_is_honoured_by_rendering():
    dataset = Synthetic()
    ref = dataset.clips()[7]
    long = dataset.read(ref, View(size=64, frames=12))
    part = dataset.read(ref, View(size=64, frames=3, start=2, stride=4))
    assert np.array_equal(part.video, long.video[[2, 6, 10]])
    assert part.fps == 6
    assert part.notes["pixels_per_frame"] == pytest.approx(4 * long.notes["pixels_per_frame"])
    assert dataset.read(ref, View(size=50, frames=1)).video.shape == (1, 50, 50, 3)
    assert dataset.read(ref, View(size=None, frames=None)).video.shape == (33, 256, 256, 3)
    assert dataset.read(ref, View(size=32, frames=2, start=100_000)).video.std() > 10


def test_a_scene_looks_the_same_at_every_size():
    dataset = Synthetic()
    for ref in dataset.clips()[:6]:
        if not ref.name.startswith("noise"):
            small, large = (dataset.read(ref, View(size=s, frames=9)).video[-1].astype(float) for s in (32, 64))
            assert np.abs(small - large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).mean() < 4


def test_clips_from_one_photograph_share_a_source():
    refs = Synthetic(clips=30).clips()
    assert len(refs) == 30
    assert len({ref.name for ref in refs}) == 30
    assert len({ref.source for ref in refs}) == 10


def test_mistakes_are_named():
    with pytest.raises(ClipError, match="clips is 0"):
        Synthetic(clips=0)
    ref = Synthetic(clips=30).clips()[-1]
    with pytest.raises(ClipError, match="has no clip"):
        Synthetic().read(ref, View())
    with pytest.raises(ClipError, match=r"view\.stride is 0"):
        Synthetic().read(Synthetic().clips()[0], View(stride=0))
