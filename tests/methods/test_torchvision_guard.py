"""torchvision, lpips and diffusers import whether or not torchvision's compiled part can load."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

GUARDED = "from avtbench.methods.torchvision_guard import ensure_importable; whole = ensure_importable();"


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_torchvision_imports_after_the_guard_and_the_answer_does_not_change():
    out = in_a_fresh_process(
        GUARDED + "import torchvision; print(whole == ensure_importable(), torchvision.__version__)"
    )
    assert out.startswith("True ")


def test_a_library_that_cannot_load_is_replaced_by_declarations():
    broken = (
        "import torch\n"
        "def refuse(path): raise OSError(path)\n"
        "torch.ops.load_library = refuse\n" + GUARDED + "\n"
        "import torchvision\n"
        "print(whole, hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))"
    )
    assert in_a_fresh_process(broken) == "False True True"
