"""The CogVideoX autoencoder; it decodes latents in pairs, so an even number of them would come back too long."""

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE


class CogVideoX(DiffusersVAE):
    name = "cogvideox"
    summary = "CogVideoX VAE through diffusers: 16 channels, 4x in time, 8x8 in space"
    vae_class = "AutoencoderKLCogVideoX"
    repo = "THUDM/CogVideoX-2b"
    channels = 16
    temporal = 4
    spatial = 8
    frame_step = 8
