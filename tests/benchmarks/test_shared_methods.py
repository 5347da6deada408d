"""What the rules on the shared tokeniser cost: threshold, filling, search and routing, beside the tokeniser itself."""

import pytest
import torch

from avtbench.bench import plugins
from avtbench.datasets.contract import View
from avtbench.datasets.synthetic import Synthetic
from avtbench.methods.threshold import threshold_mask


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    dataset = Synthetic(clips=4)
    return torch.from_numpy(dataset.read(dataset.clips()[3], View(size=128, frames=17)).video.copy())


@pytest.fixture(scope="module", autouse=True)
def inference():
    with torch.inference_mode():
        yield


def build(name: str):
    return plugins.create("method", name, tokenizer="embedded")


@pytest.mark.benchmark(group="17x128x128, embedded tokeniser")
class TestParts:
    def test_encoder(self, benchmark, video):
        benchmark(build("full-rate").tokenizer.encode, video)

    def test_decoder(self, benchmark, video):
        method = build("full-rate")
        benchmark(method.tokenizer.decode, method.tokenizer.encode(video), (17, 128, 128))

    @pytest.mark.parametrize("reference", ["previous", "last_kept"])
    def test_threshold_select(self, benchmark, video, reference):
        benchmark(threshold_mask, build("hold").encode(video).z, 0.2, reference)

    def test_lit_forward(self, benchmark, video):
        lit = build("lit")
        tokens = lit.select(lit.encode(video), 0.2)
        benchmark(lit.fill, lit.unpack(tokens), tokens.keep)

    def test_elastictok_style_search(self, benchmark, video):
        method = build("elastictok-style")
        benchmark.pedantic(method.select, (method.encode(video), 0.012), rounds=3, warmup_rounds=1)

    def test_infotok_style_routing(self, benchmark, video):
        method = build("infotok-style")
        benchmark(method.select, method.encode(video), 0.5)
