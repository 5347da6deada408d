"""Files of any length through a method, and what borders between chunks cost."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from avtbench.bench import cli, plugins
from avtbench.bench.metrics import profiles
from avtbench.bench.metrics.quality import measure
from avtbench.bench.seams import AT_ONCE, at_once, rows, seam, summary
from avtbench.bench.streams import Totals, run
from avtbench.datasets.contract import View
from avtbench.datasets.synthetic import Synthetic
from avtbench.datasets.video import opened, read, write_lossless, writing_h264
from avtbench.methods.streaming import Caches, split

TAU = 0.1


def synthetic(frames: int, size: int = 32) -> torch.Tensor:
    dataset = Synthetic(clips=4)
    return torch.from_numpy(dataset.read(dataset.clips()[3], View(size=size, frames=frames)).video.copy())


def build(name: str):
    return plugins.create("method", name, tokenizer="embedded")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_lossless(path, synthetic(41).numpy(), fps=25)
    return path


@pytest.fixture
def avtbench(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments) -> tuple[int, str, str]:
        code = cli._main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def test_totals_are_those_of_the_whole_clip():
    video, lit = synthetic(41), build("lit")
    totals, frames = Totals(lit.step), []
    for chunk in run(lit, split(video, *lit.chunking(16)), TAU):
        totals.add(chunk)
        frames.append(chunk.reconstruction)
    assert totals.whole.psnr(totals.values) == pytest.approx(profiles.psnr(measure(video, torch.cat(frames))))
    assert (totals.chunks, totals.whole.frames) == (3, 41)
    assert (totals.border.frames, totals.inside.frames) == (8, 16), "4 of 16 and of 8 frames; the first chunk is apart"


def test_reading_and_both_sides_have_clocks_of_their_own():
    now, video, hold = iter(range(0, 10**12, 10**9)), synthetic(9), build("hold")
    (chunk,) = run(hold, [video], TAU, nanoseconds=lambda: next(now))
    assert (chunk.read, chunk.encode_side, chunk.decode_side) == (1, 1, 1), "a second between any two borders"


def test_jumps_are_the_change_of_the_error_from_frame_to_frame():
    video, hold = synthetic(25), build("hold")
    chunks = list(run(hold, split(video, *hold.chunking(8)), TAU))
    error = torch.cat([c.reconstruction for c in chunks]).int() - video.int()
    jumps = [jump for chunk in chunks for jump in chunk.jumps]
    assert jumps[0] == 0
    assert jumps[1:] == error.diff(dim=0).square().sum(dim=(1, 2, 3)).tolist()


def test_hold_has_no_seam_with_its_cache_and_one_without():
    video, hold, tau = synthetic(41), build("hold"), 0.4
    with_cache, without = (seam(hold, video, tau, 16, caches) for caches in (Caches(), Caches(selection=False)))
    assert with_cache["seam"] == pytest.approx(0, abs=1e-3)
    assert with_cache["pulse"] == pytest.approx(0, abs=1e-3)
    assert with_cache["jump_border"] == pytest.approx(with_cache["jump_inside"], rel=1e-3)
    assert with_cache["psnr"] == pytest.approx(at_once(hold, video, tau, 16)["psnr"], abs=1e-3)
    assert without["kept_fraction"] > with_cache["kept_fraction"]
    assert without["pulse"] > 10 * with_cache["pulse"] + 0.02
    assert without["jump_border"] > 1.02 * without["jump_inside"]


def test_a_table_of_seams_tells_the_interval_over_clips():
    video = synthetic(41)
    table = pd.DataFrame(rows({"hold": build("hold")}, [("a", video), ("b", video.flip(2))], [TAU], 16))
    means = summary(table).set_index("caches")
    assert list(means.index) == [AT_ONCE, "C_sel + C_fill", "C_sel", "C_fill", "none"]
    assert means.loc[AT_ONCE, "seam (dB)"] == ""
    assert re.fullmatch(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", means.loc["none", "seam (dB)"])
    assert set(means.clips) == {2}


def test_a_clip_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="expected at least 37 frames"):
        seam(build("hold"), synthetic(17), TAU, 16)


def test_the_command_streams_a_file(avtbench, film):
    code, out, err = avtbench("stream", "lit", film, "--setting", TAU, "--size", 32, "--out", "back.mp4", "--each")
    assert (code, err) == (0, "")
    assert "chunk 2, frames 33-40: kept" in out
    assert re.search(r"frames +41 in 3 chunks", out)
    assert "caches C_sel + C_fill" in out
    assert re.search(r"outside that +reading \d\S* \S+, writing \d", out)
    assert re.search(r"peak resident memory +\d+\.\d MiB", out)
    back = read(Path("back.mp4"), View(size=None, frames=None))
    assert back.video.shape == (41, 32, 32, 3)
    assert back.fps == 25


def test_the_command_takes_caches_off(avtbench, film):
    def kept(*switches: str) -> float:
        _, out, _ = avtbench("stream", "lit", film, "--setting", TAU, "--size", 32, *switches)
        return float(re.search(r"kept fraction +(\S+)", out)[1])

    assert kept() == kept("--no-c-fill") < kept("--no-c-sel") == kept("--no-caches")


def test_the_command_says_why_a_method_does_not_stream(avtbench, film):
    code, _, err = avtbench("stream", "oracle", film)
    assert code == 2
    assert err.startswith("avtbench: oracle does not stream: oracle takes a clip as a whole")
    assert len(err.splitlines()) == 1


def test_the_command_writes_a_table_of_seams(avtbench, film):
    code, out, err = avtbench(
        "seams", "hold", "--data", film.parent, "--setting", TAU, "--frames", 41, "--size", 32, "--out", "seams"
    )
    assert (code, err) == (0, "")
    assert "seams.csv: 5 rows" in out
    assert len(pd.read_csv("seams/seams.csv")) == 5
    page = Path("seams/seams.md").read_text()
    assert "C_sel + C_fill" in page
    assert "hold.tokenizer_digest" in page


def test_a_reel_gives_what_reading_at_once_gives(film):
    view = View(size=24, frames=7, start=2, stride=3)
    with opened(film, view) as reel:
        frames = np.stack(list(reel))
    at_once = read(film, view)
    assert np.array_equal(frames, at_once.video)
    assert (reel.fps, reel.extent) == (at_once.fps, (at_once.height, at_once.width))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    film, square = tmp_path / "long.mp4", synthetic(40, 64).numpy()
    with writing_h264(film, 64, 64) as append:
        for _ in range(50):
            append(square)

    def peak(frames: int) -> float:
        command = [sys.executable, "-m", "avtbench.bench", "stream", "lit", str(film), "--setting", str(TAU)]
        # left alone, glibc moves its threshold at run time, and the peak varies by a tenth from run to run
        fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
        command += ["--size", "64", "--frames", str(frames)]
        done = subprocess.run(command, capture_output=True, text=True, env=fixed)
        assert f"{frames} in " in done.stdout, done.stderr
        return float(re.search(r"peak resident memory +(\S+) MiB", done.stdout)[1])

    assert peak(2000) < 1.05 * peak(200)
