"""The training loop: deterministic by (seed, step), atomic checkpoints, exact resume, a log that survives a kill.

A task brings the model, the batches and the loss; the loop brings optimiser, schedule, weight averaging, logging and
the training card. It trains in float32 or under bfloat16 autocast; several GPUs go through ``accelerate``.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from avtbench.methods.contract import ContractError


class Task(Protocol):
    """What is trained. ``loss`` must depend on (model, step) alone: all randomness is derived from the step."""

    model: nn.Module

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Optimiser groups ``{"params": [...], "scale": s}``; a group learns at ``s`` times the scheduled rate."""

    def loss(self, model: nn.Module, step: int, device: torch.device) -> Tensor:
        """Scalar training loss of that step's batch."""

    def held_out(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics on clips that are not trained on, e.g. ``{"psnr": 27.1}``."""

    def export(self, model: nn.Module, path: Path) -> None:
        """Write the finished model as safetensors."""

    def describe(self) -> dict[str, Any]:
        """For the training card: data with digests, configuration, losses."""


@dataclass(frozen=True)
class Schedule:
    """Adam with warm-up and cosine decay to zero; ``average`` is the decay of the weight average that is exported.

    precision: of the forward and backward pass, ``float32`` or ``bfloat16`` (autocast; parameters stay in float32).
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 200
    average: float = 0.999
    clip_norm: float = 1.0
    check_every: int = 500
    seed: int = 0
    precision: str = "float32"

    def rate(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step. ``loss``: mean since the last check; ``held_out``: at the last check."""

    step: int
    steps: int
    loss: float | None
    held_out: Mapping[str, float]
    checked: bool
    """This step ended in a check: held-out metrics are new, and a checkpoint was written."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step; several processes may."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    os.replace(part, path)


HELD_OUT = "held_out_clips"
"""What a task may describe otherwise when its training goes on."""

BOOKKEEPING = ("step", "seconds", "loss")
"""Columns of the log that are no held-out metric."""


class _Parallel:
    """One device, or several through accelerate when a launcher has set WORLD_SIZE."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.accelerator: Any = None
        self.device, self.precision = device, precision
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
            self.device = self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.accelerator is None or self.accelerator.is_main_process

    @property
    def rank(self) -> int:
        return 0 if self.accelerator is None else int(self.accelerator.process_index)

    @property
    def processes(self) -> int:
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    def agreed(self, value: int) -> int:
        """The first process's value, in all of them."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return int(broadcast_object_list([value])[0])

    def prepare(self, model: nn.Module) -> nn.Module:
        return model if self.accelerator is None else self.accelerator.prepare(model)

    def autocast(self) -> Any:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        if self.accelerator is None:
            loss.backward()
        else:
            self.accelerator.backward(loss)


def train(
    task: Task,
    out: Path,
    schedule: Schedule,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    stop_after: int | None = None,
    budget_s: float | None = None,
) -> dict[str, Any]:
    """Train ``task`` into the folder ``out`` and return the training card.

    Goes on from ``out/checkpoint.pt`` where one is, with its schedule; another number of steps moves the schedule's end
    and is noted in the card, other held-out clips are measured from there on. Raises ContractError where the checkpoint
    is of a task that describes itself otherwise. Writes ``checkpoint.pt`` (atomically, every ``check_every`` steps),
    ``log.csv``, ``curve.png``, ``model.safetensors`` and ``card.json``. ``stop_after`` ends this call at that step
    without finishing; ``budget_s`` shortens the schedule's remaining steps to what fits in the time, once a first
    stretch has been measured.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.exists() else None
    before = Schedule(**saved["schedule"]) if saved else schedule
    parallel = _Parallel(torch.device(device), before.precision)
    raw = task.model.to(parallel.device)
    averaged = copy.deepcopy(raw).eval().requires_grad_(False)
    described = task.describe()
    optimizer = torch.optim.Adam(task.parameter_groups(raw), lr=schedule.learning_rate, betas=(0.9, 0.99))
    step, spent, log, changes = 0, 0.0, [], []
    if saved:
        _require_same(checkpoint, saved["task"], described)
        raw.load_state_dict(saved["model"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent, log = saved["step"], saved["seconds"], saved["log"]
        changes = saved["changes"]
        if before.steps != schedule.steps:
            if schedule.steps <= step:
                raise ContractError(
                    f"{checkpoint} is at step {step}, this run asks for {schedule.steps} in all; "
                    "give more --steps or another --out"
                )
            changes = [*changes, {"at": step, "from": before.steps, "to": schedule.steps}]
        schedule = replace(before, steps=schedule.steps)
    model = parallel.prepare(raw)
    started = time.monotonic()
    losses: list[float] = []
    held_out: Mapping[str, float] = {k: v for k, v in log[-1].items() if k not in BOOKKEEPING} if log else {}

    def elapsed() -> float:
        return spent + time.monotonic() - started

    def check() -> None:
        nonlocal held_out
        held_out = metrics = task.held_out(averaged, parallel.device)
        mean = sum(losses) / len(losses) if losses else None
        losses.clear()
        log.append({"step": step, "seconds": round(elapsed(), 1), "loss": mean, **metrics})
        if parallel.is_main:
            state = {
                "model": raw.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict(),
                "step": step, "seconds": elapsed(), "log": log, "schedule": asdict(schedule), "changes": changes,
                "task": described,
            }  # fmt: skip
            write_atomically(checkpoint, lambda part: torch.save(state, part))
            write_atomically(out / "log.csv", lambda part: _write_log(part, log))
        tell(mean, metrics, checked=True)

    def tell(loss: float | None, metrics: Mapping[str, float], checked: bool) -> None:
        if progress is not None and parallel.is_main:
            progress(Progress(step, schedule.steps, loss, metrics, checked))

    if step == 0:
        check()
    elif saved and step >= schedule.steps and saved["task"].get(HELD_OUT) != described.get(HELD_OUT):
        log.pop()
        check()
    last = min(schedule.steps, stop_after or schedule.steps)
    while step < last:
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * schedule.rate(step)
        with parallel.autocast():
            loss = task.loss(model, step * parallel.processes + parallel.rank, parallel.device)
        optimizer.zero_grad(set_to_none=True)
        parallel.backward(loss)
        nn.utils.clip_grad_norm_(raw.parameters(), schedule.clip_norm)
        optimizer.step()
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(raw.parameters()), 1 - decay)
        losses.append(float(loss.detach()))
        step += 1
        if step % schedule.check_every == 0 or step == schedule.steps:
            check()
        elif progress is not None:
            tell(sum(losses) / len(losses), held_out, checked=False)
        if budget_s is not None and step == 100:
            fits = parallel.agreed(int(step * budget_s / elapsed()))
            if fits < schedule.steps:
                schedule = replace(schedule, steps=fits)
                last = min(last, fits)
    card = {
        "steps": schedule.steps, "steps_done": step, "seconds": round(elapsed(), 1), "schedule": asdict(schedule),
        "changes_of_steps": changes,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {parallel.device}",
        "torch": torch.__version__, "revision": _revision(), "held_out": log[-1], "curve": log, **described,
    }  # fmt: skip
    if parallel.is_main and step >= schedule.steps:
        write_atomically(out / "model.safetensors", lambda part: task.export(averaged, part))
        write_atomically(out / "card.json", lambda part: part.write_text(json.dumps(card, indent=1)))
        _plot(out / "curve.png", log)
    return card


def _require_same(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*before, *now]):
        if name != HELD_OUT and before.get(name) != now.get(name):
            was, found = (json.dumps(given.get(name))[:60] for given in (before, now))
            raise ContractError(
                f"{checkpoint} is of a training with {name} {was}, this one has {found}; "
                "give the options of that one or another --out"
            )


def _write_log(path: Path, log: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        # a run may go on with other held-out clips than it began with
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in log for name in row)))
        writer.writeheader()
        writer.writerows(log)


def _revision() -> str:
    here = Path(__file__).parent
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _plot(path: Path, log: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(name for row in log for name in row if name not in BOOKKEEPING))
    figure = Figure(figsize=(7, 2.6 * (1 + len(metrics))), layout="constrained")
    for axis, name in zip(figure.subplots(1 + len(metrics), 1, squeeze=False)[:, 0], ["loss", *metrics], strict=True):
        axis.plot([row["step"] for row in log], [row.get(name, math.nan) for row in log])
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=120))
