"""ElasticTok as methods of the benchmark: any clip in, the same extent out, tokens that suffice."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avtbench.methods.contract import ContractError, Tokens
from avtbench.methods.elastictok import to_official
from avtbench.methods.elastictok.method import ElasticTokCV, ElasticTokFSQ
from avtbench.methods.stages import counting

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "patch_size": [2, 8, 8],
    "max_toks": 32,
    "min_toks": 2,
    "fsq_quant_levels": [8, 5, 5],
}
BOTH = pytest.mark.parametrize("method", [ElasticTokCV, ElasticTokFSQ], ids=lambda m: m.name)


def clip(frames: int = 6, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.randint(
        0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@BOTH
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 34, 50), (8, 64, 32), (17, 32, 40)])
def test_any_clip_comes_back_at_full_extent(method, shape: tuple[int, int, int]) -> None:
    here = method(config=TINY, weights="random")
    video = clip(*shape)
    before = video.clone()
    tokens = here.select(here.encode(video), 0.35)
    back = here.decode(tokens)
    assert back.shape == video.shape
    assert back.dtype == torch.float32
    assert back.isfinite().all()
    assert torch.equal(video, before)
    windows = -(-shape[1] // 32) * -(-shape[2] // 32)
    assert tokens.keep.shape == (windows * -(-shape[0] // 4), 32)
    assert tokens.mask_kind == "prefix"
    assert not (tokens.keep[:, 1:] & ~tokens.keep[:, :-1]).any()
    assert tokens.codebook == (200 if method is ElasticTokFSQ else None)


@pytest.mark.parametrize(("length", "blocks", "coded"), [(17, 4, 16), (8, 2, 8), (3, 1, 3)])
def test_trailing_frames_can_be_dropped_as_published(length: int, blocks: int, coded: int) -> None:
    """Then they cost nothing, and the last coded frame is shown for them; a clip shorter than a block is filled up."""
    here = ElasticTokCV(config=TINY, weights="random", trailing="drop")
    tokens = here.select(here.encode(clip(length, 32, 32)), 0.35)
    back = here.decode(tokens)
    assert tokens.keep.shape[0] == blocks
    assert back.shape == (length, 32, 32, 3)
    assert torch.equal(back[coded:], back[coded - 1 : coded].expand_as(back[coded:]))
    whole = ElasticTokCV(config=TINY, weights="random")
    assert torch.equal(back[:coded], whole.decode(whole.select(whole.encode(clip(length, 32, 32)[:coded]), 0.35)))


@BOTH
def test_decode_needs_the_tokens_alone(method, tmp_path: Path) -> None:
    here = method(config=TINY, weights="random", seed=4)
    save_file(to_official(here.model), tmp_path / "weights.safetensors")
    tokens = here.select(here.encode(clip()), 0.3)
    there = method(config=TINY, weights=str(tmp_path / "weights.safetensors"))
    back = there.decode(Tokens.from_bytes(tokens.to_bytes()))
    assert torch.equal(back, here.decode(tokens))
    assert there.weights == "trained"
    assert here.weights == "random"
    assert there.digest != here.digest


@BOTH
def test_select_is_deterministic_and_leaves_latents_alone(method) -> None:
    here = method(config=TINY, weights="random")
    latents = here.encode(clip())
    before = latents.x.clone()
    first, second = here.select(latents, 0.3), here.select(latents, 0.3)
    assert torch.equal(first.values, second.values)
    assert torch.equal(latents.x, before)
    assert here.select(latents, 0.0).kept == first.total
    assert here.select(latents, 9.0).kept == 4 * len(first.keep)


def test_evaluations_of_a_clip_follow_the_published_formula() -> None:
    """Trials + one commit a block + one full pass a chunk, each one encoder and one decoder evaluation."""
    here = ElasticTokCV(config=TINY, weights="random", forced={"probes": 5, "kept": 9})
    with counting() as evaluations:
        tokens = here.select(here.encode(clip(frames=20, width=32)), 0.003)
        here.decode(tokens)
    assert tokens.keep.sum(1).tolist() == [9] * 5
    assert evaluations == {"elastictok_encoder": 5 * (5 + 1) + 2, "elastictok_decoder": 5 * (5 + 1) + 2}


def test_a_part_of_a_declared_trace_says_what_it_stands_for() -> None:
    here = ElasticTokCV(config=TINY, weights="random", forced={"probes": 6, "kept": 9, "run": 2})
    with counting() as evaluations:
        here.select(here.encode(clip(frames=8, width=32)), 0.003)
    assert evaluations["elastictok_decoder"] == 2 * (2 + 1)
    assert here.shortened == {"select/search/trial": 3.0}
    assert here.parameters["forced"] == {"probes": 6, "kept": 9, "run": 2}
    whole = ElasticTokCV(config=TINY, weights="random", forced={"probes": 6, "kept": 9})
    assert whole.shortened == {}
    with pytest.raises(ContractError, match="expected 1 <= run <= 6"):
        ElasticTokCV(config=TINY, weights="random", forced={"probes": 6, "kept": 9, "run": 7}).select(
            here.encode(clip(frames=4, width=32)), 0.003
        )


def test_knobs_reach_the_search() -> None:
    video = clip(frames=4, width=32)
    counts = {}
    for search in ("binary", "linear"):
        here = ElasticTokCV(config=TINY, weights="random", search=search)
        with counting() as evaluations:
            here.select(here.encode(video), 0.0)
        counts[search] = evaluations["elastictok_encoder"]
    assert counts["linear"] == 102
    assert counts["binary"] < 10
    corrected = ElasticTokCV(config=TINY, weights="random", faithful=False)
    assert corrected.select(corrected.encode(video), 9.0).kept == 3


@BOTH
def test_bfloat16_runs(method) -> None:
    here = method(config=TINY, weights="random", dtype="bfloat16")
    tokens = here.select(here.encode(clip()), 0.3)
    assert here.decode(Tokens.from_bytes(tokens.to_bytes())).shape == clip().shape


def test_without_weights_it_says_what_mends_it() -> None:
    here = ElasticTokCV()
    assert "elastictok-cv needs weights: give --set method.elastictok-cv.weights=PATH" in here.skip((16, 256, 256))
    with pytest.raises(ContractError, match="weights=PATH"):
        here.encode(clip())
    assert ElasticTokCV(config="XS", weights="random").skip((16, 64, 64)) is None


def test_wrong_knobs_are_told_in_one_line() -> None:
    wrong = (
        ({"config": "big"}, "no configuration 'big'"),
        ({"search": "ternary"}, "binary, linear"),
        ({"dtype": "float8"}, "bfloat16"),
        ({"trailing": "cut"}, "repeat or drop"),
        ({"forced": {"probe": 1}}, "probes, kept"),
        ({"config": TINY | {"bottleneck_type": "fsq"}}, "other method"),
    )
    for knobs, words in wrong:
        with pytest.raises(ContractError, match=words) as caught:
            ElasticTokCV(**knobs)
        assert "\n" not in str(caught.value)
    here = ElasticTokCV(config=TINY, weights="random")
    with pytest.raises(ContractError, match="expected 0 or more"):
        here.check_setting(-1)
    other = ElasticTokFSQ(config=TINY, weights="random")
    with pytest.raises(ContractError, match="another configuration"):
        here.decode(other.select(other.encode(clip()), 0.3))


def test_parameters_say_what_changes_results() -> None:
    told = ElasticTokCV(config="XS", weights="random", seed=3, faithful=False).parameters
    assert told["config"]["max_toks"] == 128
    assert told["weights"] == "random:3"
    assert told["faithful"] is False
