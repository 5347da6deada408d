"""What every test stands on: quiet threads, no network, and the optional folder of real clips and weights."""

import os
from pathlib import Path

import pytest

from avtbench.bench.openmp import wait_briefly

# before torch is imported anywhere: its threads must not busy-wait, and no hub is to be asked
wait_briefly()
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("AVTBENCH_DATA", None)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout: real clips, reference values and weights."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder shared beside the checkout (real clips and weights)")
    return SHARED
