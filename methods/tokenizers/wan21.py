"""The Wan 2.1 video autoencoder; its decoder clamps to [-1, 1], and float32 is advised."""

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE


class Wan21(DiffusersVAE):
    name = "wan21"
    summary = "Wan 2.1 VAE through diffusers: 16 channels, 4x in time, 8x8 in space"
    vae_class = "AutoencoderKLWan"
    repo = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    channels = 16
    temporal = 4
    spatial = 8
