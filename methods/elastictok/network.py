"""The network: two block-causal transformers, encoder and decoder, each with its own key/value cache.

Letters: B batch, M = ``max_toks`` tokens a block, n blocks, L = n * M, D values of a patch, dz latent channels.
Written from elastictok.md section 3; no biases anywhere. A query sees every key of its own block and of earlier blocks.
That structure is used, not masked: each block's queries attend to the prefix of keys that they may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.contract import ContractError
from avtbench.methods.elastictok.bottleneck import FSQ, VAE
from avtbench.methods.elastictok.config import ElasticTokConfig
from avtbench.methods.stages import evaluated, stage


@lru_cache(maxsize=8)
def rotation(head_dim: int, rows: int, theta: float, device: torch.device) -> Tensor:
    """RoPE table, complex64 ``[rows, head_dim / 2]``: row p turns pair j by p * theta^(-2j / head_dim)."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequency = (1.0 / np.float32(theta) ** exponent).astype(np.float32)
    angle = np.outer(np.arange(rows), frequency).astype(np.float32)
    with torch.inference_mode(False):
        return torch.complex(torch.from_numpy(np.cos(angle)), torch.from_numpy(np.sin(angle))).to(device)


class Memory(NamedTuple):
    """One layer's slice of a cache, ``[B, heads, capacity, head_dim]`` each, and the row to write at."""

    keys: Tensor
    values: Tensor
    start: int


@dataclass
class KVCache:
    """Rotated keys and values of every layer, preallocated: ``[layers, 2, B, heads, capacity, head_dim]`` on each side.

    A pass over block i overwrites rows i*M .. (i+1)*M and reads rows 0 .. (i+1)*M, so a trial needs no copy: the next
    pass over the same block simply replaces it, and what was committed before stays as it is.
    """

    encoder: Tensor
    decoder: Tensor

    @property
    def batch(self) -> int:
        return self.encoder.shape[2]

    @property
    def capacity(self) -> int:
        """Rows, i.e. tokens."""
        return self.encoder.shape[4]


class Attention(nn.Module):
    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.heads, self.block = config.num_attention_heads, config.max_toks
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def project(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, L, H]`` -> queries, keys (both rotated, adjacent pairs) and values ``[B, heads, L, head_dim]``."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        pairs = torch.view_as_complex(parts[:, :, :2].float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * turn[:, None, None]).flatten(-2).to(x.dtype)
        q, k = turned.permute(2, 0, 3, 1, 4)
        return q, k, parts[:, :, 2].transpose(1, 2)

    def forward(self, x: Tensor, turn: Tensor, memory: Memory | None) -> Tensor:
        q, k, v = self.project(x, turn)
        start, length = 0, x.shape[1]
        if memory is not None:
            start = memory.start
            memory.keys[:, :, start : start + length] = k
            memory.values[:, :, start : start + length] = v
            k, v = memory.keys, memory.values
        seen = [
            F.scaled_dot_product_attention(
                q[:, :, at : at + self.block],
                k[:, :, : start + at + self.block],
                v[:, :, : start + at + self.block],
            ).transpose(1, 2)
            for at in range(0, length, self.block)
        ]
        mixed = seen[0] if len(seen) == 1 else torch.cat(seen, 1)
        return self.wo(mixed.flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: W2(silu(W1 x) * W3 x)."""

    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.w13 = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w13(x).chunk(2, -1)
        return self.w2(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, turn: Tensor, memory: Memory | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, memory)
        return x + self.feed_forward(self.ffn_norm(x))


class Stack(nn.Module):
    """Layers and the final norm ``ln_f``."""

    def __init__(self, config: ElasticTokConfig, layers: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(layers))
        self.ln_f = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def turn(self, start: int, stop: int, device: torch.device) -> Tensor:
        c = self.config
        return rotation(c.head_dim, c.max_sequence_length, c.theta, device)[start:stop]

    def forward(self, x: Tensor, cache: Tensor | None, start: int) -> Tensor:
        turn = self.turn(start, start + x.shape[1], x.device)
        for i, layer in enumerate(self.layers):
            x = layer(x, turn, None if cache is None else Memory(cache[i, 0], cache[i, 1], start))
        return self.ln_f(x)


class Encoder(nn.Module):
    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.patch_dim, config.hidden_size, bias=False)
        self.is_kept_embed = nn.Parameter(torch.empty(1, config.hidden_size))
        self.is_masked_embed = nn.Parameter(torch.empty(1, config.hidden_size))
        self.stack = Stack(config, config.num_encoder_layers)
        self.pre_quant = nn.Linear(config.hidden_size, config.proj_dim, bias=False)

    def embed(self, x: Tensor, keep: Tensor) -> Tensor:
        """Patches and the marks of what survives; the encoder always sees every patch."""
        return self.in_proj(x) + torch.where(keep.unsqueeze(-1), self.is_kept_embed, self.is_masked_embed)

    def forward(self, x: Tensor, keep: Tensor, cache: Tensor | None, start: int) -> Tensor:
        return self.pre_quant(self.stack(self.embed(x, keep), cache, start))


class Decoder(nn.Module):
    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.post_quant = nn.Linear(config.latent_dim, config.hidden_size, bias=False)
        self.stack = Stack(config, config.num_decoder_layers)
        self.out_proj = nn.Linear(config.hidden_size, config.patch_dim, bias=False)

    def forward(self, z: Tensor, cache: Tensor | None, start: int) -> Tensor:
        return torch.tanh(self.out_proj(self.stack(self.post_quant(z), cache, start)))


class Pass(NamedTuple):
    """Result of one encoder and one decoder evaluation, all float32."""

    z: Tensor
    """``[B, L, dz]``, 0 at dropped positions."""
    recon: Tensor
    """``[B, L, D]`` in (-1, 1)."""
    block_loss: Tensor
    """``[B, n]``, see :meth:`ElasticTok.block_loss`."""


class ElasticTok(nn.Module):
    """ElasticTok with a VAE or FSQ bottleneck. Parameters are uninitialised until loaded or :meth:`initialise`-d.

    Inputs are patches ``x: float [B, L, D]`` in [-1, 1] (``frames.patchify(frames.to_unit(video), config)``) and
    ``keep: bool [B, L]``, each block a prefix. With ``cache`` and ``block`` a call codes the blocks from ``block`` on,
    given the ones that the cache holds; without, whole sequences from position 0.
    """

    def __init__(self, config: ElasticTokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.bottleneck = (
            VAE(config.vae_bottleneck_dim) if config.bottleneck_type == "vae" else FSQ(config.fsq_quant_levels)
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.in_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.encoder.in_proj.weight.device

    def initialise(self, seed: int = 0) -> ElasticTok:
        """Random parameters, the same on any device: std 0.02, mark embeddings 1 / sqrt(H), norms 1."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("norm.weight", "ln_f.weight")):
                    parameter.fill_(1)
                    continue
                std = self.config.hidden_size**-0.5 if name.endswith("_embed") else 0.02
                parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
        return self

    def new_cache(self, batch: int = 1, blocks: int | None = None) -> KVCache:
        """An empty cache for ``blocks`` blocks (default: all that fit in a sequence)."""
        c = self.config
        rows = (c.max_sequence_length // c.max_toks if blocks is None else blocks) * c.max_toks
        shape = (2, batch, c.num_attention_heads, rows, c.head_dim)
        encoder, decoder = (
            torch.empty((layers, *shape), device=self.device, dtype=self.dtype)
            for layers in (c.num_encoder_layers, c.num_decoder_layers)
        )
        return KVCache(encoder, decoder)

    # Which positions are kept: the two conventions of elastictok.md section 2.

    def keep_upto(self, ntoks: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """The mask sampler (training, searches): position p of a block is kept iff p <= ntoks, so ntoks + 1 of them.

        ``ntoks`` int ``[B, n]`` (or ``[n]`` for a batch of one) -> bool ``[B, L]``.
        """
        counts = torch.atleast_2d(torch.as_tensor(ntoks)).to(self.device)
        return (torch.arange(self.config.max_toks, device=self.device) <= counts.unsqueeze(-1)).flatten(1)

    def keep_first(self, counts: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Exactly ``counts`` tokens of each block: int ``[B, n]`` or ``[n]`` -> bool ``[B, L]``."""
        return self.keep_upto(torch.as_tensor(counts) - 1)

    # One network each.

    def encode(self, x: Tensor, keep: Tensor, cache: KVCache | None = None, block: int = 0) -> Tensor:
        """Patches and marks -> latents float32 ``[B, L, dz]``: VAE means or FSQ code values, 0 where dropped."""
        start = self._check(x, self.config.patch_dim, cache, block)
        if keep.shape != x.shape[:2]:
            raise ContractError(f"ElasticTok: keep has shape {tuple(keep.shape)}, expected {tuple(x.shape[:2])}")
        with stage("encoder"):
            evaluated("elastictok_encoder")
            y = self.encoder(x.to(self.dtype), keep, None if cache is None else cache.encoder, start)
            return self.bottleneck(y).masked_fill(~keep.unsqueeze(-1), 0)

    def decode(self, z: Tensor, cache: KVCache | None = None, block: int = 0) -> Tensor:
        """Latents ``[B, L, dz]``, 0 where dropped -> patches float32 ``[B, L, D]`` in (-1, 1); no mask enters."""
        start = self._check(z, self.config.latent_dim, cache, block)
        with stage("decoder"):
            evaluated("elastictok_decoder")
            return self.decoder(z.to(self.dtype), None if cache is None else cache.decoder, start).float()

    def block_loss(self, recon: Tensor, x: Tensor) -> Tensor:
        """Mean squared error on [-1, 1] of each block, over all its positions: two ``[B, L, D]`` -> ``[B, n]``"""
        error = recon.float().clamp(-1, 1).sub(x.float()).square_().mean(-1)
        return error.unflatten(1, (-1, self.config.max_toks)).mean(-1)

    # Both.

    def forward(self, x: Tensor, keep: Tensor, cache: KVCache | None = None, block: int = 0) -> Pass:
        """One evaluation of encoder and decoder; with a cache, the cached pass over blocks from ``block`` on."""
        z = self.encode(x, keep, cache, block)
        recon = self.decode(z, cache, block)
        return Pass(z, recon, self.block_loss(recon, x))

    def indices(self, z: Tensor) -> Tensor:
        """FSQ code values ``[..., dz]`` -> exact int64 indices ``[...]``."""
        return self._fsq().indices(z)

    def values(self, indices: Tensor) -> Tensor:
        """int64 indices ``[...]`` -> FSQ code values float32 ``[..., dz]``."""
        return self._fsq().values(indices)

    def encode_prefix(self, x: Tensor, n_codes: int) -> Tensor:
        """Exactly ``n_codes`` tokens of every block: ``[B, L, D]`` -> ``[B, n, n_codes, dz]``."""
        low, high = self.config.min_toks, self.config.max_toks
        if not low <= n_codes <= high:
            raise ContractError(f"ElasticTok: n_codes is {n_codes}, expected {low}..{high}")
        keep = self.keep_first([n_codes] * (x.shape[1] // high)).expand(x.shape[0], -1)
        return self.encode(x, keep).unflatten(1, (-1, high))[:, :, :n_codes]

    def decode_prefix(self, blocks: Sequence[Tensor]) -> Tensor:
        """Kept rows of each block of one clip, float ``[k, dz]`` or FSQ indices int64 ``[k]`` -> ``[1, L, D]``."""
        z = torch.zeros(len(blocks), self.config.max_toks, self.config.latent_dim, device=self.device)
        for row, kept in zip(z, blocks, strict=True):
            row[: len(kept)] = kept if kept.is_floating_point() else self.values(kept)
        return self.decode(z.flatten(0, 1).unsqueeze(0))

    def _fsq(self) -> FSQ:
        if not isinstance(self.bottleneck, FSQ):
            raise ContractError("ElasticTok: a VAE has no code indices; its latents are continuous")
        return self.bottleneck

    def _check(self, x: Tensor, width: int, cache: KVCache | None, block: int) -> int:
        """First position of the call, after checking that shape, cache and block agree."""
        tokens = self.config.max_toks
        if x.ndim != 3 or x.shape[2] != width or x.shape[1] == 0 or x.shape[1] % tokens:
            raise ContractError(
                f"ElasticTok: input of shape {tuple(x.shape)}, expected [B, n * {tokens}, {width}] for n blocks"
            )
        if cache is None and block:
            raise ContractError(f"ElasticTok: block {block} needs the cache of the blocks before it")
        end = block * tokens + x.shape[1]
        room = (
            self.config.max_sequence_length if cache is None else min(self.config.max_sequence_length, cache.capacity)
        )
        if end > room:
            raise ContractError(
                f"ElasticTok: {end // tokens} blocks, but there is room for {room // tokens}; cut in chunks"
            )
        if cache is not None and cache.batch != x.shape[0]:
            raise ContractError(f"ElasticTok: a batch of {x.shape[0]} with a cache made for {cache.batch}")
        return block * tokens


def activations(model: ElasticTok, x: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Intermediate values of one uncached pass, for comparing implementations step by step (batch kept in front).

    Keys: ``rope_cos``, ``rope_sin`` ``[L, head_dim / 2]``; ``enc_in``, ``dec_in`` and the residual stream after each
    layer ``enc_block{i}``, ``dec_block{i}`` ``[B, L, H]``; ``pre_quant`` ``[B, L, proj_dim]``; and for each layer
    ``enc{i}_q_rot``, ``enc{i}_k_rot`` ``[B, L, heads, head_dim]``, ``enc{i}_attn_out`` ``[B, L, H]`` (before the
    residual), likewise ``dec{i}_...``.
    """
    out: dict[str, Tensor] = {}
    handles = []

    def note(name: str, module: nn.Module) -> None:
        handles.append(module.register_forward_hook(lambda _m, _inputs, result: out.__setitem__(name, result)))

    def note_attention(side: str, module: Attention) -> None:
        def hook(_m: nn.Module, inputs: tuple[Tensor, Tensor, Memory | None], result: Tensor) -> None:
            q, k, _ = module.project(inputs[0], inputs[1])
            out[f"{side}_q_rot"], out[f"{side}_k_rot"] = q.transpose(1, 2), k.transpose(1, 2)
            out[f"{side}_attn_out"] = result

        handles.append(module.register_forward_hook(hook))

    for side, network in (("enc", model.encoder), ("dec", model.decoder)):
        for i, layer in enumerate(network.stack.layers):
            note(f"{side}_block{i}", layer)
            assert isinstance(layer, Layer)
            note_attention(f"{side}{i}", layer.attention)
    note("pre_quant", model.encoder.pre_quant)
    note("dec_in", model.decoder.post_quant)
    try:
        model(x, keep)
    finally:
        for handle in handles:
            handle.remove()
    turn = model.encoder.stack.turn(0, x.shape[1], model.device)
    out |= {"enc_in": model.encoder.embed(x.to(model.dtype), keep), "rope_cos": turn.real, "rope_sin": turn.imag}
    return out
