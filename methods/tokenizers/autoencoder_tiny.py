"""Tiny image autoencoders (TAESD and kin) in the diffusers format, frame by frame."""

from torch import Tensor

from avtbench.methods.tokenizers.diffusers_vae import DiffusersVAE
from avtbench.methods.tokenizers.frames import FrameTokenizer


class AutoencoderTiny(FrameTokenizer, DiffusersVAE):
    name = "autoencoder-tiny"
    summary = "AutoencoderTiny (TAESD) through diffusers, frame by frame: 4 channels, 8x8 in space"
    vae_class = "AutoencoderTiny"
    repo = "madebyollin/taesd"
    subfolder = ""
    channels = 4
    spatial = 8

    def encode_images(self, x: Tensor) -> Tensor:
        return self.vae.encode(x).latents

    def decode_images(self, z: Tensor) -> Tensor:
        return self.vae.decode(z).sample
