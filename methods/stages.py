"""Where time goes and how often networks run: named stages and the network-evaluation counter.

A method marks its parts with ``with stage("search"):`` and its networks with ``evaluated("decoder")``. Counting is
always on and costs one dictionary update. Timing costs nothing unless somebody listens: the listener (see
``avtbench.bench.timing.clock``) owns the clock, so that no method ever touches one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol


class StageListener(Protocol):
    """Told when a stage begins and ends; stages nest."""

    def enter(self, name: str) -> None: ...

    def exit(self, name: str) -> None: ...


_listener: ContextVar[StageListener | None] = ContextVar("avtbench_stage_listener", default=None)
_evaluations: ContextVar[Counter[str] | None] = ContextVar("avtbench_evaluations", default=None)
_SILENT = nullcontext()


@contextmanager
def _announced(listener: StageListener, name: str) -> Iterator[None]:
    listener.enter(name)
    try:
        yield
    finally:
        listener.exit(name)


def stage(name: str) -> AbstractContextManager[None]:
    """Mark a named part of a method, e.g. ``with stage("search"):``. Stages nest; names must not contain ``/``."""
    listener = _listener.get()
    return _SILENT if listener is None else _announced(listener, name)


def evaluated(network: str, times: int = 1) -> None:
    """Count ``times`` forward passes of a network (batch 1 clip), e.g. ``evaluated("encoder")``."""
    counter = _evaluations.get()
    if counter is not None:
        counter[network] += times


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count network evaluations inside the block: ``with counting() as nfe: ...``. Blocks nest: inner counts add up."""
    counter: Counter[str] = Counter()
    outer = _evaluations.get()
    token = _evaluations.set(counter)
    try:
        yield counter
    finally:
        _evaluations.reset(token)
        if outer is not None:
            outer.update(counter)


@contextmanager
def listening(listener: StageListener) -> Iterator[None]:
    """Report every stage entered inside the block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
