"""Where networks run and in which precision, from the words of a knob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from avtbench.methods.contract import ContractError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def place(device: str | torch.device, dtype: str | torch.dtype) -> tuple[torch.device, torch.dtype]:
    """``("cuda", "bfloat16")`` -> torch's objects; :class:`ContractError` on a device or precision there is not."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ContractError(f"dtype is {name!r}, expected one of {', '.join(DTYPES)}")
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ContractError(f"device is {device!r}, expected cpu, cuda or cuda:N") from None
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ContractError(f"device is {device!r}, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return where, DTYPES[name]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block from a seed and leave the process's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
