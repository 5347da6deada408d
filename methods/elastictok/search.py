"""How many tokens a block gets: the published searches with their quirks, and corrected ones.

Blocks are decided one after the other, each given the blocks committed before it. A *trial* is one cached encoder and
decoder evaluation of the block at hand; a *commit* is one more with the chosen count, whose keys and values stay.
Counts are the official ``ntoks`` argument: positions 0 .. ntoks are kept, so ``kept = min(ntoks + 1, max_toks)``.
Evaluations of a chunk: trials + one commit a block + one full pass (:func:`tokenize`). See elastictok.md sections 6, 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from avtbench.methods.elastictok.network import ElasticTok, KVCache
from avtbench.methods.forced import Forced
from avtbench.methods.stages import stage

LINEAR_POINTS = 100
"""Trials of the linear search, log-spaced."""


class Trial(NamedTuple):
    """One evaluation during the search of a block; arrays over the batch. -1 where an element took no part."""

    ntoks: np.ndarray
    loss: np.ndarray


@dataclass
class Search:
    """What a search decided and all that it looked at.

    ntoks, kept: int64 ``[B, n]``; ``ntoks`` as the official code returns it, ``kept`` the tokens really kept.
    none_valid:  bool ``[B, n]``: nothing tried met the threshold, so the fallback was taken.
    keep:        bool ``[B, L]`` on the model's device.
    commit_loss: float32 ``[B, n]``, the cached loss at the chosen count (the official code throws it away).
    trials:      for each block its trials in order.
    evaluations: trials + commits, each one encoder and one decoder pass.
    """

    ntoks: np.ndarray
    none_valid: np.ndarray
    keep: Tensor
    commit_loss: np.ndarray
    trials: list[list[Trial]] = field(repr=False)
    max_toks: int = 0

    @property
    def kept(self) -> np.ndarray:
        return np.minimum(self.ntoks + 1, self.max_toks)

    @property
    def evaluations(self) -> int:
        return sum(len(block) + 1 for block in self.trials)

    @property
    def trace_ntoks(self) -> np.ndarray:
        """int64 ``[B, n, S]``: ``ntoks`` of every trial, -1 beyond a block's last one."""
        return self._trace([[t.ntoks for t in block] for block in self.trials]).astype(np.int64)

    @property
    def trace_kept(self) -> np.ndarray:
        """int64 ``[B, n, S]``: the same as tokens really kept."""
        trace = self.trace_ntoks
        return np.where(trace < 0, -1, np.minimum(trace + 1, self.max_toks))

    @property
    def trace_loss(self) -> np.ndarray:
        """float32 ``[B, n, S]``: loss of every trial, -1 beyond a block's last one."""
        return self._trace([[t.loss for t in block] for block in self.trials]).astype(np.float32)

    def _trace(self, rows: list[list[np.ndarray]]) -> np.ndarray:
        steps = max(len(row) for row in rows)
        blank = np.full(len(self.ntoks), -1)
        return np.array([row + [blank] * (steps - len(row)) for row in rows]).transpose(2, 0, 1)


@dataclass
class Tokenized:
    """A search and the full uncached pass after it, batch in front."""

    search: Search
    z: Tensor
    """float32 ``[B, L, dz]``, 0 where dropped."""
    recon: Tensor
    """float32 ``[B, L, D]``; ``frames.to_uint8`` gives the official picture."""
    block_loss: Tensor
    """float32 ``[B, n]``."""
    latents: list[list[Tensor]]
    """[element][block]: the kept rows of ``z``, ``[kept, dz]``."""
    indices: list[list[Tensor]] | None
    """The same as int64 code indices ``[kept]``; None for the VAE."""

    @property
    def evaluations(self) -> int:
        """Network evaluations: trials + commits + 1."""
        return self.search.evaluations + 1


class _Choice(NamedTuple):
    ntoks: np.ndarray
    none_valid: np.ndarray


Probe = Callable[[np.ndarray], np.ndarray]
"""ntoks ``[B]`` -> float32 losses ``[B]``: one trial."""
Rule = Callable[[Probe, int], _Choice]
"""(probe, batch) -> the counts chosen for a block."""


def binary_search(
    model: ElasticTok,
    x: Tensor,
    threshold: float,
    *,
    faithful: bool = True,
    max_prop_codes: float = 1.0,
    default_prop_codes: float = 1.0,
    cache: KVCache | None = None,
) -> Search:
    """Binary search of every block of a chunk, ``x: float [B, L, D]``, vectorised over the batch.

    faithful=True is the published walk: it ends on the last count tried, which misses the threshold by one token in
    about half of the outcomes; ``min_toks`` itself is never tried; finished elements of a batch are evaluated along
    with the others, and those losses count when it is asked whether nothing was valid. faithful=False is a bisection
    over min_toks .. max_toks - 1 that returns the smallest passing count it tried. Where nothing passes, both take
    int(default_prop_codes * max_toks). A loss passes when it is strictly below ``threshold`` (rounded to float32).
    """
    low, high, fallback = _limits(model, max_prop_codes, default_prop_codes)
    limit = np.float32(threshold)

    def published(probe: Probe, batch: int) -> _Choice:
        lo, up = np.full(batch, low), np.full(batch, high)
        done, final, losses = np.zeros(batch, bool), np.zeros(batch, np.int64), []
        while not done.all():
            ntoks = -((lo + up) // -2)
            loss = probe(ntoks)
            losses.append(loss)
            below = loss < limit
            up = np.where(below & ~done, ntoks - 1, up)
            lo = np.where(~below & ~done, ntoks, lo)
            final = np.where(done, final, ntoks)
            done |= up <= lo
        none_valid = np.all(np.array(losses) > limit, axis=0)
        return _Choice(np.where(none_valid, fallback, final), none_valid)

    def corrected(probe: Probe, batch: int) -> _Choice:
        lo, up = np.full(batch, low), np.full(batch, max(low, min(high, model.config.max_toks - 1)))
        best = np.full(batch, -1)
        while (active := lo <= up).any():
            ntoks = np.where(active, (lo + up) // 2, -1)
            below = probe(ntoks) < limit
            best = np.where(active & below, ntoks, best)
            up = np.where(active & below, ntoks - 1, up)
            lo = np.where(active & ~below, ntoks + 1, lo)
        return _Choice(np.where(best < 0, fallback, best), best < 0)

    return _run(model, x, published if faithful else corrected, cache)


def linear_candidates(min_toks: int, high: int, points: int = LINEAR_POINTS) -> np.ndarray:
    """int64 ``[points]``: exp2 of equal steps between the logarithms, truncated (float rounding may cost one)."""
    return np.exp2(np.linspace(np.log2(min_toks), np.log2(high), points)).astype(np.int64)


def linear_search(
    model: ElasticTok,
    x: Tensor,
    threshold: float,
    *,
    faithful: bool = True,
    max_prop_codes: float = 1.0,
    default_prop_codes: float = 1.0,
    cache: KVCache | None = None,
) -> Search:
    """First of 100 log-spaced counts whose loss is at most ``threshold`` (not strict), else the fallback.

    faithful=True evaluates all 100, repeated ones too, whatever happens; faithful=False drops repetitions and stops as
    soon as every element of the batch has one.
    """
    low, high, fallback = _limits(model, max_prop_codes, default_prop_codes)
    limit = np.float32(threshold)
    candidates = linear_candidates(low, high)
    if not faithful:
        candidates = np.unique(candidates.clip(low, max(low, model.config.max_toks - 1)))

    def first_passing(probe: Probe, batch: int) -> _Choice:
        final = np.full(batch, -1)
        for count in candidates:
            active = final < 0
            if not faithful and not active.any():
                break
            loss = probe(np.full(batch, count) if faithful else np.where(active, count, -1))
            final = np.where(active & (loss <= limit), count, final)
        return _Choice(np.where(final < 0, fallback, final), final < 0)

    return _run(model, x, first_passing, cache)


def forced_search(model: ElasticTok, x: Tensor, forced: Forced, *, cache: KVCache | None = None) -> Search:
    """The cost of a search of declared length and outcome: each trial runs, its loss is waited for and ignored."""
    forced.check(model.config.max_toks)

    def declared(probe: Probe, batch: int) -> _Choice:
        ntoks = np.full(batch, forced.kept - 1)
        for _ in range(forced.made):
            probe(ntoks)
        return _Choice(ntoks, np.zeros(batch, bool))

    return _run(model, x, declared, cache)


SEARCHES = {"binary": binary_search, "linear": linear_search}


@torch.inference_mode()
def tokenize(
    model: ElasticTok,
    x: Tensor,
    threshold: float,
    *,
    search: Literal["binary", "linear"] = "binary",
    faithful: bool = True,
    max_prop_codes: float = 1.0,
    default_prop_codes: float = 1.0,
) -> Tokenized:
    """Search the chunk ``x: float [B, L, D]``, then one full uncached pass with the masks found."""
    found = SEARCHES[search](
        model, x, threshold, faithful=faithful, max_prop_codes=max_prop_codes, default_prop_codes=default_prop_codes
    )
    z, recon, block_loss = model(x, found.keep)
    rows = z.unflatten(1, (-1, model.config.max_toks))
    latents = [[row[:n] for row, n in zip(r, counts, strict=True)] for r, counts in zip(rows, found.kept, strict=True)]
    indices = None
    if model.config.codebook is not None:
        indices = [[model.indices(kept) for kept in element] for element in latents]
    return Tokenized(found, z, recon, block_loss, latents, indices)


def _limits(model: ElasticTok, max_prop_codes: float, default_prop_codes: float) -> tuple[int, int, int]:
    low, tokens = model.config.min_toks, model.config.max_toks
    return low, math.ceil(max_prop_codes * tokens), int(default_prop_codes * tokens)


@torch.inference_mode()
def _run(model: ElasticTok, x: Tensor, rule: Rule, cache: KVCache | None) -> Search:
    tokens = model.config.max_toks
    batch, blocks = x.shape[0], x.shape[1] // tokens
    cache = cache or model.new_cache(batch, blocks)
    chosen: list[_Choice] = []
    commits: list[Tensor] = []
    trials: list[list[Trial]] = []
    for block in range(blocks):
        part = x[:, block * tokens : (block + 1) * tokens]

        def evaluate(ntoks: np.ndarray, part: Tensor = part, block: int = block) -> Tensor:
            keep = model.keep_upto(torch.from_numpy(ntoks).unsqueeze(1))
            return model(part, keep, cache, block).block_loss[:, 0]

        seen: list[Trial] = []

        def probe(
            ntoks: np.ndarray, seen: list[Trial] = seen, evaluate: Callable[[np.ndarray], Tensor] = evaluate
        ) -> np.ndarray:
            with stage("trial"):
                loss = evaluate(ntoks).cpu().numpy()
            seen.append(Trial(ntoks, np.where(ntoks < 0, -1, loss).astype(np.float32)))
            return loss

        choice = rule(probe, batch)
        with stage("commit"):
            commits.append(evaluate(choice.ntoks))
        chosen.append(choice)
        trials.append(seen)
    ntoks = np.stack([c.ntoks for c in chosen], 1).astype(np.int64)
    return Search(
        ntoks=ntoks,
        none_valid=np.stack([c.none_valid for c in chosen], 1),
        keep=model.keep_upto(torch.from_numpy(ntoks)),
        commit_loss=torch.stack(commits, 1).cpu().numpy(),
        trials=trials,
        max_toks=tokens,
    )
