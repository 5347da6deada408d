"""Jobs run here or in spawned processes; a process that dies takes no more than its own job along."""

import subprocess
import sys

import pytest

WORK = """
import os, signal, sys
from avtbench.bench import engines

class Doubling:
    # twice 2 x job; a negative job kills its process after the first event, zero breaks it
    def do(self, job):
        yield job, 2 * job
        if job < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 0:
            raise RuntimeError("no" + chr(10) + "luck")
        yield job, 2 * job

    def prepare(self, job):
        pass

    def lost(self, job, seen, reason):
        return [(job, f"{len(seen)} seen, {reason}")]

if __name__ == "__main__":
    jobs = [int(job) for job in sys.argv[2:]]
    run = engines.inprocess if sys.argv[1] == "0" else lambda *a: engines.spawned(*a, int(sys.argv[1]))
    for event in run(Doubling(), jobs):
        print(*event)
"""


@pytest.fixture
def events(tmp_path):
    """Events of jobs under so many workers, sorted; a script of its own, as spawned processes import what they run."""
    script = tmp_path / "work.py"
    script.write_text(WORK)

    def run(workers: int, *jobs: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, script, str(workers), *map(str, jobs)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    return run


def test_in_process(events):
    assert events(0, 1, 2) == ["1 2", "1 2", "2 4", "2 4"]


def test_a_process_that_dies_or_breaks_loses_only_its_job(events):
    assert events(2, 1, -3, 0, 2) == [
        "-3 -6",
        "-3 1 seen, its process was killed by SIGKILL (out of memory?)",
        "0 0",
        "0 1 seen, RuntimeError: no luck",
        "1 2",
        "1 2",
        "2 4",
        "2 4",
    ]
