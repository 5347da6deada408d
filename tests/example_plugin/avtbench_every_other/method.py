"""Keep every n-th latent frame, hold in between: the simplest rule that drops tokens."""

from typing import ClassVar

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError
from avtbench.methods.latents import LatentMethod, Latents
from avtbench.methods.threshold import hold


class EveryOther(LatentMethod):
    """Keep latent frames 0, n, 2n, ...; the others show the last kept one."""

    name: ClassVar[str] = "every-other"
    summary: ClassVar[str] = "every n-th latent frame, held in between"
    setting_name: ClassVar[str] = "n"
    setting_unit: ClassVar[str] = "latent frames"
    default_settings: ClassVar[tuple[float, ...]] = (1.0, 2.0, 4.0)

    def check_setting(self, setting: float) -> float:
        n = super().check_setting(setting)
        if n < 1 or n % 1:
            raise ContractError(f"{self.name}: n is {n:g}, expected a whole number from 1")
        return n

    def choose(self, latents: Latents, setting: float) -> Tensor:
        keep = torch.zeros(latents.z.shape[1:], dtype=torch.bool, device=latents.z.device)
        keep[:: int(setting)] = True
        return keep

    def fill(self, z: Tensor, keep: Tensor) -> Tensor:
        return hold(z, keep)
