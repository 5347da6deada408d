"""InfoTok: a discrete video tokeniser whose router keeps the tokens with the highest reconstruction error.

    from avtbench.methods.infotok import autoencode, from_official, load_checkpoint

    model = load_checkpoint("infotok_mse.pt")           # published config; or from_official(state, config)
    indices, codes = model.encode(x)                    # x: [B, 3, T, H, W] in [-1, 1] -> [B, t, h, w], [B, C, t, h, w]
    loss = model.chunk_loss(codes, x)                   # error map of a full-rate decode, [B, t, h, w]
    ratios = model.get_allocated_ratios(loss, 0.5)      # [B, 1] or [B, t]
    masked, keep = model.mask_tokens(codes, loss, ratios)
    reconstruction = model.decode(masked)               # [B, 3, T, H, W], not clamped
    output = model(x, n_tries=2)                        # the official forward in evaluation

    result = autoencode(model, video, 0.5, window=17)   # uint8 [T, H, W, 3] of any size: windows, padding, blending

Step by step, on ``[B, channels, t, h, w]`` throughout: ``encode`` is ``encoder``, ``vit_encode``, ``quantise``
(convolution and FSQ); ``decode`` is ``dequantise``, ``vit_decode``, ``decoder``. Modules and parameters
carry the official names.
"""

from avtbench.methods.infotok.checkpoint import from_official, load_checkpoint, random_model
from avtbench.methods.infotok.config import CONFIGS, PUBLISHED, InfoTokConfig, ViTConfig
from avtbench.methods.infotok.cost import ViTFlops, count_flops, vit_flops
from avtbench.methods.infotok.method import InfoTokMethod
from avtbench.methods.infotok.network import ForwardOutput, InfoTok
from avtbench.methods.infotok.pipeline import Autoencoded, autoencode, collect_elbos
from avtbench.methods.infotok.router import (
    elbo_ratios,
    get_allocated_ratios,
    global_rates,
    keep_mask,
    mask_tokens,
    quantile_bound,
)
from avtbench.methods.infotok.windows import Layout, to_uint8

__all__ = [
    "CONFIGS",
    "PUBLISHED",
    "Autoencoded",
    "ForwardOutput",
    "InfoTok",
    "InfoTokConfig",
    "InfoTokMethod",
    "Layout",
    "ViTConfig",
    "ViTFlops",
    "autoencode",
    "collect_elbos",
    "count_flops",
    "elbo_ratios",
    "from_official",
    "get_allocated_ratios",
    "global_rates",
    "keep_mask",
    "load_checkpoint",
    "mask_tokens",
    "quantile_bound",
    "random_model",
    "to_uint8",
    "vit_flops",
]
