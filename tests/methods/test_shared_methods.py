"""Every method on the embedded tokeniser keeps the contract, and does what its name says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avtbench.bench import plugins
from avtbench.bench.contract_suite import Factory, checks
from avtbench.bench.plugins import PluginError
from avtbench.datasets.contract import View
from avtbench.datasets.synthetic import Synthetic
from avtbench.methods.contract import ContractError
from avtbench.methods.stages import counting
from avtbench.methods.threshold import hold

SHARED = [p.name for p in plugins.find("method") if p.literals.get("tier", "shared") == "shared" and p.state == "ready"]
WEIGHTS = Path(__file__).resolve().parents[2] / "methods" / "weights"


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    dataset = Synthetic(clips=4)
    return torch.from_numpy(dataset.read(dataset.clips()[3], View(size=64, frames=9)).video.copy())


def build(name: str, **knobs):
    return plugins.create("method", name, tokenizer="embedded", **knobs)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(1 / (a.clamp(0, 1) - b.float() / 255).square().mean()))


@pytest.mark.parametrize("name", SHARED)
def test_the_contract_holds(name):
    for _, check in checks(Factory(name, "embedded")):
        check()


@torch.inference_mode()
def test_hold_lit_and_lit_plain_differ_in_the_filler_alone(video):
    masks = []
    for name in ("hold", "lit", "lit-plain"):
        method = build(name)
        masks.append(method.select(method.encode(video), 0.1).keep)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert int((~masks[0]).sum()) > 0


@torch.inference_mode()
def test_random_and_oracle_keep_as_many_as_the_threshold(video):
    kept, quality = {}, {}
    for name in ("hold", "random", "oracle"):
        method = build(name)
        tokens = method.select(method.encode(video), 0.1)
        kept[name], quality[name] = tokens.kept, psnr(method.decode(tokens), video)
        assert tokens.keep[0].all()
    assert len(set(kept.values())) == 1
    assert quality["oracle"] > quality["random"]


@torch.inference_mode()
def test_the_filler_is_skipped_where_nothing_was_dropped(video):
    lit = build("lit")
    with counting() as evaluations:
        lit.decode(lit.select(lit.encode(video), -1))
    assert evaluations == {"encoder": 1, "decoder": 1}
    with counting() as evaluations:
        lit.decode(lit.select(lit.encode(video), 0.1))
    assert evaluations == {"encoder": 1, "lit": 1, "decoder": 1}


@torch.inference_mode()
def test_every_position_may_be_computed_to_see_what_is_saved(video):
    lit, every = build("lit"), build("lit", compute="all")
    tokens = lit.select(lit.encode(video), 0.1)
    assert torch.allclose(every.decode(tokens), lit.decode(tokens), atol=1e-4)
    with counting() as evaluations:
        every.decode(every.select(every.encode(video), -1))
    assert evaluations == {"encoder": 1, "lit": 1, "decoder": 1}, "not skipped where nothing was dropped"
    assert every.parameters == {**lit.parameters, "compute": "all"}
    with pytest.raises(PluginError, match="knob compute is 'kept'; input should be 'dropped' or 'all'"):
        build("lit", compute="kept")


@torch.inference_mode()
def test_what_is_sent_is_rounded_to_the_stated_precision(video):
    lit = build("lit")
    tokens = lit.select(lit.encode(video), 0.1)
    assert tokens.values.dtype == torch.float16
    assert tokens.precision == 16


@torch.inference_mode()
def test_infotok_style_decodes_at_full_rate_and_keeps_the_worst_fraction(video):
    method = build("infotok-style")
    latents = method.encode(video)
    with counting() as evaluations:
        tokens = method.select(latents, 0.25)
    assert evaluations == {"decoder": 1}
    assert tokens.kept / tokens.total == pytest.approx(0.25, abs=0.02)


@torch.inference_mode()
def test_elastictok_style_spends_fewer_tokens_on_a_looser_target_and_meets_it(video):
    method = build("elastictok-style")
    latents = method.encode(video)
    counts = [method.select(latents, target).kept for target in (0.004, 0.02, 0.1)]
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]
    loosest = method.select(latents, 4.1)
    assert loosest.keep.sum(1).tolist() == [4] * len(loosest.keep), "1/16 of 64 tokens where anything passes"
    tightest = method.select(latents, 0.0)
    assert tightest.keep.all(), "everything where nothing passes"


@torch.inference_mode()
def test_every_probe_of_the_search_is_a_reconstruction(video):
    method = build("elastictok-style")
    latents = method.encode(video)
    with counting() as evaluations:
        method.select(latents, 0.02)
    probes = evaluations["decoder_step"] - latents.z.shape[1]  # one decoder step more for every committed frame
    assert evaluations["adapter_encoder"] == probes + latents.z.shape[1]
    assert 5 * latents.z.shape[1] <= probes <= 7 * latents.z.shape[1]


@torch.inference_mode()
def test_a_declared_trace_fixes_length_and_outcome_of_the_search(video):
    method = build("elastictok-style", forced={"probes": 12, "kept": 20})
    latents = method.encode(video)
    frames = latents.z.shape[1]
    with counting() as evaluations:
        tokens = method.select(latents, 0.02)
    assert evaluations["decoder_step"] == (12 + 1) * frames
    assert tokens.keep.sum(1).tolist() == [20] * frames
    assert (method.parameters["forced"], method.shortened) == ({"probes": 12, "kept": 20}, {})

    short = build("elastictok-style", forced={"probes": 12, "kept": 20, "run": 2})
    with counting() as evaluations:
        assert torch.equal(short.select(latents, 0.02).values, tokens.values)
    assert evaluations["decoder_step"] == (2 + 1) * frames
    assert short.shortened == {"select/search/probe": 6.0}
    assert "forced" not in build("elastictok-style").parameters


@torch.inference_mode()
def test_a_trace_that_the_frames_cannot_follow_is_refused(video):
    with pytest.raises(ContractError, match="expected probes, kept and, if short, run"):
        build("elastictok-style", forced={"probe": 1})
    method = build("elastictok-style", forced={"probes": 5, "kept": 65})
    with pytest.raises(ContractError, match="1 <= kept <= 64"):
        method.select(method.encode(video), 0.02)


@torch.inference_mode()
def test_a_filler_sees_no_dropped_value(video):
    lit = build("lit")
    tokens = lit.select(lit.encode(video), 0.1)
    z = lit.unpack(tokens)
    filled = lit.fill(z, tokens.keep)
    assert torch.equal(filled[:, tokens.keep], z[:, tokens.keep])
    assert torch.allclose(hold(z, tokens.keep)[:, tokens.keep], z[:, tokens.keep])


CARDS = sorted(p for p in WEIGHTS.glob("*.json") if not p.name.startswith("statistics-"))


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.stem)
def test_shipped_checkpoints_tell_how_they_were_trained(card):
    content = json.loads(card.read_text())
    assert card.with_suffix(".safetensors").is_file()
    assert {"data", "seed", "steps_done", "seconds", "loss", "held_out", "held_out_clips", "revision"} <= content.keys()
    trained = {clip["digest"] for clip in content["data"]}
    held = {clip["digest"] for clips in content["held_out_clips"].values() for clip in clips}
    assert trained
    assert held
    assert not trained & held


def test_shipped_checkpoints_fit_into_15_megabytes():
    assert sum(p.stat().st_size for p in WEIGHTS.glob("*.safetensors")) < 15e6


@pytest.mark.shared
@pytest.mark.slow
def test_nothing_of_the_eval_split_was_trained_on(shared):
    import csv

    with (shared / "data" / "MANIFEST.csv").open() as file:
        held = {row["path"] for row in csv.DictReader(file) if row["split"] != "train"}
    for card in WEIGHTS.glob("*.json"):
        names = {clip["name"].partition("@")[0] for clip in json.loads(card.read_text())["data"]}
        assert not names & held


@pytest.mark.shared
@pytest.mark.slow
@torch.inference_mode()
def test_the_embedded_tokeniser_beats_its_linear_start_on_held_out_clips(shared):
    dataset = plugins.create("dataset", "tokenbench", root=str(shared / "data" / "tokenbench"))
    method = build("full-rate")
    values = []
    for ref in dataset.clips():
        clip = torch.from_numpy(dataset.read(ref, View(size=128, frames=17)).video.copy())
        values.append(psnr(method.decode(method.select(method.encode(clip), 0)), clip))
    assert len(values) == 5
    assert sum(values) / 5 > 27.5


def test_a_method_in_a_package_of_its_own_is_found(tmp_path):
    """The example package, installed into a folder of its own."""
    example = Path(__file__).resolve().parents[1] / "example_plugin"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(example), str(source)], check=True)
    done = subprocess.run([*command, str(tmp_path / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (
        "from avtbench.bench import plugins; import torch\n"
        "m = plugins.create('method', 'every-other', tokenizer='embedded')\n"
        "t = m.select(m.encode(torch.zeros(9, 32, 32, 3, dtype=torch.uint8)), 2)\n"
        "print(t.keep.flatten(1).all(1).tolist())"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    ran = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)
    assert ran.stdout.strip() == "[True, False, True]", ran.stderr
