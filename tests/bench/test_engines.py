"""Jobs run here or in spawned processes; a process that dies takes no more than its own job along."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from avtbench.bench import engines


@dataclass
class Doubling:
    """Yields 2 x job, twice; a negative job kills its process after the first event, zero breaks it."""

    def do(self, job: int) -> Iterator[tuple[int, int]]:
        yield job, 2 * job
        if job < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 0:
            raise RuntimeError("no\nluck")
        yield job, 2 * job

    def lost(self, job: int, seen: Sequence[tuple[int, int]], reason: str) -> list[tuple[int, str]]:
        return [(job, f"{len(seen)} seen, {reason}")]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """A spawned process finds this module, which pytest imported by path."""
    import sys

    monkeypatch.setitem(sys.modules, Doubling.__module__, sys.modules[Doubling.__module__])


def test_in_process():
    assert list(engines.inprocess(Doubling(), [1, 2])) == [(1, 2), (1, 2), (2, 4), (2, 4)]
