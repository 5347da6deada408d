"""Reading the checkpoints that this project trains: safetensors with their configuration in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avtbench.methods.calibration import WEIGHTS, latent_statistics
from avtbench.methods.contract import ContractError
from avtbench.methods.tokenizers.contract import FrozenTokenizer


def read_safetensors(path: Path, mend: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a checkpoint; ``mend`` says in the error how to get one."""
    if not path.is_file():
        raise ContractError(f"{path}: no such checkpoint; {mend}")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ContractError(f"{path}: not a whole safetensors file ({error}); {mend}") from error
    if "config" not in meta:
        raise ContractError(f"{path}: has no configuration in its header, so it was not trained here; {mend}")
    return tensors, meta


@cache
def digest_of(path: Path) -> str:
    """sha256 of a file, 16 hex digits: the identity of its parameters."""
    return sha256(path.read_bytes()).hexdigest()[:16]


def header_for(tokenizer: FrozenTokenizer, config: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint trained on a tokeniser's latents says of itself, read again by :func:`read_trained_for`."""
    return {
        "config": json.dumps(dict(config)),
        "tokenizer_digest": tokenizer.digest,
        "statistics": json.dumps(latent_statistics(tokenizer).as_dict()),
    }


def read_trained_for(
    tokenizer: FrozenTokenizer, task: str, path: str | Path | None
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Configuration, float32 parameters and digest of a checkpoint that ``avtbench train TASK`` made for a tokeniser.

    ``path`` None takes the shipped one. Raises :class:`ContractError` where it was trained for another tokeniser, or on
    latents in the units of other statistics.
    """
    mend = f"train one with: avtbench train {task} --tokenizer {tokenizer.name}"
    path = Path(path) if path else WEIGHTS / f"{task}-{tokenizer.name}.safetensors"
    tensors, meta = read_safetensors(path, mend)
    config = json.loads(meta["config"])
    trained_on = meta.get("tokenizer_digest", "")
    if config.get("channels") != tokenizer.channels or trained_on != tokenizer.digest:
        raise ContractError(
            f"{path}: trained for a tokeniser with digest {trained_on} and {config.get('channels')} channels, but "
            f"{tokenizer.name} has {tokenizer.digest} and {tokenizer.channels}; {mend}"
        )
    if not latent_statistics(tokenizer).agree_with(json.loads(meta.get("statistics", "{}"))):
        raise ContractError(
            f"{path}: trained on latents in other units than those of {tokenizer.name}'s statistics now; give the "
            f"tokeniser the statistics=FILE of the training, or {mend}"
        )
    return config, {name: value.float() for name, value in tensors.items()}, digest_of(path)
