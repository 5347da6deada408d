"""Cosmos 1.0 CV8x8x8 in the diffusers format (the same function as ``cosmos-cv8x8x8``, with latent statistics)."""

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE


class CosmosDiffusers(DiffusersVAE):
    name = "cosmos-diffusers"
    summary = "Cosmos 1.0 CV8x8x8 through diffusers: 16 channels, 8x in time, 8x8 in space"
    vae_class = "AutoencoderKLCosmos"
    repo = "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"
    channels = 16
    temporal = 8
    spatial = 8
    cpu_bfloat16 = False
    instead = "use dtype=float32, or cosmos-cv8x8x8"
