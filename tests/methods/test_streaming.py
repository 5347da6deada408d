"""Chunk by chunk: sender and receiver each with a state of its own, and nothing lost by cutting."""

from dataclasses import fields

import pytest
import torch

from avtbench.bench import plugins
from avtbench.datasets.contract import View
from avtbench.datasets.synthetic import Synthetic
from avtbench.methods.contract import ContractError, Tokens
from avtbench.methods.latents import LatentMethod, Latents
from avtbench.methods.stages import counting
from avtbench.methods.streaming import Caches, split, stream

TAU = 0.1


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    dataset = Synthetic(clips=4)
    return torch.from_numpy(dataset.read(dataset.clips()[3], View(size=64, frames=33)).video.copy())


def build(name: str, **knobs):
    return plugins.create("method", name, tokenizer="embedded", **knobs)


@torch.inference_mode()
def streamed(method, video, chunk=16, caches=Caches()):
    """Masks ``[t, h, w]``, kept values and frames of all chunks, one after the other."""
    parts = list(stream(method, split(video, *method.chunking(chunk)), TAU, caches))
    tokens, frames = parts[::2], parts[1::2]
    return torch.cat([t.keep for t in tokens]), torch.cat([t.values for t in tokens]), torch.cat(frames)


@torch.inference_mode()
def whole(method, video):
    tokens = method.select(method.encode(video), TAU)
    return tokens.keep, tokens.values, method.decode(tokens)


@pytest.mark.parametrize("chunk", [4, 8, 12, 16])
@pytest.mark.parametrize("reference", ["last_kept", "previous"])
def test_with_its_cache_the_selection_in_chunks_is_that_of_the_whole_clip(video, chunk, reference):
    hold = build("hold", reference=reference)
    keep, values, frames = whole(hold, video)
    keep_in_chunks, values_in_chunks, frames_in_chunks = streamed(hold, video, chunk)
    assert not bool(keep[1:].all())
    assert bool(keep[1:].any())
    assert torch.equal(keep_in_chunks, keep)
    assert torch.allclose(values_in_chunks, values, atol=1e-3)
    assert torch.allclose(frames_in_chunks, frames, atol=1e-4)


@pytest.mark.parametrize("name", ["full-rate", "lit", "lit-plain"])
def test_the_tokeniser_and_the_rule_of_lit_stream_exactly(video, name):
    method = build(name)
    keep, _, frames = whole(method, video)
    keep_in_chunks, _, frames_in_chunks = streamed(method, video)
    assert torch.equal(keep_in_chunks, keep)
    first_chunk = whole(method, video[:17])[2]  # a filler looks ahead, but not beyond the chunk
    assert torch.allclose(frames_in_chunks[:17], first_chunk, atol=1e-4)
    if name == "full-rate":
        assert torch.allclose(frames_in_chunks, frames, atol=1e-4)


def test_without_c_sel_every_chunk_begins_with_a_whole_latent_frame(video):
    hold = build("hold")
    keep, *_ = streamed(hold, video)
    anew, *_ = streamed(hold, video, caches=Caches(selection=False))
    borders = [5]  # of nine latent frames: one and four, then four
    assert not any(bool(keep[k].all()) for k in borders)
    assert all(bool(anew[k].all()) for k in borders)
    assert int(anew.sum()) > int(keep.sum())


def test_the_network_sees_c_fill_before_the_chunk(video, monkeypatch):
    lit, seen = build("lit"), []
    forward = lit.network.forward
    monkeypatch.setattr(lit.network, "forward", lambda z, keep: seen.append((z.shape[2], keep)) or forward(z, keep))
    streamed(lit, video)
    assert [t for t, _ in seen] == [5, 5], "as many latent frames as in training: 1 + 4, then one of C_fill and 4"
    assert bool(seen[1][1][0, 0].all()), "what is in C_fill counts as kept"
    assert not bool(seen[1][1][0, 1].all())
    seen.clear()
    streamed(lit, video, chunk=8)
    assert [t for t, _ in seen] == [3, 5, 5, 5], "shorter chunks get more of it"


@pytest.mark.parametrize("name", ["hold", "lit"])
def test_without_c_fill_a_dropped_position_has_nothing_to_go_by(video, name):
    def error(frames):
        return float((frames[17:21] - video[17:21] / 255).square().mean())

    keep, _, frames = streamed(build(name), video)
    same, _, alone = streamed(build(name), video, caches=Caches(fill=False))
    assert torch.equal(keep, same)
    assert torch.equal(frames[:17], alone[:17])
    assert error(alone) > 2 * error(frames)


def test_without_both_a_chunk_is_a_clip_of_its_own_to_rule_and_filler(video):
    lit = build("lit")
    with torch.inference_mode():
        z = lit.encode(video).z
        apart = [lit.choose(Latents(part, video), TAU) for part in (z[:, :5], z[:, 5:])]
    assert torch.equal(streamed(lit, video, caches=Caches(False, False))[0], torch.cat(apart))


@torch.inference_mode()
def test_the_receiver_needs_tokens_and_its_own_state_alone(video):
    sender, receiver = build("lit"), build("lit")
    expected = streamed(sender, video)[2]
    encoding = selecting = decoding = None
    received = []
    for chunk in split(video, *sender.chunking(16)):
        latents, encoding = sender.encode_chunk(chunk, encoding)
        tokens, selecting = sender.select_chunk(latents, TAU, selecting)
        frames, decoding = receiver.decode_chunk(Tokens.from_bytes(tokens.to_bytes()), decoding)
        received.append(frames)
    assert torch.allclose(torch.cat(received), expected, atol=1e-6)


@torch.inference_mode()
def test_states_do_not_grow(video):
    lit = build("lit")
    sizes = []
    encoding = selecting = decoding = None
    for chunk in split(video, *lit.chunking(4)):
        latents, encoding = lit.encode_chunk(chunk, encoding)
        tokens, selecting = lit.select_chunk(latents, TAU, selecting)
        _, decoding = lit.decode_chunk(tokens, decoding)
        sizes.append([numbers(state) for state in (encoding, selecting, decoding)])
    assert len(sizes) == 8
    assert all(size == sizes[3] for size in sizes[3:]), "four latent frames fill C_fill"


def numbers(state) -> int:
    """Numbers that a state holds on to, memory behind views included."""
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes() // state.element_size()
    if isinstance(state, dict):
        return sum(map(numbers, state.values()))
    return sum(numbers(getattr(state, f.name)) for f in fields(state)) if hasattr(state, "__dataclass_fields__") else 0


@torch.inference_mode()
def test_lit_runs_once_a_chunk(video):
    lit = build("lit")
    with counting() as evaluations:
        streamed(lit, video)
    assert evaluations == {"encoder": 2, "lit": 2, "decoder": 2}


@pytest.mark.parametrize("extent", [(20, 34, 46), (1, 32, 32), (16, 32, 32), (18, 33, 39)])
def test_any_length_and_size_comes_back(video, extent):
    frames, height, width = extent
    clip = video[:frames, :height, :width]
    assert streamed(build("lit"), clip)[2].shape == clip.shape


@torch.inference_mode()
def test_a_chunk_that_had_to_be_padded_ends_the_stream(video):
    hold = build("hold")
    _, state = hold.encode_chunk(video[:6], None)
    with pytest.raises(ContractError, match=r"expected 1 \+ k \* 4 frames in the first chunk"):
        hold.encode_chunk(video[6:10], state)
    with pytest.raises(ContractError, match="chunk is 6 frames, expected a multiple of 4"):
        hold.chunking(6)


def test_methods_that_need_the_whole_clip_say_so():
    for name in ("random", "oracle", "infotok-style", "elastictok-style"):
        assert "takes a clip as a whole" in build(name).no_stream
    for name in ("full-rate", "hold", "lit", "lit-plain"):
        assert build(name).no_stream is None


def test_a_method_on_latents_without_a_rule_is_refused_when_it_is_built():
    class Ruleless(LatentMethod):
        name = "ruleless"

    with pytest.raises(ContractError, match="ruleless: the class defines no rule, expected choose_chunk or choose"):
        Ruleless(build("hold").tokenizer)
