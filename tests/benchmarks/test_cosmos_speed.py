"""How much faster the Cosmos networks are than a plain transcription of the same maths.

    pytest tests/benchmarks/test_cosmos_speed.py --benchmark-only --benchmark-group-by=group

The transcription is independent of the package's networks, so it also serves as a second opinion on them.
"""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from avtbench.methods.placement import seeded
from avtbench.methods.tokenizers.cosmos import CosmosConfig, CosmosModel, CosmosSpec

# Processor time, so that other work on the machine does not enter the ratio.
pytestmark = pytest.mark.benchmark(timer=time.process_time, min_rounds=5, warmup=True)


class PlainCosmos:
    """Continuous encoder and decoder over a state dict of official names; three levels, patch and steps given.

    ``[B, C, T, H, W]`` throughout: 3-D convolutions, a strided one per wavelet band, attention matrices spelt out.
    """

    def __init__(self, state: dict[str, Tensor], patch: int, spatial_steps: int, temporal_steps: int):
        self.state, self.patch, self.ns, self.nt = state, patch, spatial_steps, temporal_steps

    def conv(self, name: str, x: Tensor, stride: tuple[int, int, int] = (1, 1, 1), pad: int | None = None) -> Tensor:
        w, b = self.state[f"{name}.conv3d.weight"], self.state[f"{name}.conv3d.bias"]
        before = w.shape[2] - 1 + (1 - stride[0]) if w.shape[2] > 1 else 0
        x = torch.cat([x[:, :, :1].repeat(1, 1, before, 1, 1), x], 2)
        side = (w.shape[-1] // 2) if pad is None else pad
        return F.conv3d(F.pad(x, (side, side, side, side)), w, b, stride)

    def pair(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.1", self.conv(f"{name}.0", x))

    def norm(self, name: str, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        frames = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
        frames = F.group_norm(frames, 1, self.state[f"{name}.norm.weight"], self.state[f"{name}.norm.bias"], 1e-6)
        return frames.reshape(b, t, c, h, w).permute(0, 2, 1, 3, 4)

    def swish(self, name: str, x: Tensor) -> Tensor:
        x = self.norm(name, x)
        return x * torch.sigmoid(x)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.pair(f"{name}.conv1", self.swish(f"{name}.norm1", x))
        h = self.pair(f"{name}.conv2", self.swish(f"{name}.norm2", h))
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.conv3d.weight" in self.state else x)

    def attention(self, name: str, x: Tensor, over_time: bool) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        b, c, t, height, width = x.shape
        order = (0, 3, 4, 2, 1) if over_time else (0, 2, 3, 4, 1)
        groups = (b * height * width, t, c) if over_time else (b * t, height * width, c)
        q, k, v = (self.conv(f"{name}.{n}", h).permute(order).reshape(groups) for n in "qkv")
        logits = q @ k.transpose(1, 2) * c**-0.5
        if over_time:
            logits = logits.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
        h = logits.softmax(-1) @ v
        if over_time:
            h = h.reshape(b, height, width, t, c).permute(0, 4, 3, 1, 2)
        else:
            h = h.reshape(b, t, height, width, c).permute(0, 4, 1, 2, 3)
        return x + self.conv(f"{name}.proj_out", h)

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.block(f"{name}.block_1", x)
        x = self.attention(f"{name}.attn_1.0", x, over_time=False)
        x = self.attention(f"{name}.attn_1.1", x, over_time=True)
        return self.block(f"{name}.block_2", x)

    def filters(self, band: int) -> Tensor:
        taps = [torch.tensor([1.0, -1.0 if band >> bit & 1 else 1.0]) for bit in (2, 1, 0)]
        return taps[0][:, None, None] * taps[1][None, :, None] * taps[2][None, None, :] / 8

    def encode(self, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> latent."""
        p = self.patch
        x = torch.cat([x[:, :, :1].repeat(1, 1, p - 1, 1, 1), x], 2)
        for _ in range(p.bit_length() - 1):
            n = x.shape[1]
            bands = [F.conv3d(x, self.filters(b).expand(n, 1, 2, 2, 2), stride=2, groups=n) for b in range(8)]
            x = torch.cat(bands, 1)
        x = self.pair("encoder.conv_in", x)
        for level in range(3):
            for i in range(2):
                x = self.block(f"encoder.down.{level}.block.{i}", x)
            name = f"encoder.down.{level}.downsample"
            if level < min(self.ns, 2):
                pooled = F.avg_pool3d(x, (1, 2, 2))
                x = self.conv(f"{name}.conv1", F.pad(x, (0, 1, 0, 1)), (1, 2, 2), 0) + pooled
            if level < min(self.nt, 2):
                x = torch.cat([x[:, :, :1], x], 2)
                x = self.conv(f"{name}.conv2", x, (2, 1, 1), 0) + F.avg_pool3d(x, (2, 1, 1))
            if level < 2 and (level < self.ns or level < self.nt):
                x = self.conv(f"{name}.conv3", x)
        x = self.middle("encoder.mid", x)
        return self.conv("quant_conv", self.pair("encoder.conv_out", self.swish("encoder.norm_out", x)))

    def decode(self, z: Tensor) -> Tensor:
        """Latent -> [B, 3, T, H, W]."""
        x = self.middle("decoder.mid", self.pair("decoder.conv_in", self.conv("post_quant_conv", z)))
        for depth in range(3):
            level = 2 - depth
            for i in range(3):
                x = self.block(f"decoder.up.{level}.block.{i}", x)
            name = f"decoder.up.{level}.upsample"
            temporal = 0 < depth < self.nt + 1
            spatial = temporal or (depth < self.ns and self.ns > self.nt)
            if level and temporal:
                x = x.repeat_interleave(2, 2)[:, :, 1:] if x.shape[2] > 1 else x
                x = self.conv(f"{name}.conv1", x, pad=0) + x
            if level and spatial:
                x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
                x = self.conv(f"{name}.conv2", x) + x
            if level and (spatial or temporal):
                x = self.conv(f"{name}.conv3", x)
        x = self.pair("decoder.conv_out", self.swish("decoder.norm_out", x))
        for _ in range(self.patch.bit_length() - 1):
            n = x.shape[1] // 8
            bands = [
                F.conv_transpose3d(
                    x[:, b * n : (b + 1) * n], 8 * self.filters(b).expand(n, 1, 2, 2, 2), stride=2, groups=n
                )
                for b in range(8)
            ]
            x = sum(bands[1:], bands[0])
        return x[:, :, self.patch - 1 :]


@pytest.fixture(scope="module", params=[(4, 8), (2, 4)], ids=["CV8x8x8", "CV4x8x8-360p"])
def pair(request):
    """(this package's network, the plain one) on the same random parameters, and a clip of 9x64x64."""
    patch, temporal = request.param
    with seeded(0):
        ours = CosmosModel(CosmosSpec(CosmosConfig(channels=32, patch_size=patch, temporal_compression=temporal)))
        clip = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    steps = ours.encoder.config.spatial_steps, ours.encoder.config.temporal_steps
    return ours, PlainCosmos({k: v.contiguous() for k, v in ours.state_dict().items()}, patch, *steps), clip


@torch.inference_mode()
def test_both_compute_the_same(pair):
    ours, plain, clip = pair
    latent = plain.encode(clip)
    torch.testing.assert_close(ours.encode(clip), latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.decode(latent), plain.decode(latent), atol=1e-4, rtol=0)


@pytest.mark.parametrize("which", ["plain", "ours"])
def test_encode(benchmark, pair, which):
    ours, plain, clip = pair
    benchmark.group = f"encode {ours.spec.title} patch {plain.patch}"
    with torch.inference_mode():
        assert benchmark({"plain": plain, "ours": ours}[which].encode, clip).shape[1] == 16


@pytest.mark.parametrize("which", ["plain", "ours"])
def test_decode(benchmark, pair, which):
    ours, plain, clip = pair
    benchmark.group = f"decode {ours.spec.title} patch {plain.patch}"
    with torch.inference_mode():
        latent = ours.encode(clip)
        assert benchmark({"plain": plain, "ours": ours}[which].decode, latent).shape == clip.shape
