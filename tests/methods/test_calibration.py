"""Thresholds are in standard deviations of the latents: stated by the tokeniser, shipped for it, or measured."""

import json

import numpy as np
import pytest
import torch

from avtbench.bench import plugins
from avtbench.methods import calibration
from avtbench.methods.baselines import Hold
from avtbench.methods.calibration import LatentStatistics, latent_statistics, read_statistics
from avtbench.methods.contract import ContractError
from avtbench.methods.tokenizers.frames import FrameTokenizer
from avtbench.methods.trained import header_for
from avtbench.methods.training.crops import CropSampler, TrainingClip
from avtbench.methods.training.statistics import measure_statistics, write_statistics

PLUGIN = '''
"""A tokeniser that states no statistics."""
from avtbench.methods.tokenizers.frames import FrameTokenizer
class Bare(FrameTokenizer):
    name = "bare"
    channels, spatial, digest = 3, 4, "0123456789abcdef"
    def encode_images(self, x):
        return x[:, :, ::4, ::4] * 2 + 1
    def decode_images(self, z):
        return ((z - 1) / 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
'''


class Bare(FrameTokenizer):
    name, channels, spatial, digest = "bare", 3, 4, "0123456789abcdef"

    def encode_images(self, x):
        return x[:, :, ::4, ::4] * 2 + 1

    def decode_images(self, z):
        return ((z - 1) / 2).repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture
def sampler() -> CropSampler:
    video = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), dtype=np.uint8)
    return CropSampler([TrainingClip("noise", "d1", video)], frames=5, size=32, batch=1)


def written(path, tokenizer, sampler):
    write_statistics(path, measure_statistics(tokenizer, sampler, 6), tokenizer, sampler, 6)
    return path


def test_without_statistics_the_error_names_the_command_that_measures_them():
    with pytest.raises(ContractError, match="avtbench train statistics --tokenizer bare --data VIDEOS --out FILE"):
        Hold(Bare())


def test_measured_statistics_are_the_mean_and_deviation_of_every_channel(sampler):
    tokenizer = Bare()
    found = measure_statistics(tokenizer, sampler, 6)
    z = torch.cat([tokenizer.encode(sampler.sample(step)[0]).flatten(1) for step in range(6)], 1)
    assert torch.allclose(found.mean, z.mean(1), atol=1e-5)
    assert torch.allclose(found.std, z.std(1, correction=0), atol=1e-5)


def test_every_tokeniser_takes_a_file_of_statistics(tmp_path, sampler):
    file = written(tmp_path / "bare.json", Bare(), sampler)
    assert json.loads(file.read_text())["data"] == [{"name": "noise", "digest": "d1"}]
    plugin = tmp_path / "bare.py"
    plugin.write_text(PLUGIN)
    tokenizer = {"name": str(plugin), "statistics": str(file)}
    hold = plugins.create("method", "hold", tokenizer=tokenizer)
    z = hold.encode(sampler.sample(0)[0]).z
    assert abs(float(z.mean())) < 0.1
    assert float(z.std()) == pytest.approx(1, abs=0.05)
    assert plugins.get("tokenizer", str(plugin)).knobs == {"statistics": "None"}


def test_shipped_statistics_are_found_by_the_digest_of_the_parameters(tmp_path, sampler, monkeypatch):
    written(tmp_path / "statistics-bare.json", Bare(), sampler)
    monkeypatch.setattr(calibration, "WEIGHTS", tmp_path)
    calibration._shipped.cache_clear()
    assert latent_statistics(Bare()).std.shape == (3,)
    other = Bare()
    other.digest = "another"
    with pytest.raises(ContractError, match="has no latent statistics"):
        latent_statistics(other)
    calibration._shipped.cache_clear()


def test_a_file_of_another_tokeniser_or_of_something_else_is_refused_in_one_line(tmp_path, sampler):
    other = Bare()
    other.digest = "another"
    file = written(tmp_path / "other.json", other, sampler)
    with pytest.raises(ContractError, match="digest another and 3 channels, but bare has 0123456789abcdef"):
        read_statistics(file, Bare())
    (tmp_path / "x.json").write_text('{"mean": [1, 2, 3]}')
    for name, said in (("x.json", "no statistics file"), ("none.json", "No such file")):
        with pytest.raises(ContractError, match=said) as caught:
            read_statistics(tmp_path / name, Bare())
        assert "\n" not in str(caught.value)


def test_a_checkpoint_knows_the_units_that_it_was_trained_in():
    tokenizer = Bare()
    tokenizer.mean, tokenizer.std = torch.zeros(3), torch.ones(3)
    told = json.loads(header_for(tokenizer, {"channels": 3})["statistics"])
    assert latent_statistics(tokenizer).agree_with(told)
    assert not LatentStatistics(torch.zeros(3), torch.tensor([1, 1, 1.1])).agree_with(told)
    assert not LatentStatistics(torch.zeros(2), torch.ones(2)).agree_with(told)
    assert not latent_statistics(tokenizer).agree_with({}), "a checkpoint without statistics is not trusted"


@pytest.mark.shared
@torch.inference_mode()
@pytest.mark.parametrize("name", ["full-rate", "hold", "random", "oracle"])
def test_rules_run_on_taef2_with_the_statistics_that_ship_for_it(shared, name):
    tokenizer = {"name": "taef2", "weights": str(shared / "weights" / "taef2")}
    method = plugins.create("method", name, tokenizer=tokenizer)
    video = torch.randint(0, 256, (3, 32, 40, 3), dtype=torch.uint8)
    tokens = method.select(method.encode(video), 0.5)
    assert method.decode(tokens).shape == video.shape
