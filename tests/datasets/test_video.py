"""Reading videos: each odd file is either read right or refused in one line that tells what mends it.

Fixtures are made here with PyAV; ``moving_square`` is a picture whose every frame can be told apart.
"""

import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from avtbench.datasets.contract import ClipError, View
from avtbench.datasets.motion import motion
from avtbench.datasets.video import fit, read, write_h264, write_lossless

WHOLE = View(size=None, frames=None)


def moving_square(frames=8, height=48, width=64):
    """Grey ground, one bright square that moves right by 4 pixels a frame, a red corner at the top left."""
    video = np.full((frames, height, width, 3), 90, np.uint8)
    for t, frame in enumerate(video):
        frame[20:28, 4 * t + 8 : 4 * t + 16] = 220
        frame[:10, :10] = (230, 20, 20)
    return video


def noise(frames, height=64, width=64):
    """What no codec can shrink, so that every frame takes its share of the file."""
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def encode(path, frames, pix_fmt, codec="libx264", rate=24, times=None, options=None, **of_stream):
    """Write PyAV frames; ``times`` gives each its own time stamp in thousandths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        for name, value in of_stream.items():
            setattr(stream.codec_context, name, value)
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, frame in enumerate(frames):
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def av_frames(video):
    return [av.VideoFrame.from_ndarray(f, format="rgb24") for f in video]


def near(found, expected, mean=3.0):
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < mean


def refused(path, view=WHOLE):
    """The one line with which a file is refused."""
    with pytest.raises(ClipError) as caught:
        read(path, view)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


# --- what is asked for is what comes -----------------------------------------------------------------------------


def test_lossless_files_come_back_bit_for_bit(tmp_path):
    video = noise(5, 34, 50)
    write_lossless(tmp_path / "a.mp4", video, fps=30000 / 1001)
    footage = read(tmp_path / "a.mp4", WHOLE)
    assert np.array_equal(footage.video, video)
    assert footage.video.dtype == np.uint8
    assert footage.fps == pytest.approx(29.97, abs=0.001)
    assert (footage.height, footage.width) == (34, 50)


def test_start_stride_and_length_pick_frames(tmp_path):
    video = moving_square(12)
    write_lossless(tmp_path / "a.mp4", video, fps=24)
    footage = read(tmp_path / "a.mp4", View(size=None, frames=3, start=2, stride=4))
    assert np.array_equal(footage.video, video[[2, 6, 10]])
    assert footage.fps == 6


def test_a_shorter_video_gives_a_shorter_clip(tmp_path):
    write_lossless(tmp_path / "a.mp4", moving_square(4))
    assert len(read(tmp_path / "a.mp4", View(size=None, frames=17)).video) == 4


def test_a_file_and_a_folder_of_its_frames_give_the_same_clip(tmp_path):
    video = moving_square(11)
    write_lossless(tmp_path / "a.mp4", video)
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")  # 10 comes after 9, not after 1
    view = View(size=32, frames=None)
    assert np.array_equal(read(tmp_path / "a.mp4", view).video, read(tmp_path, view).video)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 48, 64), (3, 31, 47), (2, 65, 33)])
def test_published_mp4_writes_any_length_and_size(tmp_path, frames, height, width):
    video = moving_square(frames, height, width)
    write_h264(tmp_path / "a.mp4", video, fps=24)
    near(read(tmp_path / "a.mp4", WHOLE).video, video[:, : height // 2 * 2, : width // 2 * 2])


def test_published_mp4_takes_the_quantiser_by_area_as_mediapy_does(tmp_path):
    large = noise(1, 480, 642)
    for name, video in {"small": large[:, :, :640], "large": large, "fine": large}.items():
        write_h264(tmp_path / f"{name}.mp4", video, qp=20 if name == "fine" else None)
    size = {p.stem: p.stat().st_size for p in tmp_path.iterdir()}
    assert size["large"] < 0.9 * size["small"]
    assert size["fine"] > size["small"]


# --- resampling ------------------------------------------------------------------------------------------------


def test_fit_takes_the_centred_square():
    frame = np.zeros((40, 100, 3), np.uint8)
    frame[:, 30:70] = 200
    assert (fit(frame, 20)[:, 2:-2] == 200).all()


def test_fit_is_antialiased():
    checkers = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert np.abs(fit(checkers.astype(np.uint8), 16).astype(int) - 127.5).max() < 2


def test_fit_without_a_size_makes_sides_even():
    assert fit(np.zeros((31, 47, 3), np.uint8), None).shape == (30, 46, 3)


def test_fit_without_cropping_keeps_the_aspect():
    assert fit(np.zeros((48, 85, 3), np.uint8), 24, square=False).shape == (24, 42, 3)


def test_motion_is_the_mean_luma_step():
    video = np.zeros((3, 4, 4, 3), np.uint8)
    video[1:] = 10
    assert motion(video) == pytest.approx(5)
    video[1:, ..., :] = (100, 0, 0)
    assert motion(video[:2]) == pytest.approx(29.9)
    assert motion(video[:1]) is None


# --- files out of the ordinary that are read right ---------------------------------------------------------------


def test_variable_frame_rate_counts_frames_not_time(tmp_path):
    video = moving_square(6)
    path = encode(tmp_path / "vfr.mp4", av_frames(video), "yuv444p", times=[0, 10, 200, 210, 900, 2000])
    near(read(path, WHOLE).video, video)
    near(read(path, View(size=None, frames=2, start=1, stride=3)).video, video[[1, 4]])


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_rotation_flag_is_applied(tmp_path, degrees, turns):
    """The track header of an mp4 says by how much to turn clockwise for display."""
    video = moving_square(2)
    path = tmp_path / "phone.mp4"
    write_lossless(path, video)
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (v * 0x10000 for v in matrix)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    footage = read(path, WHOLE)
    assert np.array_equal(footage.video, np.rot90(video, turns, axes=(1, 2)))
    assert (footage.width, footage.height) == ((64, 48) if degrees == 180 else (48, 64))


def test_odd_sizes_are_cropped_to_even(tmp_path):
    video = moving_square(2, 47, 63)
    write_lossless(tmp_path / "odd.mkv", video)
    footage = read(tmp_path / "odd.mkv", WHOLE)
    assert np.array_equal(footage.video, video[:, :46, :62])
    assert (footage.height, footage.width) == (47, 63)
    assert read(tmp_path / "odd.mkv", View(size=32)).video.shape == (2, 32, 32, 3)


def test_ten_bit_becomes_eight(tmp_path):
    video = moving_square(3)
    path = encode(tmp_path / "ten.mkv", av_frames(video), "yuv444p10le", codec="libx265",
                  options={"x265-params": "qp=4:log-level=none"})  # fmt: skip
    with av.open(str(path)) as container:
        assert container.streams.video[0].format.name == "yuv444p10le"
    near(read(path, WHOLE).video, video)


def test_grayscale_becomes_three_equal_channels(tmp_path):
    grey = [f.reformat(format="gray") for f in av_frames(moving_square(3))]
    footage = read(encode(tmp_path / "grey.mkv", grey, "gray", codec="ffv1", options={}), WHOLE)
    assert (footage.video == footage.video[..., :1]).all()
    assert footage.video[0, 24, 12, 0] == pytest.approx(220, abs=2)


def test_declared_colour_matrix_and_range_are_used(tmp_path):
    """The same RGB, written with BT.709 full range and saying so, comes back as that RGB."""
    video = moving_square(2)
    wide = [f.reformat(format="yuv444p", dst_colorspace="ITU709", dst_color_range=2) for f in av_frames(video)]
    path = encode(tmp_path / "709.mp4", wide, "yuv444p", colorspace=1, color_range=2)
    near(read(path, WHOLE).video, video, mean=1.0)


def test_one_frame_clip(tmp_path):
    write_lossless(tmp_path / "one.mp4", moving_square(1))
    assert read(tmp_path / "one.mp4", View(size=32)).video.shape == (1, 32, 32, 3)
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "0.jpg")
    assert read(tmp_path, View(size=32)).video.shape == (1, 32, 32, 3)


def test_4k_input_never_lies_in_memory_as_a_whole(tmp_path):
    frames, height, width = 6, 2160, 3840
    path = tmp_path / "4k.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        flat = av.VideoFrame.from_ndarray(np.full((height * 3 // 2, width), 128, np.uint8), format="yuv420p")
        for _ in range(frames):
            container.mux(stream.encode(flat))
        container.mux(stream.encode(None))
    tracemalloc.start()
    footage = read(path, View(size=128, frames=frames))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert footage.video.shape == (frames, 128, 128, 3)
    assert (footage.height, footage.width) == (height, width)
    assert peak < 4 * height * width * 3


@pytest.mark.parametrize("name", ["with space.mp4", "ünïcode 視頻.mp4", "a:b%03d#?.mp4", "-dash.mp4"])
def test_names_of_any_kind(tmp_path, name):
    video = moving_square(2)
    write_lossless(tmp_path / "a.mp4", video)
    (tmp_path / "a.mp4").rename(tmp_path / name)
    assert np.array_equal(read(tmp_path / name, WHOLE).video, video)


def test_sound_with_a_cover_picture_is_not_a_video(tmp_path):
    tone(tmp_path / "song.mp3", "mp3", cover=True)
    assert "no video stream" in refused(tmp_path / "song.mp3")


def test_sixteen_bit_and_palette_frames(tmp_path):
    Image.fromarray(np.full((32, 32), 200, np.uint16) * 257).save(tmp_path / "0.png")
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).quantize().save(tmp_path / "1.png")
    assert (read(tmp_path, WHOLE).video == 200).all()


# --- files that are refused --------------------------------------------------------------------------------------


def tone(path, codec, cover=False):
    """A sound file, with a picture in it if ``cover``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        picture = container.add_stream("png", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "rgb24"
            picture.disposition = 0x400
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        resample = av.AudioResampler(stream.format, stream.layout, 44100, frame_size=stream.frame_size or 1024)
        packets = [p for piece in resample.resample(frame) for p in stream.encode(piece)]
        if picture is not None:
            container.mux(picture.encode(av_frames(moving_square(1))[0]))
            container.mux(picture.encode(None))
        container.mux(packets)
        container.mux(stream.encode(None))


def test_audio_only(tmp_path):
    tone(tmp_path / "sound.mp4", "aac")
    assert "no video stream (streams: audio)" in refused(tmp_path / "sound.mp4")


def test_zero_frames(tmp_path):
    write_lossless(tmp_path / "a.avi", moving_square(1))
    content = (tmp_path / "a.avi").read_bytes()
    at = content.index(b"movi") + 4  # drop the only packet and the index, close the lists
    empty = bytearray(content[:at])
    empty[4:8] = struct.pack("<I", len(empty) - 8)
    empty[at - 8 : at - 4] = struct.pack("<I", 4)
    (tmp_path / "a.avi").write_bytes(empty)
    assert "holds no frame" in refused(tmp_path / "a.avi")
    (tmp_path / "frames").mkdir()
    assert "holds no frame" in refused(tmp_path / "frames")


def test_truncated_mp4_without_its_index(tmp_path):
    path = tmp_path / "cut.mp4"
    write_h264(path, moving_square(20))
    path.write_bytes(path.read_bytes()[:-200])
    assert "cannot be opened as a video" in refused(path)


def test_truncated_mp4_with_its_index_in_front(tmp_path):
    """Frames before the break are right; asking for one behind it is refused, never answered with a guess."""
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=24, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for frame in av_frames(noise(20)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert np.array_equal(read(path, View(size=None, frames=5)).video, noise(20)[:5])
    line = refused(path)
    assert "damaged or cut short after" in line
    assert "damaged or cut short after 20" not in line


def test_truncated_avi(tmp_path):
    path = tmp_path / "cut.avi"
    write_lossless(path, noise(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert np.array_equal(read(path, View(size=None, frames=5)).video, noise(20)[:5])
    assert "damaged or cut short after" in refused(path)


def test_text_renamed_to_mp4(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("this is not a video\n" * 20)
    line = refused(path)
    assert "cannot be opened as a video" in line
    assert "400 bytes" in line


def test_playlist_renamed_to_mp4_reaches_for_nothing(tmp_path):
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(path)


def test_empty_and_absent_files(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refused(tmp_path / "empty.mp4")
    assert "no such file" in refused(tmp_path / "absent.mp4")


def test_starting_behind_the_end(tmp_path):
    write_lossless(tmp_path / "a.mp4", moving_square(4))
    assert "has 4 frames, expected more than 10" in refused(tmp_path / "a.mp4", View(size=None, start=10))


def test_broken_frame_in_a_folder(tmp_path):
    for t, frame in enumerate(moving_square(3)):
        Image.fromarray(frame).save(tmp_path / f"{t}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:300])
    assert "1.jpg: cannot be read as an image" in refused(tmp_path)


def test_frames_of_different_sizes(tmp_path):
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "0.png")
    Image.fromarray(moving_square(1, 32, 32)[0]).save(tmp_path / "1.png")
    assert "frame 1 is 32x32, the frames before are 64x48" in refused(tmp_path, View(size=16))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"frames": 0}, {"start": -1}, {"stride": 0}])
def test_impossible_views(tmp_path, wrong):
    with pytest.raises(ClipError, match=f"view.{next(iter(wrong))} is"):
        read(tmp_path, View(**wrong))


def test_writers_refuse_what_is_not_a_video(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        write_h264(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3), np.float32))
