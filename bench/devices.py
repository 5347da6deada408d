"""Which devices there are, asked before anything is built on one."""

from __future__ import annotations

from avtbench.bench.errors import UserError


def given(name: str) -> str:
    """The value of ``--device``: ``cpu``, ``cuda`` or ``cuda:N``; raises :class:`UserError` where there is no such."""
    return require(name, "--device", "--device cpu")


def require(name: str, option: str, mend: str) -> str:
    """That name again; option, mend: what the message says was given, and what would do instead."""
    if name == "cpu":  # without torch, which help does not wait for
        return name
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{option}: found {name}, expected cpu, cuda or cuda:N")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        seen = ", ".join(f"cuda:{index}" for index in range(there)) or "no CUDA device"
        raise UserError(f"{option}: found {name}, but torch sees {seen}; use {mend}")
    return name
