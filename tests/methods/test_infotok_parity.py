"""InfoTok against vectors that the official code computed, tensor by tensor.

The copy in ``tests/data/parity`` holds the parameters and what proves every path; ``-m shared`` compares all of it.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avtbench.methods.infotok import (
    Layout,
    autoencode,
    collect_elbos,
    from_official,
    get_allocated_ratios,
    keep_mask,
    quantile_bound,
    to_uint8,
)

HERE = Path(__file__).resolve().parents[1] / "data" / "parity"
RECON = LATENT = 1e-4


@pytest.fixture(scope="module", params=["copy", pytest.param("shared", marks=pytest.mark.shared)])
def vectors(request):
    return HERE if request.param == "copy" else request.getfixturevalue("shared") / "parity"


@pytest.fixture(scope="module")
def tiny(vectors):
    return load_file(vectors / "infotok_tiny.safetensors")


@pytest.fixture(scope="module")
def description(vectors):
    return json.loads((vectors / "infotok_tiny.json").read_text())


@pytest.fixture(scope="module")
def model(tiny, description):
    return from_official(tiny, description["config"])


@pytest.fixture(scope="module")
def run(model, tiny):
    """One full-rate pass with the output of every module, under the official names."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, y, name=name: (seen.setdefault(name, y), None)[1])
        for name, module in model.named_modules()
    ]
    with torch.inference_mode():
        indices, codes = model.encode(tiny["input"])
        result = {"indices": indices, "codes": codes, "recon_full": model.decode(codes), "modules": seen}
        result["vit_encode"] = model.vit_encode(model.encoder(tiny["input"]))
        result["vit_decode_full"] = model.vit_decode(model.dequantise(codes))
        result["chunk_loss"] = model.chunk_loss(codes, tiny["input"])
    for hook in hooks:
        hook.remove()
    return result


def close(got, expected, tolerance):
    if got.shape != expected.shape:  # the convolutions keep their channels last
        got = got.movedim(-1, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def test_every_stage(run, tiny, description):
    tolerance = description["suggested_tolerance"]["vit_encode"]
    stages = [name for name in tiny if name.startswith("stage/")]
    assert len(stages) >= 7
    for name in stages:
        close(run["modules"][name.removeprefix("stage/")], tiny[name], tolerance)


def test_full_rate(run, tiny, description):
    assert torch.equal(run["indices"], tiny["out/indices"])
    assert torch.equal(run["codes"], tiny["out/codes"])
    close(run["vit_encode"], tiny["out/vit_encode"], description["suggested_tolerance"]["vit_encode"])
    close(run["vit_decode_full"], tiny["out/vit_decode_full"], LATENT)
    close(run["recon_full"], tiny["out/recon_full"], RECON)
    close(run["chunk_loss"], tiny["out/chunk_loss"], 2e-5)


@torch.inference_mode()
def test_mse_masks_and_their_decodes(model, run, tiny, description):
    for rate in (0.25, 0.5, 0.75, 1.0):
        ratios = model.get_allocated_ratios(run["chunk_loss"], rate)
        codes, keep = model.mask_tokens(run["codes"], run["chunk_loss"], ratios)
        expected = f"mse/rate_{rate}"
        assert torch.equal(ratios, tiny[f"{expected}/ratios"])
        assert torch.equal(keep.byte(), tiny[f"{expected}/mask"])
        assert torch.equal(codes, tiny[f"{expected}/masked_codes"])
        assert int(keep.sum()) == description["rates"][f"mse rate {rate}"]["tokens_kept"]
        if f"{expected}/recon" in tiny:
            close(model.decode(codes), tiny[f"{expected}/recon"], RECON)


@torch.inference_mode()
@pytest.mark.parametrize("n_tries", range(5))
def test_official_forward(model, tiny, n_tries):
    output = model(tiny["input"], n_tries=n_tries)
    expected = f"forward/n_tries_{n_tries}"
    assert torch.equal(output.latent, tiny[f"{expected}/latent"])
    close(output.allocated_ratios, tiny[f"{expected}/allocated_ratios"], 1e-6)
    if f"{expected}/recon" in tiny:
        close(output.reconstructions, tiny[f"{expected}/recon"], RECON)


@torch.inference_mode()
def test_order_masks(model, run, tiny, vectors):
    order = load_file(vectors / "infotok_tiny_order.safetensors")
    checked = 0
    for name, expected in order.items():
        method, *path = name.split("/")
        if name == "input":
            assert torch.equal(expected, tiny["input"])
            continue
        if path[0] == "forward":
            output = model(tiny["input"], n_tries=int(path[1][-1]), method=method)
            got = {"latent": output.latent, "allocated_ratios": output.allocated_ratios}[path[2]]
        else:
            strategy, rate = path[0], float(path[1].removeprefix("rate_"))
            ratios = model.get_allocated_ratios(run["chunk_loss"], rate, mask_seq=False, strategy=strategy)
            codes, keep = model.mask_tokens(run["codes"], run["chunk_loss"], ratios, method)
            got = {"ratios": ratios, "mask": keep.byte(), "masked_codes": codes}.get(path[2])
            if got is None:
                got = model.decode(codes)
        tolerance = {"recon": RECON, "ratios": 1e-6, "allocated_ratios": 1e-6}.get(path[2], 0)
        close(got, expected, tolerance)
        checked += 1
    assert checked >= 48


@pytest.mark.parametrize("case", ["plain", "bf16_rounded", "many_ties", "constant"])
def test_router_alone(vectors, case):
    """Ties, bfloat16 losses and a constant error map; bit for bit."""
    unit = load_file(vectors / "infotok_router_unit.safetensors")
    kept = json.loads((vectors / "infotok_router_unit.json").read_text())["kept"]
    loss = unit[f"{case}/chunk_loss"]
    names = [name for name in unit if name.startswith(f"{case}/rate_")]
    assert len(names) == 88
    for name in names:
        rate = float(name.split("/")[1].removeprefix("rate_"))
        strategy, *method, kind = name.split("/")[2:]
        seq = strategy == "mse"
        ratios = get_allocated_ratios(loss, rate, seq, "elbo" if seq else strategy)
        if kind == "ratios":
            assert torch.equal(ratios, unit[name]), name
        elif kind == "mask":
            keep = keep_mask(loss, ratios, method[0] if method else "mse")
            assert torch.equal(keep.byte(), unit[name]), name
            if seq:
                assert int(keep.sum()) == kept[f"{case} mse rate {rate}"]["kept"]
        else:
            assert torch.equal(quantile_bound(loss, ratios)[0], unit[name]), name


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "overlap"), [("infotok_tiny_videolib", 0), ("infotok_tiny_videolib", 2), ("infotok_tiny_videolib_pad", 3)]
)
def test_whole_clips(model, vectors, name, overlap):
    """Windows, padding, blending and the global strategies, to the uint8 clip."""
    data = load_file(vectors / f"{name}.safetensors")
    meta = json.loads((vectors / f"{name}.json").read_text())
    clip, head, window = data["clip"][0], f"overlap_{overlap}", meta["temporal_window"]
    elbos = collect_elbos(model, [clip], window, overlap)
    close(torch.tensor(elbos), data[f"{head}/pass1/elbos"], 2e-5)
    mean = sum(elbos) / len(elbos)

    runs = [run for run in meta["windows"][head] if " rate " in run]
    assert runs
    for run in runs:
        strategy, rate = run.split(" rate ")
        expected = meta["windows"][head][run]
        result = autoencode(model, clip, float(rate), window=window, overlap=overlap, strategy=strategy, elbo_mean=mean)
        path = f"{head}/{strategy}/rate_{rate}"
        assert result.token_rate == pytest.approx(expected["token_rate_returned"], abs=1e-6)
        assert [int(r.keep.sum()) for r in result.routes] == expected["tokens_kept"]
        assert [r.keep.numel() for r in result.routes] == expected["tokens"]
        for i, (route, loss) in enumerate(zip(result.routes, result.losses, strict=True)):
            assert torch.equal(route.keep.byte(), data[f"{path}/window_{i}/mask"])
            close(loss, data[f"{head}/window_{i}/chunk_loss"], 2e-5)
            if f"{path}/window_{i}/recon" in data:
                close(result.reconstructions[i], data[f"{path}/window_{i}/recon"], RECON)
        if f"{path}/window_rates" in data:
            close(torch.tensor([r.rate for r in result.routes]), data[f"{path}/window_rates"], 1e-6)
        if f"{path}/video" in data:
            difference = (result.video.int() - data[f"{path}/video"][0].int()).abs()
            assert int(difference.max()) <= 1
            assert float((difference > 0).float().mean()) < 1e-3


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "size", "overlap"),
    [
        ("infotok_tiny_videolib", (16, 48, 48), 0),
        ("infotok_tiny_videolib", (16, 48, 48), 2),
        ("infotok_tiny_videolib_pad", (15, 44, 56), 3),
    ],
)
def test_cropping_and_blending_are_exact_from_the_official_windows(shared, name, size, overlap):
    data = load_file(shared / "parity" / f"{name}.safetensors")
    layout = Layout(size, 4, 8, window=9, overlap=overlap)
    path = f"overlap_{overlap}/global_elbo/rate_0.5"
    windows = [layout.uncut(data[f"{path}/window_{i}/recon"], span) for i, span in enumerate(layout.spans)]
    assert torch.equal(to_uint8(layout.join(windows)), data[f"{path}/video"][0])
