"""InfoTok's rule on the shared tokeniser: decode at full rate, keep the positions that reconstruct worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from avtbench.methods.baselines import per_position
from avtbench.methods.contract import ContractError, Family
from avtbench.methods.latents import LatentMethod, Latents
from avtbench.methods.lit.method import load_lit, random_lit
from avtbench.methods.tokenizers.contract import FrozenTokenizer


class InfoTokStyle(LatentMethod):
    """Full-rate decode, mean absolute error per position, keep those above its ``1 - rate`` quantile (strictly).

    Dropped positions, the first latent frame's among them, are filled by an inpainting network of LIT's architecture
    and size, trained on masks of this rule (InfoTok, arXiv 2512.16975; specification section 4, mask ``mse``).

    adapter_weights: a file written by ``avtbench train infotok-style``; None takes the shipped one of the tokeniser;
                     ``random`` is for timing alone.
    size: depth x width of a random adapter.
    """

    name: ClassVar[str] = "infotok-style"
    summary: ClassVar[str] = "full-rate decode, keep the worst reconstructed fraction, inpainting adapter"
    family: ClassVar[Family] = "router"
    setting_name: ClassVar[str] = "rate"
    setting_unit: ClassVar[str] = "requested kept fraction"
    default_settings: ClassVar[tuple[float, ...]] = (0.25, 0.4, 0.55, 0.7, 0.85)

    def __init__(self, tokenizer: FrozenTokenizer, adapter_weights: str | None = None, size: str = "12x512") -> None:
        super().__init__(tokenizer)
        if adapter_weights == "random":
            self.network, self.network_digest = random_lit(size, tokenizer), f"random {size}"
            self.weights = "random"
        else:
            self.network, self.network_digest = load_lit(tokenizer, self.name, adapter_weights)

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "adapter_digest": self.network_digest}

    def check_setting(self, setting: float) -> float:
        rate = super().check_setting(setting)
        if not 0 <= rate <= 1:
            raise ContractError(f"{self.name}: rate is {rate:g}, expected 0 to 1")
        return rate

    def choose(self, latents: Latents, setting: float) -> Tensor:
        decoded = self.tokenizer.decode(latents.z * self.scale + self.center, latents.extent)
        with self.stage("error map"):
            original = latents.video.to(decoded.device).float() / 255
            error = per_position((decoded - original).abs().mean(-1), self.tokenizer)
            return error > error.flatten().quantile(1 - setting)

    def fill(self, z: Tensor, keep: Tensor) -> Tensor:
        if bool(keep.all()):
            return z
        with self.stage("adapter"):
            self.count("adapter")
            return self.network(z.unsqueeze(0).to(self.network.out.weight.dtype), keep.unsqueeze(0)).squeeze(0).float()
