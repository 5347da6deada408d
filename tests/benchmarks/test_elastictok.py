"""ElasticTok's binary search against a plain transcription of the same maths.

The plain one has what a first port has: a dense boolean mask built on the host for every call, attention over the whole
sequence, separate projections, and no cache, so that each trial runs all blocks up to its own.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.elastictok import ElasticTok, ElasticTokConfig, binary_search, to_official

BLOCKS = 4
THRESHOLD = 0.3


class Plain:
    """The network straight from its description, on official parameters."""

    def __init__(self, model: ElasticTok) -> None:
        self.config, self.p = model.config, to_official(model)

    def __call__(self, x: Tensor, keep: Tensor) -> Tensor:
        """Loss of the last block."""
        c, p = self.config, self.p
        marks = torch.where(keep.unsqueeze(-1), p["encoder/is_kept_embed"], p["encoder/is_masked_embed"])
        y = self.stack(x @ p["encoder/in_proj/kernel"] + marks, "encoder") @ p["encoder/pre_quant/kernel"]
        z = torch.where(keep.unsqueeze(-1), y[..., : c.latent_dim], 0.0)
        recon = torch.tanh(self.stack(z @ p["decoder/post_quant/kernel"], "decoder") @ p["decoder/out_proj/kernel"])
        return (recon.clamp(-1, 1) - x)[:, -c.max_toks :].square().mean((1, 2))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps) * weight

    def stack(self, x: Tensor, side: str) -> Tensor:
        layers = {k.split("scan_decoder/")[1]: v for k, v in self.p.items() if k.startswith(f"{side}/{side}_blocks")}
        for i in range(len(layers["ffn_norm/kernel"])):
            x = self.layer(x, {k: v[i] for k, v in layers.items()})
        return self.norm(x, self.p[f"{side}/ln_f/kernel"])

    def layer(self, x: Tensor, w: dict[str, Tensor]) -> Tensor:
        c, n = self.config, self.norm(x, w["attention_norm/kernel"])
        q, k, v = (
            (n @ w[f"attention/{name}/kernel"]).unflatten(-1, (c.num_attention_heads, -1)).transpose(1, 2)
            for name in ("wq", "wk", "wv")
        )
        q, k = self.turn(q), self.turn(k)
        block = np.arange(x.shape[1]) // c.max_toks
        visible = torch.from_numpy(block[None, :] <= block[:, None])
        scores = (q @ k.transpose(-1, -2) / math.sqrt(c.head_dim)).masked_fill(~visible, -torch.inf)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ w["attention/wo/kernel"]
        n = self.norm(x, w["ffn_norm/kernel"])
        gated = F.silu(n @ w["feed_forward/w1/kernel"]) * (n @ w["feed_forward/w3/kernel"])
        return x + gated @ w["feed_forward/w2/kernel"]

    def turn(self, x: Tensor) -> Tensor:
        half = torch.arange(0, self.config.head_dim, 2) / self.config.head_dim
        angle = torch.arange(x.shape[2]).unsqueeze(1) / self.config.theta**half
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1).flatten(-2)

    def search(self, x: Tensor) -> tuple[list[int], list[float]]:
        tokens, chosen, losses = self.config.max_toks, [], []
        for block in range(x.shape[1] // tokens):
            low, up, tried = self.config.min_toks, tokens, []
            while low < up or not tried:
                ntoks = math.ceil((low + up) / 2)
                counts = torch.tensor([*chosen, ntoks])
                keep = (torch.arange(tokens) <= counts.unsqueeze(1)).view(1, -1)
                tried.append(self(x[:, : (block + 1) * tokens], keep).item())
                low, up = (low, ntoks - 1) if tried[-1] < THRESHOLD else (ntoks, up)
            chosen.append(tokens if min(tried) > THRESHOLD else ntoks)
            losses += tried
        return chosen, losses


@pytest.fixture(scope="module")
def model() -> ElasticTok:
    config = ElasticTokConfig.from_dict(
        {
            "bottleneck_type": "vae",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_attention_heads": 4,
            "patch_size": [2, 8, 8],
            "max_toks": 128,
            "min_toks": 8,
            "theta": 5e6,
        }
    )
    return ElasticTok(config).initialise().requires_grad_(False)


@pytest.fixture(scope="module")
def x(model: ElasticTok) -> Tensor:
    shape = (1, BLOCKS * model.config.max_toks, model.config.patch_dim)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_both_searches_see_the_same_losses(model: ElasticTok, x: Tensor) -> None:
    found = binary_search(model, x, THRESHOLD)
    chosen, losses = Plain(model).search(x)
    assert found.ntoks[0].tolist() == chosen
    np.testing.assert_allclose(np.concatenate([t.loss for block in found.trials for t in block]), losses, atol=1e-5)


@pytest.mark.benchmark(group="elastictok: binary search of a chunk of 4 blocks")
def test_speed_of_ours(benchmark, model: ElasticTok, x: Tensor) -> None:
    found = benchmark(binary_search, model, x, THRESHOLD)
    assert found.ntoks.shape == (1, BLOCKS)


@pytest.mark.benchmark(group="elastictok: binary search of a chunk of 4 blocks")
def test_speed_of_a_plain_transcription(benchmark, model: ElasticTok, x: Tensor) -> None:
    plain = Plain(model)
    with torch.inference_mode():
        chosen, _ = benchmark(plain.search, x)
    assert len(chosen) == BLOCKS
