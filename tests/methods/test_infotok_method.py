"""InfoTok as a method of the benchmark: any clip in, tokens out, and a decode from the tokens alone."""

import pytest
import torch

from avtbench.methods.contract import ContractError, Tokens
from avtbench.methods.infotok import CONFIGS, InfoTokConfig, InfoTokMethod, ViTConfig, collect_elbos
from avtbench.methods.stages import counting, listening

SMALL = InfoTokConfig(
    channels=8, channels_mult=(1, 2, 2), num_res_blocks=1, z_channels=16, vit=ViTConfig(16, 32, 1, 1, 2)
)


def make(**knobs):
    return InfoTokMethod(**{"weights": "random", "config": SMALL, "window": 9} | knobs)


@pytest.fixture(scope="module")
def method():
    return make()


def clip(frames, height, width, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=noise)


def run(method, video, rate=0.5):
    tokens = method.select(method.encode(video), rate)
    return tokens, method.decode(tokens)


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize(
    ("size", "overlap"), [((1, 32, 32), 0), ((2, 34, 46), 0), ((5, 64, 48), 3), ((12, 32, 50), 0), ((20, 40, 36), 4)]
)
def test_any_size_comes_back(size, overlap, faithful):
    method = make(overlap=overlap, faithful=faithful)
    tokens, decoded = run(method, clip(*size))
    assert decoded.shape == (*size, 3)
    assert decoded.dtype == torch.float32
    assert tokens.video == size
    assert tokens.codebook == 64000
    assert tokens.values.dtype == torch.int64
    grids = [method._layout(size).grid(span) for span in method._layout(size).spans]
    assert tokens.keep.shape == (sum(t for t, _, _ in grids), *grids[0][1:])


@pytest.mark.parametrize("overlap", [0, 3])
def test_serialised_tokens_decode_to_the_same_pixels_elsewhere(overlap):
    tokens, decoded = run(make(overlap=overlap), clip(14, 32, 48))
    received = Tokens.from_bytes(tokens.to_bytes())
    assert torch.equal(make(window=5).decode(received), decoded)  # window and overlap travel with the tokens


@pytest.mark.parametrize("rate", [0.125, 0.25, 0.5, 0.75, 1.0])
def test_the_setting_is_the_rate(method, rate):
    tokens, _ = run(method, clip(9, 32, 32), rate)
    assert tokens.total == 3 * 4 * 4
    assert tokens.kept == min(round(rate * 48), 47)  # published: the least token of a window never passes


def test_the_corrected_rate_is_exact():
    tokens, _ = run(make(faithful=False), clip(9, 32, 32), 1.0)
    assert tokens.kept == tokens.total


def test_one_encode_serves_a_sweep_and_leaves_everything_as_it_was(method):
    video = clip(11, 32, 32)
    before = video.clone()
    latents = method.encode(video)
    first = method.select(latents, 0.25)
    method.select(latents, 0.75)
    assert torch.equal(method.select(latents, 0.25).values, first.values)
    assert torch.equal(method.select(method.encode(video), 0.25).keep, first.keep)
    assert torch.equal(video, before)


ONCE, PUBLISHED, BOTH_PASSES = (1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3)


@pytest.mark.parametrize(
    ("knobs", "evaluations"),
    [
        ({"strategy": "static"}, PUBLISHED),
        ({"strategy": "elbo"}, PUBLISHED),
        ({"strategy": "global_elbo"}, BOTH_PASSES),
        ({"strategy": "global_elbo_bin"}, BOTH_PASSES),
        ({"strategy": "global_elbo", "elbo_mean": 0.5}, PUBLISHED),
        ({"strategy": "global_elbo", "faithful": False}, PUBLISHED),
    ],
)
@pytest.mark.parametrize("frames", [9, 20])
def test_network_evaluations_per_window(knobs, evaluations, frames):
    method = make(**knobs)
    with counting() as nfe:
        run(method, clip(frames, 32, 32), 1.0)
    windows = -(-frames // 9)
    names = ("encoder", "vit_encoder", "vit_decoder", "decoder")
    assert nfe == {name: n * windows for name, n in zip(names, evaluations, strict=True)}


def test_the_official_forward_evaluates_as_often_as_published(method):
    x = torch.rand(1, 3, 9, 32, 32)
    with counting() as nfe, torch.inference_mode():
        method.model(x, n_tries=0)
    assert tuple(nfe.values()) == PUBLISHED


def test_stages_are_named(method):
    class Listener:
        def __init__(self):
            self.seen = []

        def enter(self, name):
            self.seen.append(name)

        def exit(self, name):
            pass

    listener = Listener()
    with listening(listener):
        run(method, clip(5, 32, 32))
    assert listener.seen == [
        "encoder", "vit_encoder", "quantise", "vit_decoder", "decoder", "error_map", "route",
        "vit_decoder", "decoder", "join",
    ]  # fmt: skip


def test_global_elbo_gives_harder_windows_more():
    method = make(strategy="global_elbo", window=5, faithful=False)
    video = torch.cat((torch.full((5, 32, 32, 3), 128, dtype=torch.uint8), clip(5, 32, 32)))
    tokens = method.select(method.encode(video), 0.3)
    calm, busy = tokens.keep[:2].sum(), tokens.keep[2:].sum()
    assert calm < busy


def test_elbo_mean_of_a_whole_run():
    """The published mean is over all windows of all clips; given by hand it is used as it is."""
    plain = make()
    videos = [clip(9, 32, 32), clip(14, 32, 32, 1) // 4]
    elbos = collect_elbos(plain.model, videos, window=9)
    assert len(elbos) == 3
    method = make(strategy="global_elbo", elbo_mean=sum(elbos) / 3)
    kept = [run(method, video)[0].kept for video in videos]
    alone = [run(make(strategy="global_elbo"), video)[0].kept for video in videos]
    assert kept != alone


@pytest.mark.parametrize("mask", ["mse", "order", "order_4"])
@pytest.mark.parametrize("strategy", ["elbo", "static", "uniform", "global_elbo_bin"])
def test_every_strategy_with_every_mask(mask, strategy):
    tokens, decoded = run(make(mask=mask, strategy=strategy), clip(13, 32, 32), 0.5)
    again, _ = run(make(mask=mask, strategy=strategy), clip(13, 32, 32), 0.5)
    assert 0 < tokens.kept < tokens.total
    assert torch.equal(tokens.keep, again.keep)
    assert bool(torch.isfinite(decoded).all())


def test_everything_dropped_still_decodes(method):
    tokens = Tokens(
        torch.zeros(0, dtype=torch.int64), torch.zeros(3, 4, 4, dtype=torch.bool), (9, 32, 32), codebook=64000,
        extra={"window_overlap": torch.tensor([9, 0], dtype=torch.int32)},
    )  # fmt: skip
    assert method.decode(tokens).shape == (9, 32, 32, 3)


def test_bfloat16_runs_throughout():
    method = make(dtype="bfloat16")
    tokens, decoded = run(method, clip(9, 32, 32))
    assert {p.dtype for p in method.model.parameters()} == {torch.bfloat16}
    assert decoded.dtype == torch.float32
    assert abs(tokens.kept - 24) <= 2  # ties at the bound are dropped, as published
    exact = run(make(), clip(9, 32, 32))[1]
    assert float((decoded - exact).abs().mean()) < 0.2


def test_without_weights_it_is_listed_and_skipped():
    method = InfoTokMethod()
    assert method.config == CONFIGS["OURS4x8x8-mse-256p-88"]
    assert "pass weights=PATH of infotok_mse.pt" in method.skip((17, 256, 256))
    assert method.parameters["weights"] is None
    with pytest.raises(ContractError, match="needs weights"):
        method.encode(clip(1, 32, 32))


def test_limits_of_the_tables_are_said(method):
    assert "1024 x 64 pixels are more than the model's 768 on a side" in method.skip((1, 1024, 64))
    assert "has 51 latent frames, the model knows 49" in make(window=201).skip((201, 32, 32))
    assert method.skip((500, 32, 32)) is None


def test_identity_changes_with_what_changes_results():
    base = make().parameters
    for knobs in ({"seed": 1}, {"strategy": "static"}, {"mask": "order"}, {"window": 5}, {"overlap": 1},
                  {"faithful": False}, {"dtype": "bfloat16"}, {"elbo_mean": 0.5}):  # fmt: skip
        assert make(**knobs).parameters != base
    assert make().parameters == base


@pytest.mark.parametrize("rate", [0, -1, 1.01, float("nan"), float("inf"), "half", None])
def test_bad_rates_are_refused(method, rate):
    with pytest.raises(ContractError) as error:
        method.check_setting(rate)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"strategy": "best"}, "strategy 'best' is unknown"),
        ({"mask": "psnr"}, "mask method 'psnr' is unknown"),
        ({"window": 4, "overlap": 4}, "window 4 with overlap 4"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"config": "huge"}, "config 'huge' is neither one of OURS4x8x8-mse-256p-88, small, tiny nor a JSON file"),
        ({"weights": "nowhere.pt"}, "nowhere.pt does not exist"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ContractError, match=message):
        make(**knobs)


def test_tokens_of_another_layout_are_refused(method):
    tokens, _ = run(method, clip(9, 32, 32))
    wrong = Tokens(tokens.values, tokens.keep, (30, 32, 32), codebook=64000, extra=tokens.extra)
    with pytest.raises(ContractError, match="tokens of 3 latent frames, a clip"):
        method.decode(wrong)
