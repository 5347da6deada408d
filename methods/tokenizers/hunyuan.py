"""The HunyuanVideo autoencoder, whole clips at once (diffusers would cut them into overlapped temporal tiles)."""

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE


class Hunyuan(DiffusersVAE):
    name = "hunyuan"
    summary = "HunyuanVideo VAE through diffusers: 16 channels, 4x in time, 8x8 in space"
    vae_class = "AutoencoderKLHunyuanVideo"
    repo = "hunyuanvideo-community/HunyuanVideo"
    channels = 16
    temporal = 4
    spatial = 8
