"""FVD is an extra: refused with the reason where its number would mean nothing."""

import numpy as np
import pytest
import torch

from avtbench.bench import fvd
from avtbench.bench.errors import UserError


def test_frechet_distance_of_known_gaussians():
    eye = np.eye(3)
    assert fvd.frechet_distance(np.zeros(3), eye, np.array([3.0, 4.0, 0.0]), eye) == pytest.approx(25)
    assert fvd.frechet_distance(np.zeros(3), 4 * eye, np.zeros(3), 9 * eye) == pytest.approx(3 * (2 - 3) ** 2)
    random = np.random.default_rng(0)
    root = random.normal(size=(5, 5))
    turned, _ = np.linalg.qr(random.normal(size=(5, 5)))
    a, b = np.diag([1.0, 4, 9, 16, 0]), np.diag([4.0, 1, 9, 0, 25])  # they commute: sum of (sqrt a - sqrt b)^2
    distance = fvd.frechet_distance(np.zeros(5), turned @ a @ turned.T, np.zeros(5), turned @ b @ turned.T)
    assert distance == pytest.approx(1 + 1 + 0 + 16 + 25)
    assert fvd.frechet_distance(np.ones(5), root @ root.T, np.ones(5), root @ root.T) == pytest.approx(0, abs=1e-9)


def test_refused_with_the_reason(tmp_path):
    clips = [torch.zeros(2, 8, 8, 3, dtype=torch.uint8)] * 256
    with pytest.raises(UserError, match="255 clips, at least 256 are needed"):
        fvd.fvd(clips[:255], clips[:255], tmp_path)
    with pytest.raises(UserError, match="256 clips and 255 reconstructions"):
        fvd.fvd(clips, clips[:255], tmp_path)
    with pytest.raises(UserError, match="none was given"):
        fvd.fvd(clips, clips, None)
    with pytest.raises(UserError, match=r"no I3D network at .*gone.pt"):
        fvd.fvd(clips, clips, tmp_path / "gone.pt")


class Colours(torch.nn.Module):
    """Takes I3D's place: the mean of each channel of what it is given."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert return_features
        assert not rescale
        assert not resize
        assert x.shape[1] == 3
        assert x.shape[3] == 224
        assert x.shape[4] == 224
        return x.mean(dim=[2, 3, 4])


def test_a_shift_of_all_colours_is_its_square(tmp_path):
    torch.jit.script(Colours()).save(str(tmp_path / "i3d.pt"))
    random = torch.Generator().manual_seed(0)
    clips = [
        torch.full((1, 8, 10, 3), int(v), dtype=torch.uint8) for v in torch.randint(0, 200, (256,), generator=random)
    ]
    brighter = [clip + 51 for clip in clips]  # 0.4 on [-1, 1]
    assert fvd.fvd(clips, clips, tmp_path / "i3d.pt") == pytest.approx(0, abs=1e-6)
    assert fvd.fvd(clips, brighter, tmp_path / "i3d.pt") == pytest.approx(3 * 0.4**2, abs=1e-5)
