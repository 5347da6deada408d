"""LPIPS: the published values with the published backbone, a plain reason without one, never a random one."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avtbench.bench.metrics import lpips_net, quality
from avtbench.methods.torchvision_guard import ensure_importable

FILE = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch, tmp_path):
    """A machine without any backbone."""
    monkeypatch.delenv("AVTBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def whole_net() -> dict[str, torch.Tensor]:
    """torchvision's SqueezeNet 1.1 with made-up numbers: enough to see which file is read, and how."""
    ensure_importable()
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: value.clone() for name, value in squeezenet1_1(weights=None).state_dict().items()}


@pytest.fixture
def frames() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    x, y = (torch.randint(0, 256, (3, 32, 40, 3), dtype=torch.uint8, generator=random) for _ in range(2))
    return x, y


TORCHVISION = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


@pytest.mark.parametrize("net", TORCHVISION)
def test_the_graph_is_that_of_the_lpips_package(tmp_path, frames, net):
    """Slices, keys and heads: the numbers of the network that the package builds itself on the same backbone."""
    ensure_importable()
    import lpips
    from torchvision import models

    with torch.device("meta"):  # the classifier, most of VGG, is not needed
        backbone = getattr(models, TORCHVISION[net])(weights=None)
    random = torch.Generator().manual_seed(2)
    features = {
        name: torch.randn(like.shape, generator=random) / max(1, like[0].numel()) ** 0.5
        for name, like in backbone.features.state_dict().items()
    }
    backbone.features.to_empty(device="cpu").load_state_dict(features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips.pretrained_networks.tv, TORCHVISION[net], lambda pretrained: backbone)
        theirs = lpips.LPIPS(net=net, verbose=False)

    path = tmp_path / lpips_net.BACKBONES[net].file
    torch.save({f"features.{k}": v for k, v in features.items()} | {"classifier.1.weight": torch.zeros(10, 4)}, path)
    ours = lpips_net.load(net, weights=path)
    assert ours.absent is None
    x, y = (v.permute(0, 3, 1, 2).repeat(1, 1, 2, 2) for v in frames)  # 64x80
    with torch.inference_mode():
        expected = theirs(x.float() / 127.5 - 1, y.float() / 127.5 - 1).flatten().tolist()
    assert ours(x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)) == pytest.approx(expected, abs=1e-6)
    assert min(expected) > 1e-3


def test_absent_is_one_line_that_says_what_to_do(tmp_path):
    column = lpips_net.load("squeeze")
    assert column.column == "lpips_squeeze"
    assert column.digest == ""
    assert "\n" not in column.absent
    for word in ("no SqueezeNet 1.1 backbone", "AVTBENCH_WEIGHTS", str(tmp_path), "avtbench fetch lpips-squeeze", FILE):
        assert word in column.absent
    with pytest.raises(ValueError, match="no SqueezeNet"):
        column(*[torch.zeros(1, 32, 32, 3, dtype=torch.uint8)] * 2)


def test_nothing_is_downloaded_unasked(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    assert lpips_net.load("vgg").absent


def test_a_download_that_fails_is_a_reason(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert "cannot be had (no route to host)" in lpips_net.load("squeeze", allow_download=True).absent


def test_a_download_goes_to_torchvisions_cache(monkeypatch, whole_net, frames):
    def serve(url, to, hash_prefix, progress):
        assert url.endswith(FILE)
        assert hash_prefix == "b8a52dc0"
        torch.save(whole_net, to)

    monkeypatch.setattr(torch.hub, "download_url_to_file", serve)
    fetched = lpips_net.load("squeeze", allow_download=True)
    assert fetched.absent is None
    assert lpips_net._cache().joinpath(FILE).is_file()


def test_every_format_and_place_gives_the_same_distance(monkeypatch, tmp_path, whole_net, frames):
    features = {k.removeprefix("features."): v for k, v in whole_net.items() if k.startswith("features.")}
    torch.save(whole_net, tmp_path / "whole.pth")
    torch.save(features, tmp_path / "features.pth")
    save_file(features, tmp_path / "features.safetensors")
    np.savez(tmp_path / "features.npz", **{f"net.{k}": v.numpy() for k, v in features.items()})
    columns = [lpips_net.load("squeeze", weights=tmp_path / name) for name in (
        "whole.pth", "features.pth", "features.safetensors", "features.npz",
    )]  # fmt: skip

    folder = tmp_path / "weights" / "lpips_squeeze"
    folder.mkdir(parents=True)
    torch.save(whole_net, folder / FILE)
    for place in (folder.parent, folder, folder / FILE):
        monkeypatch.setenv("AVTBENCH_WEIGHTS", str(place))
        columns.append(lpips_net.load("squeeze"))

    monkeypatch.delenv("AVTBENCH_WEIGHTS")
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(whole_net, cache / FILE)
    columns.append(lpips_net.load("squeeze"))

    distances = [column(*frames) for column in columns]
    assert len(distances) == 8
    assert all(d == pytest.approx(distances[0], rel=1e-6) for d in distances)
    assert len(set(distances[0])) == 3
    assert all(d > 0 for d in distances[0])


def test_equal_frames_are_at_no_distance_and_batches_do_not_matter(monkeypatch, tmp_path, whole_net, frames):
    torch.save(whole_net, tmp_path / "whole.pth")
    column = lpips_net.load("squeeze", weights=tmp_path / "whole.pth")
    x, y = frames
    assert column(x, x) == pytest.approx([0.0] * 3, abs=1e-7)
    together = column(x, y)
    monkeypatch.setattr(lpips_net, "_BATCH_PIXELS", 1)
    assert column(x, y) == pytest.approx(together, rel=1e-5)


def test_one_build_per_process_and_no_trace_in_the_random_state(tmp_path, whole_net):
    torch.save(whole_net, tmp_path / "whole.pth")
    before = torch.random.get_rng_state()
    first = lpips_net.load("squeeze", weights=tmp_path / "whole.pth")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lpips_net.load("squeeze", weights=tmp_path / "whole.pth") is first


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda net: {k: v for k, v in net.items() if k != "features.0.weight"}, "features.0.weight is missing"),
        (lambda net: {**net, "features.0.weight": torch.zeros(64, 3, 11, 11)}, r"is \(64, 3, 11, 11\), expected"),
        (lambda net: [1, 2], "holds a list"),
    ],
)
def test_a_file_that_does_not_fit_is_never_filled_up(tmp_path, whole_net, content, told):
    torch.save(content(whole_net), tmp_path / "odd.pth")
    column = lpips_net.load("squeeze", weights=tmp_path / "odd.pth")
    assert column.absent
    assert re.search(told, column.absent)


def test_a_file_that_is_not_there_or_not_a_file_of_weights(tmp_path):
    assert "gone.pth does not exist" in lpips_net.load("squeeze", weights=tmp_path / "gone.pth").absent
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    assert "page.pth does not hold it" in lpips_net.load("squeeze", weights=tmp_path / "page.pth").absent


def test_another_net_is_an_error_and_small_frames_a_reason():
    with pytest.raises(ValueError, match="no LPIPS net 'resnet', expected one of vgg, alex, squeeze"):
        lpips_net.load("resnet")
    column = lpips_net.Lpips("alex", torch.nn.Identity())
    assert column.unable(64, 64) is None
    assert column.unable(24, 64) == "lpips_alex: frames are 24x64, AlexNet needs at least 31x31"


def test_the_backbone_is_part_of_a_rows_identity(monkeypatch, tmp_path, whole_net):
    assert quality.identity(["squeeze"]) == {"profile": "tokenbench/1", "lpips": {"squeeze": "absent"}}
    torch.save(whole_net, tmp_path / FILE)
    monkeypatch.setenv("AVTBENCH_WEIGHTS", str(tmp_path))
    digest = quality.identity(["squeeze"])["lpips"]["squeeze"]
    assert len(digest) == 16
    assert digest == lpips_net.load("squeeze").digest


@pytest.mark.shared
def test_the_published_values(shared):
    from PIL import Image

    folder = shared / "weights" / "lpips_squeeze"
    column = lpips_net.load("squeeze", weights=folder / "lpips_squeeze_v0.1_torchvision.npz")
    reference, p0, p1 = (
        torch.from_numpy(np.array(Image.open(folder / f"{name}.png").convert("RGB")))[None]
        for name in ("ex_ref", "ex_p0", "ex_p1")
    )
    assert column(reference, p0) == pytest.approx([0.71105], abs=1e-4)
    assert column(reference, p1) == pytest.approx([0.14790], abs=1e-4)


@pytest.mark.shared
def test_a_folder_of_weights_serves_the_demo(monkeypatch, shared):
    monkeypatch.setenv("AVTBENCH_WEIGHTS", str(shared / "weights"))
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    found = quality.measure(x, x.float() / 255, lpips=["squeeze"])
    assert found.frame_lpips["lpips_squeeze"] == pytest.approx([0, 0], abs=1e-6)
    assert found.absent == {}
