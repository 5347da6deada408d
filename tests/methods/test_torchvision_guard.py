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


BROKEN = "import torch\ndef load(path): raise OSError(path)\ntorch.ops.load_library = load\n"
"""As a torchvision built for CUDA beside a torch without it."""

WHOLE = """
import torch
kept = []
def load(path):  # the guard finds the box operators in the library; torchvision's own check for more of them does not
    if kept: raise OSError(path)
    kept.append(torch.library.Library("torchvision", "FRAGMENT"))
    for name in ("nms", "qnms"):
        kept[0].define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.ops.load_library = load
"""


@pytest.mark.parametrize(("torchvision", "whole"), [(BROKEN, False), (WHOLE, True)], ids=["broken", "whole"])
def test_lpips_and_diffusers_work_with_a_torchvision_that_is_broken_or_whole(tmp_path, torchvision, whole):
    pytest.importorskip("diffusers")
    code = torchvision + (
        "from avtbench.methods.tokenizers.wan21 import Wan21\n"
        "config = {'base_dim': 8, 'num_res_blocks': 1, 'dim_mult': [1, 2, 2, 2]}\n"
        "z = Wan21(weights='random', config=config).encode(torch.zeros(5, 32, 32, 3, dtype=torch.uint8))\n"
        "from torchvision.models import squeezenet1_1\n"
        "torch.manual_seed(0)\n"
        f"torch.save(squeezenet1_1(weights=None).state_dict(), {str(tmp_path / 'net.pth')!r})\n"
        "from avtbench.bench.metrics import lpips_net\n"
        "from avtbench.methods.torchvision_guard import ensure_importable\n"
        f"column = lpips_net.load('squeeze', weights={str(tmp_path / 'net.pth')!r})\n"
        "x = torch.arange(3072, dtype=torch.uint8).view(1, 32, 32, 3)\n"
        "print(ensure_importable(), hasattr(torch.ops.torchvision, 'nms'), column(x, 255 - x)[0] > 0, list(z.shape))"
    )
    assert in_a_fresh_process(code) == f"{whole} True True [16, 2, 4, 4]"
