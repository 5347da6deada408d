"""Rate: what a receiver has to be sent, counted from the tokens themselves and never from what was asked for."""

from __future__ import annotations

import math

import torch

from avtbench.bench.metrics.mask_coder import count_bits, encode_positions, encode_prefix
from avtbench.bench.rows import Rate
from avtbench.methods.contract import Tokens


def count(tokens: Tokens) -> Rate:
    """Count what a receiver has to be sent.

    Payload: ``kept x log2(codebook)`` bits, rounded up, for codes; ``kept x channels x precision`` for continuous
    values. Mask: one bit per position, or for prefix masks ``ceil(log2(M + 1))`` bits per block; beside it the size
    of the same mask after :mod:`avtbench.bench.metrics.mask_coder`. Everything in ``tokens.extra`` counts at its stored
    size.

    Raises ValueError where a prefix mask is not a run of True followed by False in every block.
    """
    if tokens.codebook is not None:
        payload = math.ceil(round(tokens.kept * math.log2(tokens.codebook), 6))
    else:
        payload = tokens.kept * math.prod(tokens.values.shape[1:]) * tokens.precision
    keep = tokens.keep.detach().cpu()
    if tokens.mask_kind == "prefix":
        _require_prefix(keep)
        blocks, length = keep.shape
        plain, coded = blocks * count_bits(length), encode_prefix(keep.numpy())
    else:
        blocks, plain = 0, keep.numel()
        coded = encode_positions(keep.numpy().reshape(-1, *keep.shape[-2:]))
    return Rate(
        kept=tokens.kept,
        total=tokens.total,
        blocks=blocks,
        payload_bits=payload,
        mask_bits=plain,
        mask_bits_coded=8 * len(coded),
        extra_bits=sum(8 * value.numel() * value.element_size() for value in tokens.extra.values()),
    )


def _require_prefix(keep: torch.Tensor) -> None:
    if keep.ndim != 2:
        raise ValueError(f"a prefix mask has shape {tuple(keep.shape)}, expected [blocks, M]; reshape it in select()")
    broken = (keep[:, 1:] & ~keep[:, :-1]).any(dim=1).nonzero()
    if len(broken):
        raise ValueError(
            f"block {int(broken[0])} of a prefix mask keeps a token after a dropped one: no count tells that; "
            'use mask_kind="positions"'
        )
