"""Reading the checkpoints that this project trains: safetensors with their configuration in the header."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avtbench.methods.contract import ContractError


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
