"""The LTX-Video autoencoder; decoders that are conditioned on a denoising step are run at its clean end."""

from torch import Tensor

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE


class LTX(DiffusersVAE):
    name = "ltx"
    summary = "LTX-Video VAE through diffusers: 128 channels, 8x in time, 32x32 in space"
    vae_class = "AutoencoderKLLTXVideo"
    repo = "Lightricks/LTX-Video"
    channels = 128
    temporal = 8
    spatial = 32

    def decode_latent(self, z: Tensor) -> Tensor:
        step = z.new_zeros(1) if self.vae.config.timestep_conditioning else None
        return self.vae.decode(z.unsqueeze(0), step).sample[0]
