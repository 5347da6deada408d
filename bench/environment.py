"""The environment of a measurement: recorded once per process, referenced by digest, compared in five lines."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "avtbench",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "diffusers",
    "transformers",
    "safetensors",
    "av",
    "triton",
)
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG",
             "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_FREEZING", "CUDA_LAUNCH_BLOCKING")  # fmt: skip
GROUPS = ("hardware", "driver", "numerics", "threads", "software")
"""Keys of a fingerprint, each a flat mapping; one line each in :func:`diff`."""
IDENTITY = {"family": "cpu family", "model": "model", "stepping": "stepping"}
Fingerprint = Mapping[str, Mapping[str, Any]]


def _first_line(path: str, start: str = "") -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next(
        (line.partition(":")[2].strip() if start else line.strip() for line in lines if line.startswith(start)), None
    )


def _processor() -> str | None:
    """What tells processors of one name apart; None where the system is no Linux or does not say."""
    parts = {name: _first_line("/proc/cpuinfo", f"{start}\t") for name, start in IDENTITY.items()}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value) or None


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache(maxsize=1)
def _git_state() -> str:
    """Commit of the source tree, with ``+HASH`` of the difference where tracked files were changed."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return "not a checkout"
    commit, changed = _git("rev-parse", "--short=12", "HEAD"), _git("diff", "HEAD")
    return f"{commit}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else f"{commit}"


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flag(read: Callable[[], Any]) -> Any:
    """A torch flag; torch refuses to read the old name of one that was set by its new name."""
    try:
        return read()
    except RuntimeError as refusal:
        return f"unreadable: {str(refusal).splitlines()[0][:80]}"


def _driver_version() -> str | None:
    line = _first_line("/proc/driver/nvidia/version")
    return None if line is None else next((word for word in line.split() if word[:1].isdigit() and "." in word), line)


def _card(index: int) -> dict[str, Any]:
    """State of a CUDA card as far as NVML tells it: read, never changed."""
    import torch

    try:
        import pynvml
    except ImportError:
        return {}
    state: dict[str, Any] = {}
    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        state["power limit (W)"] = pynvml.nvmlDeviceGetEnforcedPowerLimit(card) // 1000
        state["max SM clock (MHz)"] = pynvml.nvmlDeviceGetMaxClockInfo(card, pynvml.NVML_CLOCK_SM)
        state["persistence"] = bool(pynvml.nvmlDeviceGetPersistenceMode(card))
        state["ECC"] = bool(pynvml.nvmlDeviceGetEccMode(card)[0])
    except (pynvml.NVMLError, AttributeError):
        pass  # a card in a container or under MIG may refuse any of these
    return state


def fingerprint(device: torch.device | str = "cpu") -> dict[str, dict[str, Any]]:
    """The environment of this process as :data:`GROUPS` of JSON-able values; None where the system does not say.

    Holds what changes a number and is stable while the process runs: no load, no temperature, no time of day.
    """
    import torch  # here, so that whoever only compares records does without

    device = torch.device(device)
    hardware: dict[str, Any] = {
        "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu model": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "logical cores": psutil.cpu_count(),
        "usable cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory (GB)": round(psutil.virtual_memory().total / 1e9),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "gpu": None,
    }
    driver: dict[str, Any] = {"system": f"{platform.system()} {platform.release()}", "gpu driver": None, "cuda": None}
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(index)
        hardware |= {"gpu": properties.name, "gpu memory (GB)": round(properties.total_memory / 1e9), **_card(index)}
        driver |= {"gpu driver": _driver_version(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "hardware": hardware,
        "driver": driver,
        "numerics": {
            "default dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "float32 matmul": torch.get_float32_matmul_precision(),
            "TF32 matmul": _flag(lambda: torch.backends.cuda.matmul.allow_tf32),
            "TF32 cudnn": _flag(lambda: torch.backends.cudnn.allow_tf32),
            "cudnn benchmark": torch.backends.cudnn.benchmark,
            "deterministic": torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic,
            "cpu capability": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": {
            "torch threads": torch.get_num_threads(),
            "interop threads": torch.get_num_interop_threads(),
            **{name: os.environ.get(name) for name in VARIABLES},
        },
        "software": {
            "python": platform.python_version(),
            "debug build": hasattr(sys, "gettotalrefcount"),
            **{library: _version(library) for library in LIBRARIES},
            "source": _git_state(),
        },
    }


def digest(record: Mapping[str, Any]) -> str:
    """sha256 (16 hex digits) of a fingerprint: what a row refers to."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[str, Any, Any]]]:
    """Per group the (name, value in a, value in b) that differ; a name only one side knows is None on the other."""
    return {
        group: [(k, left.get(k), right.get(k)) for k in dict.fromkeys([*left, *right]) if left.get(k) != right.get(k)]
        for group, left, right in ((g, a.get(g, {}), b.get(g, {})) for g in GROUPS)
    }


def diff(a: Fingerprint, b: Fingerprint) -> list[str]:
    """Five lines, one a group, e.g. ``numerics: TF32 matmul False -> True`` or ``hardware: same``."""
    return [
        f"{group}: " + ("; ".join(f"{name} {old} -> {new}" for name, old, new in changed) or "same")
        for group, changed in differences(a, b).items()
    ]


def across(records: Mapping[str, Fingerprint]) -> list[str]:
    """The five lines between the first environment and each other one; empty where all rows come from one."""
    (first, *others) = records.items() if records else ((None, {}),)
    lines = []
    for name, record in others:
        lines += [f"environments {first[0]} -> {name}: compare times only within one", *diff(first[1], record)]
    return lines


def headline(record: Fingerprint) -> str:
    """The card or processor a number is quoted with: ``NVIDIA H200``, or ``Xeon Platinum 8480+, AVX512, 2 threads``."""
    hardware, threads = record.get("hardware", {}), record.get("threads", {}).get("torch threads")
    processor = [hardware.get("cpu"), record.get("numerics", {}).get("cpu capability")]
    parts = [*(str(part) for part in processor if part), f"{threads} thread{'' if threads == 1 else 's'}"]
    return str(hardware.get("gpu") or ", ".join(parts))
