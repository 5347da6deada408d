"""One configuration in a spawned process of its own, handed one call at a time.

The process builds the method from a :class:`Job`, records its environment once, and then answers requests; between them
it sleeps on a pipe. Clips come as ``.npy`` files and are read and copied to the device outside every timed region; the
copy has a clock of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avtbench.bench import environment
from avtbench.bench.openmp import WAITING
from avtbench.bench.rows import Status
from avtbench.bench.timing.calls import Call, Extras, Instrument, Scenario, compiled, dtype_of, out_of_memory
from avtbench.bench.timing.clock import peak_bytes, reset_peak, synchroniser
from avtbench.methods.contract import Method


@dataclass(frozen=True)
class Job:
    """One configuration to time: how to build a method, in any process, and at which setting to run it.

    factory: ``package.module:attribute`` or ``path/to/file.py:attribute``; called with ``kwargs`` it returns a Method.
    kwargs:  must pickle (names and numbers rather than modules and tensors).
    alias:   another name for the same thing; set for the second half of an A/A pair.
    label:   what messages call it; the factory's attribute by default.
    """

    factory: str
    setting: float
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    alias: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if ":" not in self.factory:
            expected = "'package.module:attribute' or 'path/to/file.py:attribute'"
            raise ValueError(f"factory {self.factory!r} names no attribute, expected {expected}")

    def __str__(self) -> str:
        return f"{self.alias or self.label or self.factory.rpartition(':')[2]} at {self.setting:g}"

    def build(self) -> Method:
        """Import the factory and call it."""
        where, _, attribute = self.factory.rpartition(":")
        if where.endswith(".py"):
            path = Path(where).resolve()
            name = f"avtbench_job_{path.stem}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise FileNotFoundError(f"no method file {where}; check the path")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, attribute)(**self.kwargs)


@dataclass(frozen=True)
class Facts:
    """What a process tells about itself once its method is built."""

    described: Mapping[str, Any]
    environment: Mapping[str, Any]
    dtype: str
    compiled: bool
    forced: Mapping[str, Any]
    shortened: Mapping[str, float] = field(default_factory=dict)
    dry: bool = False
    """FLOPs are counted without multiplying, which costs little."""


class WorkerLost(RuntimeError):
    """A request failed; ``status`` says how, ``fatal`` whether the process is gone with it."""

    def __init__(self, status: Status, reason: str, fatal: bool) -> None:
        super().__init__(reason)
        self.status, self.reason, self.fatal = status, reason, fatal


def describe(method: Method) -> dict[str, Any]:
    """The columns of a row that follow from the method alone."""
    return {
        "method": method.name,
        "tier": method.tier,
        "family": method.family,
        "weights": method.weights,
        "tokenizer": getattr(getattr(method, "tokenizer", None), "name", ""),
        "parameters": dict(method.parameters),
        "setting_name": method.setting_name,
    }


def forced_trace(method: Method) -> dict[str, Any]:
    """The declared trace (rate, search length) of a method that runs without weights: its attribute ``forced``."""
    forced: Any = getattr(method, "forced", None)
    if is_dataclass(forced) and not isinstance(forced, type):
        return asdict(forced)
    return dict(forced) if forced else {}


class Server:
    """The far end of the pipe: one method, one setting, one scenario."""

    def __init__(self, job: Job, scenario: Scenario, device: str) -> None:
        self.device = torch.device(device)
        method = job.build()
        self.instrument = Instrument(method, method.check_setting(job.setting), scenario)
        self.facts = Facts(
            describe(method),
            environment.fingerprint(self.device),
            dtype_of(method),
            compiled(method),
            forced_trace(method),
            dict(self.instrument.shortened),
            self.instrument.dry,
        )

    def _video(self, path: str) -> torch.Tensor:
        return self._copied(path)[0]

    def _copied(self, path: str) -> tuple[torch.Tensor, float]:
        """A clip on the device, and the seconds that its copy took."""
        pixels = torch.from_numpy(np.load(path))
        began = time.perf_counter()
        video = pixels.to(self.device)
        synchroniser(self.device)()
        return video, time.perf_counter() - began

    def skip(self, path: str) -> str | None:
        t, h, w, _ = np.load(path, mmap_mode="r").shape
        return self.instrument.skip((t, h, w))

    def warm(self, path: str, cap_s: float) -> list[float]:
        return self.instrument.warm(self._video(path), cap_s)

    def call(self, path: str, settle: bool) -> tuple[list[float], Call]:
        """Time one call; with ``settle`` after an untimed one, whose seconds are returned too."""
        video, copy = self._copied(path)
        settled = [self.instrument.call(video).total] if settle else []
        if self.instrument.peak_apart:
            return settled, replace(self.instrument.call(video), copy=copy)
        reset_peak(self.device)
        call = self.instrument.call(video)
        return settled, replace(call, copy=copy, peak=peak_bytes(self.device))

    def extras(self, path: str) -> Extras:
        return self.instrument.extras(self._video(path))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _serve(pipe: Connection, job: Job, scenario: Scenario, device: str, threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
        torch.set_num_threads(threads)

    def answer(work: Callable[[], Any]) -> None:
        try:
            pipe.send(("done", work()))
        except Exception as error:
            status = Status.OUT_OF_MEMORY if out_of_memory(error) else Status.FAILED
            pipe.send((status.value, _one_line(error)))

    server: Server | None = None

    def start() -> Facts:
        nonlocal server
        server = Server(job, scenario, device)
        return server.facts

    answer(start)
    with contextlib.suppress(EOFError, OSError):
        while server is not None:
            verb, arguments = pipe.recv()
            answer(lambda: getattr(server, verb)(*arguments))  # noqa: B023


@contextlib.contextmanager
def _inherited(threads: int | None) -> Iterator[None]:
    """What a child must find in its environment before it imports torch."""
    wanted = {name: os.environ.get(name, value) for name, value in WAITING.items()}
    if threads is not None:
        wanted |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Worker:
    """The near end: a spawned process that computes only while a request is open."""

    def __init__(self, job: Job, scenario: Scenario, device: str, threads: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, job, scenario, device, threads), daemon=True)
        self.began = time.perf_counter()
        self.setup_seconds = 0.0
        with _inherited(threads):
            self._process.start()
        far.close()

    def ready(self, timeout_s: float) -> Facts:
        """Wait until the method is built."""
        facts = self._answer(timeout_s, "built its method")
        self.setup_seconds = time.perf_counter() - self.began
        return facts

    def ask(self, verb: str, *arguments: Any, timeout_s: float) -> Any:
        """Send one request and wait; raises :class:`WorkerLost`, and ends the process when it ran out of time."""
        try:
            self._pipe.send((verb, arguments))
        except OSError:
            raise self._gone() from None
        return self._answer(timeout_s, f"answered {verb!r}")

    def _answer(self, timeout_s: float, what: str) -> Any:
        if not self._pipe.poll(max(timeout_s, 0.0)):
            self.stop()
            waited = f"after {timeout_s:.0f} s" if timeout_s > 0 else "when the budget was spent"
            raise WorkerLost(Status.TIMEOUT, f"had not {what} {waited}; raise --budget", fatal=True)
        try:
            status, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if status != "done":
            raise WorkerLost(Status(status), answer, fatal=not self._process.is_alive())
        return answer

    def _gone(self) -> WorkerLost:
        self._process.join(5)
        code = self._process.exitcode
        killed = code == -signal.SIGKILL
        hint = " (killed: most often the system ran out of memory)" if killed else ""
        status = Status.OUT_OF_MEMORY if killed else Status.FAILED
        return WorkerLost(status, f"its process ended with exit code {code}{hint}", fatal=True)

    def stop(self) -> None:
        """End the process, at once if need be."""
        self._pipe.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
