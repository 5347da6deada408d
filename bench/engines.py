"""Where jobs run: in this process, or in spawned ones. Either way events come back to the one writer, the parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

Job = Any
"""Whatever the work takes; pickled where processes are spawned, like the events."""
Event = Any


class Work(Protocol):
    """What an engine runs. It is pickled to every process, so it builds what is heavy on its first job."""

    def do(self, job: Job) -> Iterator[Event]:
        """Run one job, one event for each finished part; catches what a job may do wrong."""

    def prepare(self, job: Job) -> None:
        """Begin what the job that comes next needs, beside the one that runs; where jobs run one after the other."""

    def lost(self, job: Job, seen: Sequence[Event], reason: str) -> Sequence[Event]:
        """Events for the parts of a job whose process died after having sent ``seen``."""


def inprocess(work: Work, jobs: Sequence[Job]) -> Iterator[Event]:
    """One job after the other, here."""
    for job, following in zip_longest(jobs, jobs[1:]):
        if following is not None:
            work.prepare(following)
        yield from work.do(job)


def spawned(work: Work, jobs: Sequence[Job], workers: int) -> Iterator[Event]:
    """Jobs over ``workers`` spawned processes. One that dies loses only the rest of its job and is replaced."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // workers)
    waiting = deque(jobs)
    crew = [_Worker(work, threads) for _ in range(min(workers, len(waiting)))]
    try:
        for worker in crew:
            worker.give(waiting.popleft())
        while busy := {w.pipe: w for w in crew if w.job is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    yield from work.lost(worker.job, worker.seen, worker.end())
                    crew[crew.index(worker)] = worker = _Worker(work, threads) if waiting else worker
                    kind = "free"
                if kind == "event":
                    worker.seen.append(content)
                    yield content
                elif kind == "broken":
                    yield from work.lost(worker.job, worker.seen, content)
                    kind = "free"
                if kind == "free":
                    worker.job = None
                    if waiting:
                        worker.give(waiting.popleft())
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """One spawned process, the pipe to it and the job in its hands."""

    def __init__(self, work: Work, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.job: Job = None
        self.seen: list[Event] = []
        self.process = context.Process(target=_serve, args=(work, theirs, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the process reads as the end of the pipe

    def give(self, job: Job) -> None:
        self.job, self.seen = job, []
        self.pipe.send(job)

    def end(self) -> str:
        """Wait for a dead process and tell how it ended."""
        self.process.join(10)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"its process ended with code {code}"

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(2)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _serve(work: Work, pipe: Connection, threads: int) -> None:
    """The life of a spawned process: jobs in, events out, until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before a job imports torch
    try:
        while True:
            job = pipe.recv()
            try:
                for event in work.do(job):
                    pipe.send(("event", event))
                pipe.send(("free", None))
            except Exception as error:
                pipe.send(("broken", f"{type(error).__name__}: {' '.join(str(error).split())}"))
    except (EOFError, ConnectionError):
        return
