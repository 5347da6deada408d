"""What an InfoTok window costs: analytic FLOPs of the ViT, counted dense as published and as computed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from avtbench.methods.infotok.config import InfoTokConfig
from avtbench.methods.infotok.network import InfoTok


@dataclass(frozen=True)
class ViTFlops:
    """FLOPs (2 per multiply-add) of one pass of the ViT encoder or decoder.

    dense:    attention over all S x S pairs, masked ones included: what the official code computes.
    computed: attention over pairs of a frame with itself and with earlier frames only: what runs here. With t latent
              frames its attention part is (t + 1) / (2 t) of the dense one.
    """

    dense: int
    computed: int


def vit_flops(
    config: InfoTokConfig, grid: tuple[int, int, int], side: Literal["encoder", "decoder"] = "encoder"
) -> ViTFlops:
    """FLOPs of the ``side`` of the ViT on a latent ``grid`` = (t, h, w).

    With S tokens, width E and inner width I, a block is ``14 S E^2 + 6 S E I`` (two input projections, one output
    projection, SwiGLU) plus ``4 E`` per attended pair, of which there are ``S^2`` or ``(h w)^2 t (t + 1) / 2``.
    """
    vit = config.vit
    frames, size = grid[0], grid[1] * grid[2]
    tokens, width = frames * size, vit.hidden_size
    blocks = vit.num_encoder_layers if side == "encoder" else vit.num_decoder_layers
    linear = tokens * width * (14 * width + 6 * vit.intermediate_size)
    dense, causal = tokens**2, size**2 * frames * (frames + 1) // 2
    around = 0 if width == config.z_channels else 4 * tokens * width * config.z_channels
    return ViTFlops(blocks * (linear + 4 * width * dense) + around, blocks * (linear + 4 * width * causal) + around)


def count_flops(config: InfoTokConfig, frames: int, height: int, width: int) -> dict[str, int]:
    """FLOPs of each network for one window of legal size, counted by ``torch.utils.flop_counter`` on the meta device.

    Keys: ``encoder``, ``vit_encoder``, ``quant_conv``, ``post_quant_conv``, ``vit_decoder``, ``decoder`` as computed
    here, and ``vit_encoder_dense``, ``vit_decoder_dense`` with the masked pairs that the official code computes.
    """
    with torch.device("meta"), torch.inference_mode():
        model = InfoTok(config)
        counts: dict[str, int] = {}

        def counted(name: str, call, x: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
            with FlopCounterMode(display=False) as counter:
                y = call(x)
            counts[name] = counter.get_total_flops()
            return y

        z = counted("encoder", model.encoder, torch.empty(1, config.in_channels, frames, height, width))
        grid = (z.shape[2], z.shape[3], z.shape[4])
        z = counted("quant_conv", model.quant_conv, counted("vit_encoder", model.vit_encode, z).movedim(1, -1))
        z = counted("post_quant_conv", model.post_quant_conv, z).movedim(-1, 1)
        z = counted("vit_decoder", model.vit_decode, z)
        counted("decoder", model.decoder, z)
    counts["vit_encoder_dense"] = vit_flops(config, grid, "encoder").dense
    counts["vit_decoder_dense"] = vit_flops(config, grid, "decoder").dense
    return counts
