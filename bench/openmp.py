"""How the threads of one process wait for each other on a CPU; to be set before torch is imported.

Threads that spin by default slow a machine on which anything else runs; threads that sleep at once (``PASSIVE`` alone)
pay for waking up at every small operation, which doubles the time of a small network. These spin for about a tenth of
a millisecond, then sleep. What the environment says already is left alone.
"""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}


def wait_briefly() -> None:
    """Set :data:`WAITING` for this process and the processes that it starts."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
