"""ElasticTok's parameters: official names and files load; what does not fit is named in one line."""

from pathlib import Path

import msgpack
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avtbench.methods.elastictok import CheckpointError, ElasticTok, ElasticTokConfig, from_official, load, to_official
from avtbench.methods.elastictok.checkpoint import official_shapes

CONFIG = {
    "bottleneck_type": "vae",
    "vae_bottleneck_dim": 4,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_encoder_layers": 3,
    "num_decoder_layers": 2,
    "num_attention_heads": 3,
    "patch_size": [2, 8, 8],
    "max_toks": 32,
    "min_toks": 4,
    "theta": 5e5,
    "rms_norm_eps": 1e-4,
}
FSQ = CONFIG | {"bottleneck_type": "fsq", "fsq_quant_levels": [8, 6, 5]}


@pytest.fixture(scope="module")
def model() -> ElasticTok:
    return ElasticTok(ElasticTokConfig.from_dict(CONFIG)).initialise(3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def state(model: ElasticTok) -> dict[str, Tensor]:
    return to_official(model)


def same(a: ElasticTok, b: ElasticTok, atol: float = 0.0) -> None:
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, msg=name)


def write_stream(path: Path, state: dict[str, Tensor], prefix: tuple[str, ...] = (), chunks: int = 0) -> Path:
    """As the official converter does: (key path, flax-msgpack bytes) pairs, parameters in bfloat16."""

    def array(value: Tensor) -> msgpack.ExtType:
        content = value.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
        return msgpack.ExtType(1, msgpack.packb((tuple(value.shape), "bfloat16", content), use_bin_type=True))

    def leaf(value: Tensor) -> bytes:
        if not chunks:
            return msgpack.packb(array(value), strict_types=True)
        parts = value.flatten().chunk(chunks)
        return msgpack.packb(
            {
                "__msgpack_chunked_array__": True,
                "shape": {str(i): n for i, n in enumerate(value.shape)},
                "chunks": {str(i): array(part) for i, part in enumerate(parts)},
            }
        )

    with path.open("wb") as file:
        for key, value in state.items():
            file.write(msgpack.packb(((*prefix, *key.split("/")), leaf(value))))
    return path


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("prefix", ["", "state_dict/", "params/", "params/params/"])
def test_official_names_load(model: ElasticTok, scanned: bool, prefix: str) -> None:
    state = {f"{prefix}{k}": v for k, v in to_official(model, scanned).items()}
    if prefix:
        state["input/video_u8"] = torch.zeros(1)
    loaded = from_official(state, CONFIG)
    same(loaded, model)
    assert not loaded.training


def test_names_and_shapes_are_the_official_ones(model: ElasticTok, state: dict[str, Tensor]) -> None:
    assert state["encoder/encoder_blocks/scan_decoder/attention/wq/kernel"].shape == (3, 24, 24)
    assert state["decoder/decoder_blocks/scan_decoder/feed_forward/w2/kernel"].shape == (2, 40, 24)
    for scanned in (True, False):
        shapes = {k: tuple(v.shape) for k, v in to_official(model, scanned).items()}
        assert shapes == official_shapes(model.config, scanned)


@pytest.mark.parametrize("prefix", [(), ("params",), ("params", "params")])
@pytest.mark.parametrize("chunks", [0, 3])
def test_the_converters_stream_loads(tmp_path: Path, model: ElasticTok, state, prefix, chunks: int) -> None:
    loaded = load(write_stream(tmp_path / "params", state, prefix, chunks), CONFIG)
    same(loaded, model.__class__(model.config).initialise(3).to(torch.bfloat16).float())


def test_of_a_training_state_only_the_parameters_are_read(tmp_path: Path, model: ElasticTok, state) -> None:
    path = write_stream(tmp_path / "train", state, ("params", "params"))
    moments = write_stream(tmp_path / "moments", state, ("opt_state", "0", "mu", "params"))
    step = msgpack.packb((("step",), msgpack.packb(7)))
    path.write_bytes(step + moments.read_bytes() + path.read_bytes())
    same(load(path, CONFIG), model, atol=1e-2)


def test_safetensors_and_torch_files_load(tmp_path: Path, model: ElasticTok, state) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "b.pt")
    same(load(tmp_path / "a.safetensors", CONFIG), model)
    same(load(tmp_path / "b.pt", CONFIG), model)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "c.pt")
    assert "plain tensors" in refused(lambda: load(tmp_path / "c.pt", CONFIG))


def refused(call) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_variant_is_recognised(state) -> None:
    told = refused(lambda: from_official(state, FSQ))
    assert "'encoder/pre_quant/kernel' has shape (24, 8), expected (24, 3)" in told
    assert "looks like ElasticTok VAE of 4 dimensions, 3+2 layers, hidden size 24" in told
    assert "wanted ElasticTok FSQ of 3 levels" in told


def test_another_patch_or_depth_is_recognised(state) -> None:
    other = CONFIG | {"patch_size": [1, 8, 8], "max_toks": 64}
    assert "'encoder/in_proj/kernel' has shape (384, 24), expected (192, 24)" in refused(
        lambda: from_official(state, other)
    )
    told = refused(lambda: from_official(state, CONFIG | {"num_decoder_layers": 5}))
    assert "(2, 24), expected (5, 24)" in told


def test_missing_and_superfluous_keys_are_named(model: ElasticTok, state) -> None:
    short = {k: v for k, v in state.items() if k != "decoder/ln_f/kernel"}
    told = refused(lambda: from_official(short, CONFIG))
    assert "'decoder/ln_f/kernel' is missing, expected shape (24,), found none" in told
    numbered = to_official(model, scanned=False)
    told = refused(lambda: from_official(numbered, CONFIG | {"num_encoder_layers": 2}))
    assert "'encoder/encoder_blocks/2/attention_norm/kernel'" in told


def test_another_familys_checkpoint_is_recognised() -> None:
    told = refused(lambda: from_official({"network.quant_conv.conv3d.weight": torch.zeros(1)}, CONFIG))
    assert "a Cosmos or InfoTok tokeniser" in told


@pytest.mark.parametrize("cut", [0.4, 0.8, 0.999])
def test_truncated_files_name_the_key_they_end_in(tmp_path: Path, state, cut: float) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    for path in (tmp_path / "a.safetensors", write_stream(tmp_path / "stream", state), tmp_path / "a.pt"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * cut)])
        told = refused(lambda path=path: load(path, CONFIG))
        assert path.name in told
        if path.suffix != ".pt":
            assert "truncated: key '" in told
            assert "looks like ElasticTok" in told


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(lambda: load(tmp_path / "none", CONFIG))
    (tmp_path / "text").write_text("hello, this is no checkpoint")
    assert "expected a msgpack stream" in refused(lambda: load(tmp_path / "text", CONFIG))
    (tmp_path / "odd").write_bytes(msgpack.packb((("encoder", "ln_f", "kernel"), 5)))
    assert "'encoder/ln_f/kernel' is no flax array" in refused(lambda: load(tmp_path / "odd", CONFIG))
