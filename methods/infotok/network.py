"""InfoTok's networks: a Cosmos CNN around a ViT around an FSQ, under the official parameter names.

    x --encoder--> --vit_encode--> --quant_conv--> FSQ: indices, codes
    codes --post_quant_conv--> --vit_decode--> --decoder--> x

``x: float [B, 3, T, H, W]`` in [-1, 1] with T = 1 + k * temporal and H, W multiples of spatial;
``indices: int32 [B, t, h, w]``; ``codes: float [B, C, t, h, w]``, dropped tokens are 0 (which is also a legal code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok.config import InfoTokConfig
from avtbench.methods.infotok.router import FORWARD_RATES, elbo_ratios, get_allocated_ratios, mask_tokens
from avtbench.methods.infotok.transformer import Block, rotary_table
from avtbench.methods.stages import evaluated, stage
from avtbench.methods.tokenizers.cosmos.fsq import FSQ
from avtbench.methods.tokenizers.cosmos.network import CosmosConfig, CosmosDecoder, CosmosEncoder, PointConv


@dataclass(frozen=True)
class ForwardOutput:
    """What the official ``forward`` returns in evaluation, and the mask behind it."""

    reconstructions: Tensor
    latent: Tensor
    """Masked codes ``[B, C, t, h, w]``."""
    allocated_ratios: Tensor
    """``[B, t]``."""
    keep: Tensor
    indices: Tensor
    chunk_loss: Tensor


class InfoTok(nn.Module):
    """The whole model; see the module docstring for shapes. Float32 or bfloat16, any device.

    Built with torch's default initialisation, in evaluation mode and without gradients; see ``from_official``.
    """

    def __init__(self, config: InfoTokConfig) -> None:
        super().__init__()
        self.config = config
        vit = config.vit
        cnn = CosmosConfig.from_official(config.as_dict())
        self.encoder = CosmosEncoder(cnn)
        self.decoder = CosmosDecoder(cnn)
        self.quant_conv = PointConv(config.z_channels, config.embedding_dim)
        self.post_quant_conv = PointConv(config.embedding_dim, config.z_channels)
        self.fsq = FSQ(config.levels)
        self.temporal_embed = nn.Parameter(torch.randn(vit.max_num_video_frames, vit.hidden_size) * 0.02)

        def blocks(count: int) -> nn.ModuleList:
            sizes = (vit.hidden_size, vit.intermediate_size, vit.num_attention_heads, vit.rms_norm_eps)
            return nn.ModuleList(Block(*sizes) for _ in range(count))

        self.vit_encoder = blocks(vit.num_encoder_layers)
        self.vit_decoder = blocks(vit.num_decoder_layers)
        same = vit.hidden_size == config.z_channels
        self.vit_conv = nn.Identity() if same else nn.Linear(config.z_channels, vit.hidden_size, bias=False)
        self.post_vit_conv = nn.Identity() if same else nn.Linear(vit.hidden_size, config.z_channels, bias=False)
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.temporal_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.temporal_embed.dtype

    def vit_encode(self, z: Tensor) -> Tensor:
        """The adaptive compressor: ``[B, z, t, h, w]`` -> the same shape."""
        return self._vit(z, self.vit_encoder)

    def vit_decode(self, z: Tensor) -> Tensor:
        """The adaptive decompressor: ``[B, z, t, h, w]`` -> the same shape."""
        return self._vit(z, self.vit_decoder)

    def _vit(self, z: Tensor, blocks: nn.ModuleList) -> Tensor:
        vit = self.config.vit
        _, _, frames, height, width = z.shape
        if frames > vit.max_num_video_frames or max(height, width) > vit.max_sequence_length:
            raise ContractError(
                f"infotok: latent grid {frames} x {height} x {width}, the model's tables end at "
                f"{vit.max_num_video_frames} frames and {vit.max_sequence_length} rows or columns; "
                "use a shorter window or smaller frames"
            )
        x = self.vit_conv(z.permute(0, 2, 3, 4, 1).flatten(2, 3))
        x = (x + self.temporal_embed[:frames, None]).flatten(1, 2)
        rotation = rotary_table(height, width, vit.hidden_size // vit.num_attention_heads, vit.theta, z.device)
        for block in blocks:
            x = block(x, rotation, frames)
        return self.post_vit_conv(x).transpose(1, 2).unflatten(2, (frames, height, width))

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, z, t, h, w]`` through ``quant_conv`` and FSQ -> (indices, codes)."""
        return self.fsq(self.quant_conv(z.movedim(1, -1)).movedim(-1, 1))

    def dequantise(self, codes: Tensor) -> Tensor:
        """Codes ``[B, C, t, h, w]`` through ``post_quant_conv`` -> ``[B, z, t, h, w]``."""
        return self.post_quant_conv(codes.movedim(1, -1)).movedim(-1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels -> (indices, codes) at full rate."""
        with stage("encoder"):
            evaluated("encoder")
            z = self.encoder(x)
        with stage("vit_encoder"):
            evaluated("vit_encoder")
            z = self.vit_encode(z)
        with stage("quantise"):
            return self.quantise(z)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes, dropped ones 0, -> pixels, not clamped."""
        with stage("vit_decoder"):
            evaluated("vit_decoder")
            z = self.vit_decode(self.dequantise(codes))
        with stage("decoder"):
            evaluated("decoder")
            return self.decoder(z)

    def codes_of(self, values: Tensor, keep: Tensor) -> Tensor:
        """Kept indices ``[n]``, ordered as ``keep: bool [t, h, w]`` -> codes ``[1, C, t, h, w]``, 0 where dropped."""
        codes = torch.zeros(*keep.shape, self.config.embedding_dim, device=keep.device, dtype=self.dtype)
        codes[keep] = self.fsq.to_codes(values.unsqueeze(0), self.dtype)[0].t()
        return codes.permute(3, 0, 1, 2).unsqueeze(0)

    def chunk_loss(self, codes: Tensor, x: Tensor) -> Tensor:
        """Mean absolute error of ``decode(codes)`` for each token's pixels, float32 ``[B, t, h, w]``; one decode.

        Latent frame 0 answers for frame 0 alone, the others for ``temporal_compression`` frames each. The values are
        rounded to the model's dtype, since ties in bfloat16 are part of how the published router behaves.
        """
        return self.reconstruction_loss(self.decode(codes), x)

    def reconstruction_loss(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        """:meth:`chunk_loss` of a reconstruction at hand."""
        with stage("error_map"):
            config = self.config
            error = (x.float() - reconstruction.float()).abs().mean(dim=1)
            patches = F.avg_pool2d(error, config.spatial_compression)
            later = patches[:, 1:].unflatten(1, (-1, config.temporal_compression)).mean(dim=2)
            return torch.cat((patches[:, :1], later), dim=1).to(x.dtype).float()

    def get_allocated_ratios(
        self, loss: Tensor, rate: float, mask_seq: bool | None = None, strategy: str = "elbo"
    ) -> Tensor:
        """See :func:`avtbench.methods.infotok.router.get_allocated_ratios`; ``mask_seq`` follows the config."""
        seq = self.config.vit.method == "mse" if mask_seq is None else mask_seq
        return get_allocated_ratios(loss, rate, seq, strategy)

    def mask_tokens(
        self, codes: Tensor, loss: Tensor, ratios: Tensor, method: str | None = None, *, faithful: bool = True
    ) -> tuple[Tensor, Tensor]:
        """See :func:`avtbench.methods.infotok.router.mask_tokens`; ``method`` follows the config."""
        return mask_tokens(codes, loss, ratios, method or self.config.vit.method, faithful=faithful)

    def forward(self, x: Tensor, n_tries: int = 0, method: str | None = None) -> ForwardOutput:
        """Encode, route and decode at rate ``(1, .75, .5, .25, .125)[n_tries]``, as the official ``forward`` evaluates.

        Its shares are not clipped and its bounds differ in form from those of ``mask_tokens``; see
        :func:`avtbench.methods.infotok.router.keep_mask`.
        """
        indices, codes = self.encode(x)
        loss = self.chunk_loss(codes, x)
        ratios = elbo_ratios(loss, FORWARD_RATES[n_tries])
        latent, keep = mask_tokens(codes, loss, ratios, method or self.config.vit.method, forward=True)
        return ForwardOutput(self.decode(latent), latent, ratios, keep, indices, loss)
