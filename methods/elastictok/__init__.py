"""ElasticTok, exact to the official code: per-block search for the fewest tokens that meet an MSE.

From official parameters to a ready model, and from there to everything that the official code computes::

    from avtbench.methods.elastictok import from_official, patchify, to_unit, to_uint8, tokenize

    model = from_official(state, config)                  # state: {official name: tensor}, config: official keys
    x = patchify(to_unit(video_u8), model.config)[None]   # uint8 [T, R, R, 3] -> float [B, L, D] in [-1, 1]

    keep = model.keep_upto([28, 53, 14])                  # mask sampler: p <= ntoks, so 29, 54, 15 tokens; bool [B, L]
    keep = model.keep_first([30, 30, 30])                 # exactly 30 tokens a block
    z = model.encode(x, keep)                             # [B, L, dz], 0 where dropped
    codes = model.indices(z)                              # FSQ: exact int64 indices [B, L]; inverse: model.values
    recon = model.decode(z)                               # [B, L, D]; to_uint8(recon) truncates as the official code
    loss = model.block_loss(recon, x)                     # [B, n], MSE on [-1, 1] of each block
    z, recon, loss = model(x, keep)                       # the three at once
    model.encode_prefix(x, 30)                            # [B, n, 30, dz]
    model.decode_prefix([z0, z1, z2])                     # kept rows of each block, floats or indices -> [1, L, D]

    cache = model.new_cache(batch=1)                      # cached passes: block by block
    for i in range(n):
        part = slice(i * M, (i + 1) * M)
        z, recon, loss = model(x[:, part], keep[:, part], cache, block=i)   # repeat = a trial; the last one stays

    done = tokenize(model, x, threshold=0.003, search="binary", faithful=True)
    done.search.ntoks, done.search.kept, done.search.keep, done.search.commit_loss, done.search.none_valid
    done.search.trace_ntoks, done.search.trace_kept, done.search.trace_loss   # [B, n, S], -1 = padding
    done.z, done.recon, done.block_loss, done.latents, done.indices           # of the final full pass
    done.evaluations                                      # trials + commits + 1

``activations(model, x, keep)`` gives intermediate values by name; ``load(path, config)`` reads checkpoint files.
The methods of the benchmark, ``elastictok-cv`` and ``elastictok-fsq``, are in ``method.py``.
"""

from avtbench.methods.elastictok.checkpoint import CheckpointError, from_official, load, read_checkpoint, to_official
from avtbench.methods.elastictok.config import SIZES, ElasticTokConfig
from avtbench.methods.elastictok.frames import patchify, to_uint8, to_unit, unpatchify
from avtbench.methods.elastictok.network import ElasticTok, KVCache, Pass, activations
from avtbench.methods.elastictok.search import (
    Search,
    Tokenized,
    binary_search,
    forced_search,
    linear_candidates,
    linear_search,
    tokenize,
)

__all__ = [
    "SIZES",
    "CheckpointError",
    "ElasticTok",
    "ElasticTokConfig",
    "KVCache",
    "Pass",
    "Search",
    "Tokenized",
    "activations",
    "binary_search",
    "forced_search",
    "from_official",
    "linear_candidates",
    "linear_search",
    "load",
    "patchify",
    "read_checkpoint",
    "to_official",
    "to_uint8",
    "to_unit",
    "tokenize",
    "unpatchify",
]
