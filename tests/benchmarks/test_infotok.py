"""InfoTok's ViT attention against a plain transcription of the same maths; run with ``--benchmark-only``."""

import pytest
import torch
from torch import nn

from avtbench.methods.infotok.transformer import Attention, rotary_table

GRID = (5, 16, 16)
"""17 frames of 128 x 128; width and heads are the published ones."""
WIDTH, HEADS, THETA = 256, 32, 1e4


class PlainAttention(nn.Module):
    """As one would write it down: complex rotary, an S x S mask made on the host for every call, stock attention."""

    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x, grid):
        frames, height, width = grid
        q, k, v = nn.functional.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, dim=-1)
        size = WIDTH // HEADS
        frequency = 1 / THETA ** (torch.arange(0, size, 2) / size)
        rows = torch.outer(torch.arange(height), frequency[0::2])[:, None].expand(-1, width, -1)
        columns = torch.outer(torch.arange(width), frequency[1::2])[None].expand(height, -1, -1)
        angle = torch.cat((rows, columns), dim=-1).reshape(-1, size // 2).repeat(frames, 1)
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k = (
            torch.view_as_real(torch.view_as_complex(y.float().reshape(1, -1, HEADS, size // 2, 2)) * turn).reshape(
                x.shape
            )
            for y in (q, k)
        )
        frame = torch.arange(frames * height * width) // (height * width)
        hidden = (frame[:, None] < frame[None, :]).to(x.device)
        return self.mha(q, k, v, attn_mask=hidden, need_weights=False)[0]


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    ours, plain = Attention(WIDTH, HEADS).eval(), PlainAttention().eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain, torch.randn(1, GRID[0] * GRID[1] * GRID[2], WIDTH)


@pytest.mark.benchmark(group="infotok ViT attention, 17x128x128")
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_attention(benchmark, pair, kind):
    ours, plain, x = pair
    rotation = rotary_table(GRID[1], GRID[2], WIDTH // HEADS, THETA)
    calls = {"ours": lambda: ours(x, rotation, GRID[0]), "plain": lambda: plain(x, GRID)}
    with torch.inference_mode():
        benchmark(calls[kind])
        torch.testing.assert_close(calls["ours"](), calls["plain"](), rtol=0, atol=1e-5)
