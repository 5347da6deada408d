"""FVD is an extra: refused with the reason where its number would mean nothing."""

import numpy as np
import pytest
import torch

from avtbench.bench import cli
from avtbench.bench.errors import UserError
from avtbench.bench.metrics import fvd
from avtbench.datasets.video import write_lossless


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
    with pytest.raises(UserError, match=r"needs the TorchScript file .* give it with --i3d FILE"):
        fvd.fvd(clips, clips, None)
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(UserError, match=r"page.pt is no TorchScript file"):
        fvd.fvd(clips, clips, tmp_path / "page.pt")
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


@pytest.fixture(scope="module")
def i3d(tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(Colours()).save(str(path))
    return path


@pytest.mark.parametrize(("height", "width"), [(30, 30), (30, 41), (41, 30), (300, 225)])
def test_every_shape_is_cropped_to_the_networks_square(i3d, height, width):
    clip = torch.full((2, height, width, 3), 255, dtype=torch.uint8)
    assert fvd.features(clip, torch.jit.load(str(i3d))) == pytest.approx([1, 1, 1])


def test_a_shift_of_all_colours_is_its_square(i3d):
    random = torch.Generator().manual_seed(0)
    clips = [
        torch.full((1, 8, 10, 3), int(v), dtype=torch.uint8) for v in torch.randint(0, 200, (256,), generator=random)
    ]
    brighter = [clip + 51 for clip in clips]  # 0.4 on [-1, 1]
    assert fvd.fvd(clips, clips, i3d) == pytest.approx(0, abs=1e-6)
    assert fvd.fvd(clips, brighter, i3d) == pytest.approx(3 * 0.4**2, abs=1e-5)


def test_the_command_reads_two_folders(tmp_path, i3d, capsys):
    def call(*more: str) -> tuple[int, str]:
        code = cli._main(["fvd", str(tmp_path / "a"), str(tmp_path / "b"), "--i3d", str(i3d), *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    assert call() == (2, f"avtbench: FVD: there is no folder {tmp_path / 'a'}, expected one of videos\n")
    for folder, shift in (("a", 0), ("b", 51)):
        (tmp_path / folder).mkdir()
        for clip in range(fvd.FEWEST_CLIPS):
            write_lossless(tmp_path / folder / f"{clip}.avi", np.full((1, 16, 16, 3), clip % 200 + shift, np.uint8))
    assert call() == (0, "FVD 0.48, 256 clips\n")
    (tmp_path / "b" / "7.avi").rename(tmp_path / "b" / "seven.avi")
    assert "2 clips stand in one folder only, first 7.avi" in call()[1]
    (tmp_path / "a" / "7.avi").unlink()
    (tmp_path / "b" / "seven.avi").unlink()
    code, said = call()
    assert code == 2
    assert "FVD: 255 clips, at least 256 are needed" in said
