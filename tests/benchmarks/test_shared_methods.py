"""What the rules on the shared tokeniser cost: threshold, filling, search and routing, beside the tokeniser itself."""

import pytest
import torch

from avtbench.bench import plugins
from avtbench.datasets.contract import View
from avtbench.datasets.synthetic import Synthetic
from avtbench.methods.threshold import threshold_mask
from avtbench.methods.training.inpainting import mask_at


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

    @pytest.mark.parametrize("setting", [0.2, 0.8])
    def test_lit_select_and_pack(self, benchmark, video, setting):
        lit = build("lit")
        benchmark(lit.select, lit.encode(video), setting)

    @pytest.mark.parametrize("kept", [0.25, 0.5, 0.75])
    def test_lit_fill(self, benchmark, kept):
        """On latents that drift everywhere, so that the threshold brings exactly this kept fraction."""
        z = torch.randn(16, 5, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(1)
        keep = mask_at(z, kept)
        benchmark.extra_info["kept"] = float(keep.float().mean())
        benchmark(build("lit").fill, torch.where(keep, z, 0.0), keep)

    def test_lit_encode_side(self, benchmark, video):
        lit = build("lit")
        benchmark(lambda: lit.select(lit.encode(video), 0.2))

    def test_lit_decode_side(self, benchmark, video):
        lit = build("lit")
        benchmark(lit.decode, lit.select(lit.encode(video), 0.2))

    def test_elastictok_style_search(self, benchmark, video):
        method = build("elastictok-style")
        benchmark.pedantic(method.select, (method.encode(video), 0.012), rounds=3, warmup_rounds=1)

    def test_infotok_style_routing(self, benchmark, video):
        method = build("infotok-style")
        benchmark(method.select, method.encode(video), 0.5)
