"""Read published checkpoints in whatever wrapping they come, and refuse wrong ones in one line.

Nothing here runs code from a file: pickles are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avtbench.methods.contract import ContractError

WRAPPINGS = ("state_dict", "model_state_dict", "model", "ema", "module", "params", "network")
"""Entries of a training checkpoint that hold the parameters."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .npz, TorchScript (.jit) or torch.save file, on the CPU, under the file's own names.

    A training checkpoint is unwrapped (``state_dict``, ``model``, ...); entries that are no tensors are left out.
    Raises :class:`ContractError` in one line for a file that is absent, truncated, of another kind or without tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ContractError(f"checkpoint {path} {found}; expected a .safetensors, .npz, .pt, .pth or .jit file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if _is_torchscript(path):
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ContractError(
            f"checkpoint {path.name} ({_size(path)}) is not a plain weights file ({_first_sentence(error)}); "
            "expected tensors only: save its state dict with torch.save or safetensors"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ContractError(
            f"checkpoint {path.name} ({_size(path)}) cannot be read, it is truncated or of another kind: "
            f"{_first_sentence(error)}; fetch it again"
        ) from None
    return _unwrap(loaded, path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    node = loaded
    while isinstance(node, Mapping):
        inner = next((node[key] for key in WRAPPINGS if isinstance(node.get(key), Mapping) and node[key]), None)
        if inner is None:
            break
        node = inner
    found = {str(k): v for k, v in node.items() if isinstance(v, Tensor)} if isinstance(node, Mapping) else {}
    if not found:
        raise ContractError(f"checkpoint {path.name} holds a {type(loaded).__name__} without tensors, not a state dict")
    return found


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:160]


def strip_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Remove what stands before the expected names (``module.``, ``state_dict/``, ``network.``, ...), if anything does.

    Where some names carry the prefix, only those are kept; so optimiser or EMA copies beside the model fall away.
    """
    wanted, votes = set(expected), Counter[str]()
    for name in state:
        cuts = [0, *(i + 1 for i, letter in enumerate(name) if letter in "./")]
        votes.update(name[:cut] for cut in cuts if name[cut:] in wanted)
    if not votes:
        return dict(state)
    most = max(votes.values())
    prefix = min((p for p, n in votes.items() if n == most), key=len)
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def disagreements(expected: Mapping[str, Sequence[int]], state: Mapping[str, Tensor]) -> list[str]:
    """Every key that is missing, of another shape or unexpected, in the network's order, each as one clause."""
    found = []
    for name, shape in expected.items():
        if name not in state:
            found.append(f"{name}: expected shape {list(shape)}, found no such key")
        elif list(state[name].shape) != list(shape):
            found.append(f"{name}: expected shape {list(shape)}, found {list(state[name].shape)}")
    found += [
        f"{name}: expected no such key, found shape {list(t.shape)}"
        for name, t in state.items()
        if name not in expected
    ]
    return found


def refuse(what: str, problems: Sequence[str], expected: int, looks_like: str) -> ContractError:
    """The one-line error for a state that does not fit."""
    rest = f" ({len(problems)} disagreements over {expected} tensors)" if len(problems) > 1 else ""
    return ContractError(f"{what}: {problems[0]}{rest}; the file looks like {looks_like}")


def load_strict(module: torch.nn.Module, state: Mapping[str, Tensor], what: str, looks_like: str) -> None:
    """Copy ``state`` into ``module``; names and shapes must agree exactly, or one line says where they first do not."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    problems = disagreements(shapes, state)
    if problems:
        raise refuse(what, problems, len(shapes), looks_like)
    module.load_state_dict(dict(state))


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and values, the first 16 hex digits; the order of names does not matter."""
    h = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        h.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        h.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()[:16]
