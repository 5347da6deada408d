"""The unit of thresholds: per-channel mean and standard deviation of a frozen tokeniser's latents.

A tokeniser states them itself, or they have been measured (``avtbench train statistics``) into a small JSON file: one
that ships with the package and is found by the tokeniser's digest, or the user's own (``statistics=FILE``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError
from avtbench.methods.tokenizers.contract import FrozenTokenizer

WEIGHTS = Path(__file__).parent / "weights"
"""What ships with the package: checkpoints, their cards, and ``statistics-NAME.json``."""


@dataclass(frozen=True)
class LatentStatistics:
    """``mean``, ``std``: float32 ``[C]``. Standardised latents have mean 0 and deviation 1 in every channel."""

    mean: Tensor
    std: Tensor

    @property
    def digest(self) -> str:
        """Identity of the numbers (16 hex digits), to four digits, so that no machine's last bit changes it."""
        text = " ".join(f"{value:.3e}" for value in [*self.mean.tolist(), *self.std.tolist()])
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def center(self) -> Tensor:
        """The mean as ``[C, 1, 1, 1]``; ``(z - center) / scale`` is standardised."""
        return self.mean.view(-1, 1, 1, 1)

    @property
    def scale(self) -> Tensor:
        """The standard deviation as ``[C, 1, 1, 1]``."""
        return self.std.view(-1, 1, 1, 1)

    def as_dict(self) -> dict[str, list[float]]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def agree_with(self, other: Mapping[str, Any]) -> bool:
        """Whether ``{"mean": [...], "std": [...]}`` are the same numbers within 0.1 % of a standard deviation."""
        mean, std = (torch.tensor(other.get(name, ()), dtype=torch.float32) for name in ("mean", "std"))
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            return False
        here, scale = self.mean.cpu(), self.std.cpu()
        return bool(((mean - here).abs() < 1e-3 * scale).all() and ((std - scale).abs() < 1e-3 * scale).all())


def latent_statistics(tokenizer: FrozenTokenizer) -> LatentStatistics:
    """What the tokeniser states or was given, else what ships for its parameters; 0 and 1 under random ones."""
    if tokenizer.mean is not None and tokenizer.std is not None:
        return LatentStatistics(tokenizer.mean.float(), tokenizer.std.float())
    if tokenizer.weights == "random":
        zeros = torch.zeros(tokenizer.channels, device=tokenizer.device)
        return LatentStatistics(zeros, zeros + 1)
    shipped = _shipped().get(tokenizer.digest)
    if shipped is None:
        raise ContractError(
            f"tokeniser {tokenizer.name} has no latent statistics, expected a mean and a std per channel, the unit of "
            f"thresholds; measure them with: avtbench train statistics --tokenizer {tokenizer.name} --data VIDEOS "
            f"--out FILE, then give the tokeniser statistics=FILE"
        )
    return read_statistics(shipped, tokenizer)


def read_statistics(path: str | Path, tokenizer: FrozenTokenizer) -> LatentStatistics:
    """Statistics measured for that tokeniser; :class:`ContractError` where the file is another's or no such file."""
    path = Path(path).expanduser()
    mend = f"measure them with: avtbench train statistics --tokenizer {tokenizer.name} --data VIDEOS --out FILE"
    try:
        content = json.loads(path.read_text())
        mean, std = (torch.tensor(content[name], dtype=torch.float32) for name in ("mean", "std"))
        digest = content["tokenizer_digest"]
    except OSError as error:
        raise ContractError(f"statistics={path}: {error.strerror or error}; {mend}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ContractError(f"statistics={path}: no statistics file ({error!r}); {mend}") from None
    if digest != tokenizer.digest or mean.shape != (tokenizer.channels,) or std.shape != mean.shape:
        raise ContractError(
            f"statistics={path}: measured on a tokeniser with digest {digest} and {mean.numel()} channels, but "
            f"{tokenizer.name} has {tokenizer.digest} and {tokenizer.channels}; {mend}"
        )
    if not (bool(mean.isfinite().all()) and bool((std > 0).all()) and bool(std.isfinite().all())):
        raise ContractError(f"statistics={path}: holds means or deviations that are not finite and positive; {mend}")
    return LatentStatistics(mean.to(tokenizer.device), std.to(tokenizer.device))


def use_statistics(tokenizer: FrozenTokenizer, path: str | Path) -> None:
    """Give a tokeniser the statistics of a file: what its knob ``statistics=FILE`` does."""
    found = read_statistics(path, tokenizer)
    tokenizer.mean, tokenizer.std = found.mean, found.std


@cache
def _shipped() -> Mapping[str, Path]:
    return {json.loads(path.read_text())["tokenizer_digest"]: path for path in WEIGHTS.glob("statistics-*.json")}
