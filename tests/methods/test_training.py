"""Training: the same steps whatever the interruptions, nothing held out is trained on, a card that tells all."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avtbench.bench.training import require_apart
from avtbench.methods.contract import ContractError
from avtbench.methods.elastic.network import ElasticConfig, prefix_mask, prefix_order
from avtbench.methods.lit.network import LatentInpaintingTransformer, LITConfig
from avtbench.methods.tokenizers.embedded import EmbeddedTokenizer
from avtbench.methods.tokenizers.embedded_network import EmbeddedConfig, EmbeddedNetwork, from_blocks, to_blocks
from avtbench.methods.training.crops import CropSampler, TrainingClip, recompressed
from avtbench.methods.training.elastic import ElasticTask
from avtbench.methods.training.inpainting import InpaintingTask, mask_at
from avtbench.methods.training.loop import Schedule, train
from avtbench.methods.training.tokenizer import TokenizerTask, fit_transform, mean_psnr

SMALL = EmbeddedConfig(channels=4, encoder_width=8, encoder_depth=2, decoder_width=8, decoder_depth=2)


def moving(name: str, seed: int) -> TrainingClip:
    """A smooth picture that slides by two pixels a frame."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 20))).float()
    picture = torch.nn.functional.interpolate(coarse, (72, 160), mode="bilinear")[0].permute(1, 2, 0).byte().numpy()
    return TrainingClip(name, f"digest of {name}", np.stack([picture[:, 2 * k : 2 * k + 96] for k in range(24)]))


CLIPS = [moving("a", 1), moving("b", 2)]


def tokenizer_task(held_out=()) -> TokenizerTask:
    return TokenizerTask(
        CLIPS, {"other": list(held_out)} if held_out else {}, SMALL, frames=5, crop=32, batch=2, draws=4
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> EmbeddedTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "model.safetensors"
    task = tokenizer_task()
    task.export(task.model, path)
    return EmbeddedTokenizer(str(path))


def test_a_killed_training_ends_bit_for_bit_where_an_unbroken_one_does(tmp_path):
    schedule = Schedule(steps=6, warmup=2, check_every=2)
    train(tokenizer_task(), tmp_path / "unbroken", schedule)
    train(tokenizer_task(), tmp_path / "broken", schedule, stop_after=5)  # the last checkpoint is that of step 4
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    train(tokenizer_task(), tmp_path / "broken", schedule)
    unbroken, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("unbroken", "broken"))
    assert unbroken.keys() == broken.keys()
    assert all(torch.equal(unbroken[name], broken[name]) for name in unbroken)


def test_the_card_and_the_log_tell_what_was_done(tmp_path):
    card = train(tokenizer_task([moving("c", 3)]), tmp_path, Schedule(steps=4, check_every=2))
    assert json.loads((tmp_path / "card.json").read_text()) == card
    assert [clip["name"] for clip in card["data"]] == ["a", "b"]
    assert card["held_out_clips"]["other"] == [{"name": "c", "digest": "digest of c"}]
    assert {"steps", "seconds", "machine", "revision", "loss", "seed", "held_out"} <= card.keys()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 2, 4]
    assert float(rows[-1]["psnr_other"]) > 10
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))


def task_of(name: str, folder: Path) -> TokenizerTask | InpaintingTask | ElasticTask:
    """The smallest task of a name; adapters share a cache of latents in ``folder``."""
    whole = tokenizer_task([moving("c", 3)])
    if name == "tokenizer":
        return whole
    path = folder / f"tokenizer-{os.getpid()}.safetensors"
    whole.export(whole.model, path)
    options = {"frames": 9, "crop": 32, "batch": 2, "count": 4, "cache": folder}
    if name == "elastictok-style":
        return ElasticTask(EmbeddedTokenizer(str(path)), CLIPS, {}, ElasticConfig(channels=4), **options)
    config = LITConfig(channels=4, width=16, depth=1, heads=2)
    return InpaintingTask(EmbeddedTokenizer(str(path)), CLIPS, {}, config, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer", "lit", "elastictok-style"])
def test_two_processes_train_one_model_through_accelerate(tmp_path, name):
    """What a launcher does on a machine with two GPUs, here on the CPU."""
    script = tmp_path / "task.py"
    script.write_text(
        f"""
import importlib.util, os
from hashlib import sha256
from pathlib import Path
spec = importlib.util.spec_from_file_location("task", {str(Path(__file__))!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
task = module.task_of({name!r}, Path({str(tmp_path)!r}))
module.train(task, Path({str(tmp_path)!r}), module.Schedule(steps=4, check_every=2))
flat = module.torch.cat([p.detach().flatten() for p in task.model.parameters()])
print(os.environ["RANK"], sha256(flat.numpy().tobytes()).hexdigest())
"""
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    ended = subprocess.run(launcher, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    digests = dict(line.split() for line in ended.stdout.splitlines() if line[:2] in ("0 ", "1 "))
    assert digests["0"] == digests["1"], "both processes end with the same parameters"
    assert json.loads((tmp_path / "card.json").read_text())["steps_done"] == 4
    assert (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("latents-*"))) == (name != "tokenizer")
    assert not list(tmp_path.glob("*.part"))


def test_a_training_may_go_on_with_held_out_clips_that_it_began_without(tmp_path):
    schedule = Schedule(steps=2, warmup=1, check_every=1)
    train(tokenizer_task(), tmp_path, schedule, stop_after=1)
    card = train(tokenizer_task([moving("c", 3)]), tmp_path, schedule)
    assert "psnr_other" in card["held_out"]
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["psnr_other"]) for row in rows] == [False, False, True]
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_finished_training_measures_held_out_clips_that_it_ended_without(tmp_path):
    schedule = Schedule(steps=2, warmup=1, check_every=1)
    train(tokenizer_task(), tmp_path, schedule)
    card = train(tokenizer_task([moving("c", 3)]), tmp_path, schedule)
    assert card["held_out_clips"]["other"]
    assert "psnr_other" in card["held_out"]
    assert [row["step"] for row in card["curve"]] == [0, 1, 2]


def test_a_training_goes_on_only_as_what_it_began_as(tmp_path):
    schedule = Schedule(steps=2, warmup=1, check_every=1)
    train(tokenizer_task(), tmp_path, schedule, stop_after=1)
    other = tokenizer_task()
    other.train_clips = CLIPS[:1]
    with pytest.raises(ValueError, match=r"is of a training with data .* another --out"):
        train(other, tmp_path, schedule)


def test_another_number_of_steps_moves_the_end_and_is_noted(tmp_path):
    train(tokenizer_task(), tmp_path, Schedule(steps=8, check_every=2), stop_after=2)
    card = train(tokenizer_task(), tmp_path, Schedule(steps=4, check_every=2))
    assert card["steps_done"] == 4
    assert card["changes_of_steps"] == [{"at": 2, "from": 8, "to": 4}]
    with pytest.raises(ValueError, match="is at step 4, this run asks for 3"):
        train(tokenizer_task(), tmp_path, Schedule(steps=3))


def test_untrained_the_network_is_the_linear_transform():
    task = tokenizer_task()
    mean, basis, _ = fit_transform(CLIPS, 8, draws=4)
    x = task.sampler.sample(0).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    blocks = to_blocks(torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], 2)).movedim(1, -1) - mean
    kept = blocks @ basis[:, :4] @ basis[:, :4].T + mean
    expected = from_blocks(kept.movedim(-1, 1))[:, :, 3:]
    assert torch.allclose(task.model(x), expected, atol=1e-4)


def test_training_lowers_the_loss():
    task = tokenizer_task()
    optimizer = torch.optim.Adam(task.model.parameters(), 2e-3)
    before = float(task.loss(task.model, 0, torch.device("cpu")).detach())
    for _ in range(15):
        optimizer.zero_grad()
        task.loss(task.model, 0, torch.device("cpu")).backward()
        optimizer.step()
    assert float(task.loss(task.model, 0, torch.device("cpu")).detach()) < before - 0.05


def test_a_stream_in_chunks_equals_the_whole():
    torch.manual_seed(0)
    network = EmbeddedNetwork(SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 3, 17, 32, 40)
    with torch.inference_mode():
        whole = network.encode(x)
        encoding, decoding = {}, {}
        z = [network.encode(part, encoding) for part in (x[:, :, :5], x[:, :, 5:9], x[:, :, 9:])]
        y = [network.decode(part, decoding) for part in z]
        assert torch.allclose(torch.cat(z, 2), whole, atol=1e-5)
        assert torch.allclose(torch.cat(y, 2), network.decode(whole), atol=1e-5)


def test_crops_follow_from_the_step_alone():
    sampler = CropSampler(CLIPS, frames=5, size=32, batch=3, seed=4)
    assert torch.equal(sampler.sample(7), sampler.sample(7))
    assert not torch.equal(sampler.sample(7), sampler.sample(8))
    with pytest.raises(ValueError, match="smaller than the crop of 80 px"):
        CropSampler(CLIPS, frames=5, size=80, batch=1)


def test_a_crop_with_judder_repeats_frames_and_shows_none_out_of_order():
    plain, judder = (CropSampler(CLIPS, 9, 32, 1, seed=4, pan=0.0, judder=share) for share in (0.0, 1.0))
    repeats = []
    for step in range(20):
        still = (judder.sample(step)[0].diff(dim=0) == 0).flatten(1).all(1)
        repeats.append(int(still.sum()))
        own = {frame.numpy().tobytes() for frame in plain.sample(step)[0]}
        assert all(frame.numpy().tobytes() in own for frame in judder.sample(step)[0])
    assert sum(n > 0 for n in repeats) >= 15
    assert max(repeats) < 8


def test_a_crop_through_a_codec_is_near_what_it_was_and_a_still_one_stays_still():
    plain, coded = (CropSampler(CLIPS, 9, 32, 1, seed=4, codec=share) for share in (0.0, 1.0))
    for step in range(5):
        before, after = plain.sample(step)[0].float(), coded.sample(step)[0].float()
        assert 0 < (after - before).abs().mean() < 20  # colours at half the resolution
    still = np.repeat(plain.sample(0)[0][:1].numpy(), 9, axis=0)
    shown = recompressed(still, 30).astype(int)
    assert shown.shape == still.shape
    assert (np.diff(shown, axis=0) == 0).mean() > 0.5, "skipped blocks show the frame before"


@pytest.mark.parametrize("objective", ["pixel", "lpips", "relative"])
def test_holding_costs_what_the_objective_says_after_the_decoder(tokenizer, objective):
    def distance(a, b):
        return (a - b).abs().mean((1, 2, 3))

    task = InpaintingTask(
        tokenizer, CLIPS, {}, LITConfig(channels=4, width=16, depth=1, heads=2), frames=9, crop=32, batch=1, count=2,
        objective=objective, perceptual=distance,
    )  # fmt: skip
    z = task.bank.z[:1].float()
    held = z + 0.5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    base = torch.ones(1)

    worse = held + (held - z)
    fills = [float(task.decoded(fill, held, z, np.array([0]), base, task.bank.effect)) for fill in (z, held, worse)]
    assert fills[0] < fills[1] < fills[2]
    if objective == "relative":
        assert fills[0] == 0, "the target is the full-rate decode, not the crop"
        assert fills[1] == pytest.approx(1 + task.decoded.weight, rel=0.02), "both parts are relative to holding"
        assert fills[2] - fills[1] > 2 * (fills[1] - fills[0]), "what is lost counts more than what is gained"


def test_fine_tuning_begins_with_the_checkpoint_and_only_with_one_of_its_shape(tokenizer, tmp_path):
    def task(width=16, **options):
        config = LITConfig(channels=4, width=width, depth=1, heads=2, bound=float("start" in options))
        return InpaintingTask(tokenizer, CLIPS, {}, config, frames=9, crop=32, batch=2, count=2, **options)

    first = task()
    torch.nn.init.normal_(first.model.out.weight)
    first.export(first.model, tmp_path / "lit.safetensors")
    second = task(start=tmp_path / "lit.safetensors")
    for name, value in first.model.state_dict().items():
        assert torch.allclose(second.model.state_dict()[name], value, atol=1e-3), name  # exported in half precision
    assert len(second.describe()["start"]) == 16, "the card names the checkpoint by its digest"
    assert "start" not in first.describe()
    with pytest.raises(ContractError, match=r"expected .*'width': 32.* as the options say"):
        task(width=32, start=tmp_path / "lit.safetensors")


def test_a_held_out_recording_is_never_trained_on():
    require_apart(CLIPS, [moving("c", 3)])
    with pytest.raises(ValueError, match="1 held-out clips are among the training clips"):
        require_apart(CLIPS, [moving("a", 1)])


@pytest.mark.parametrize("masks", ["threshold", "error"])
def test_an_inpainting_network_learns_to_beat_holding(tokenizer, masks, tmp_path):
    task = InpaintingTask(
        tokenizer, CLIPS, {}, LITConfig(channels=4, width=16, depth=1, heads=2), masks, frames=9, crop=32, batch=4,
        count=12, cache=tmp_path,
    )  # fmt: skip
    optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)
    losses = []
    for step in range(30):
        loss = task.loss(task.model, step % 3, torch.device("cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] <= 1.001, "before training the network is holding"
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.02
    assert len(list(tmp_path.glob("latents-*.safetensors"))) == 1


def test_still_crops_are_drawn_as_often_as_asked_beside_chance(tokenizer):
    def shares(still):
        task = InpaintingTask(
            tokenizer, CLIPS, {}, LITConfig(channels=4), frames=9, crop=32, batch=50, count=8, still=still
        )
        change = (task.bank.z[:, :, 1:] - task.bank.z[:, :, :-1]).abs().float().mean((1, 2, 3, 4))
        drawn = np.concatenate([task._drawn(task._rng(step)) for step in range(20)])
        assert len(set(drawn.tolist())) == 8
        return float((change[drawn] <= change.median()).float().mean())

    assert shares(0.0) == pytest.approx(0.5, abs=0.06)
    assert shares(0.6) == pytest.approx(0.8, abs=0.06)


def test_masks_in_training_cover_kept_fractions_from_5_to_95_percent(tokenizer):
    task = InpaintingTask(tokenizer, CLIPS, {}, LITConfig(channels=4), frames=17, crop=64, batch=8, count=6)
    fractions = [float(k.float().mean()) for step in range(60) for k in task.draw(step)[1]]
    # the first latent frame, one in five, is always kept; static positions are never kept by a threshold
    assert min(fractions) < 0.25
    assert max(fractions) > 0.9
    histogram, _ = np.histogram(fractions, bins=[0.2, 0.4, 0.6, 0.8, 1.0])
    assert (histogram > 20).all()


def test_a_mask_is_found_for_a_kept_fraction():
    z = torch.randn(4, 9, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)
    assert float(mask_at(z, 0.5).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("attention", ["factorised", "joint"])
@pytest.mark.parametrize("given", ["held", "mask"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_kept_positions_pass_through_bit_for_bit(attention, given, precision):
    network = LatentInpaintingTransformer(LITConfig(4, 16, 2, 2, attention=attention, window=3, input=given))
    torch.nn.init.normal_(network.out.weight)
    z, keep = torch.randn(2, 4, 3, 5, 7), torch.rand(2, 3, 5, 7) > 0.5
    keep[:, 0] = True
    autocast = torch.autocast("cpu", precision, enabled=precision != torch.float32)
    with autocast:
        filled = network(torch.where(keep.unsqueeze(1), z, 0.0), keep)
    assert filled.dtype == torch.float32
    kept = keep.unsqueeze(1).expand_as(z)
    assert torch.equal(filled[kept], z[kept])
    assert not torch.equal(filled[~kept], z[~kept])
    hidden = torch.where(keep.unsqueeze(1), z, 99.0)
    with autocast:
        assert torch.equal(network(hidden, keep), filled), "dropped values must not be looked at"


def test_the_elastic_adapter_loses_nothing_when_nothing_is_dropped(tokenizer):
    task = ElasticTask(tokenizer, CLIPS, {}, ElasticConfig(channels=4, width=16, depth=1, heads=2), frames=9, crop=32,
                       batch=2, count=4)  # fmt: skip
    z = task.bank.z[:, :, 0].float()
    keep = torch.ones(len(z), 4, 4, dtype=torch.bool)
    model = task.model
    assert torch.equal(model.unpack(model.pack(z, z * 0, keep), z * 0, keep), z)
    task.loss(model, 0, torch.device("cpu")).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_prefixes_are_nested_and_cover_the_frame_evenly():
    order = prefix_order(8, 8)
    assert sorted(order.tolist()) == list(range(64))
    quarter = prefix_mask(torch.tensor([16]), 8, 8)[0]
    assert quarter.view(4, 2, 4, 2).sum(dim=(1, 3)).eq(1).all(), "one position of every 2x2 square"
    for count in range(64):
        smaller, larger = prefix_mask(torch.tensor([count, count + 1]), 8, 8)
        assert not (smaller & ~larger).any()


def test_psnr_is_the_mean_over_clips_of_whole_clip_psnr():
    a = torch.zeros(3, 2, 4, 4)
    assert mean_psnr([a, a], [a + 2 / 255, a + 20 / 255]) == pytest.approx(
        (10 * np.log10(255**2 / 1) + 10 * np.log10(255**2 / 100)) / 2, abs=0.2
    )


def test_a_checkpoint_of_another_tokeniser_is_refused_in_one_line(tokenizer, tmp_path):
    from avtbench.methods.lit.method import Lit

    with pytest.raises(ContractError, match="no such checkpoint; train one with: avtbench train lit"):
        Lit(tokenizer, lit_weights=str(tmp_path / "none.safetensors"))
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(ContractError, match="not a whole safetensors file"):
        Lit(tokenizer, lit_weights=str(tmp_path / "text.safetensors"))
