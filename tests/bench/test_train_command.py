"""``avtbench train`` on a folder of pictures: what cannot be is refused in one line, before anything is read."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from avtbench.bench.commands.train import app
from avtbench.bench.errors import UserError
from avtbench.methods.contract import ContractError


@pytest.fixture
def videos(tmp_path):
    """Two recordings of nine frames as folders of pictures."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        picture = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(picture).resize((80, 48)))
        for k in range(9):
            Image.fromarray(np.roll(large, 2 * k, axis=1)).save(tmp_path / "videos" / name / f"{k:05d}.png")
    return tmp_path / "videos"


def run(*words):
    done = CliRunner().invoke(app, [str(w) for w in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loss", "lpips"], "--loss lpips needs a backbone: give --lpips with one of vgg, alex, squeeze"),
        (["--loss", "relative"], "--loss relative needs a backbone: give --lpips with one of vgg, alex, squeeze"),
        (["--lpips", "resnet"], "--lpips resnet: expected one of vgg, alex, squeeze"),
        (["--lpips", "vgg", "--lpips-weights", "/nowhere"], "/nowhere does not exist"),
        (["--reference", "next"], "--reference next: expected last_kept, previous or both"),
        (["--width", "50"], "width is 50, expected a multiple of the 3 heads"),
        (["--attention", "full"], "attention is 'full', expected factorised or joint"),
        (["--loss", "l3"], "--loss l3: expected one of latent-l2, latent-l1, pixel, lpips, relative"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(videos, tmp_path, monkeypatch, words, said):
    monkeypatch.delenv("AVTBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises((UserError, ContractError)) as caught:
        run("lit", "--data", videos, "--out", tmp_path / "out", *words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_runs_share_the_encoded_crops_and_their_cards_tell_the_options(videos, tmp_path):
    common = ["lit", "--data", videos, "--size", 48, "--frames", 9, "--crops", 4, "--batch", 2, "--steps", 2]
    for name, options in (("a", []), ("b", ["--input", "mask", "--loss", "latent-l1", "--reference", "previous"])):
        done = run(*common, "--cache", tmp_path / "cache", "--out", tmp_path / name, *options)
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "cache").iterdir())) == 1
    card = json.loads((tmp_path / "b" / "card.json").read_text())
    assert card["task"] == "lit-plain"
    assert card["loss"] == "latent-l1"
    assert card["references"] == ["previous"]
    assert card["config"]["input"] == "mask"
