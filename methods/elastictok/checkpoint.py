"""Official parameters: names, layouts and files, and one-line errors that say what a file really holds.

Names are those of the official code, flattened with ``/`` (elastictok.md section 8), layers stacked under
``scan_decoder`` (as published) or numbered. Kernels lie ``[in, out]``. Files: the msgpack stream that the official
converter writes, safetensors, and torch pickles (``weights_only=True``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgpack
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from avtbench.methods.contract import ContractError
from avtbench.methods.elastictok.config import ElasticTokConfig
from avtbench.methods.elastictok.network import ElasticTok, Layer

WRAPPERS = ("state_dict", "params", "model")
"""Leading parts of a name that only say where the parameters were kept."""
SIDES = ("encoder", "decoder")
Shape = tuple[int, ...]


class CheckpointError(ContractError):
    """A checkpoint does not fit; says the first offending key, expected and found shape, and the variant found."""


def official_shapes(config: ElasticTokConfig, scanned: bool = True) -> dict[str, Shape]:
    """Every parameter's official name and shape."""
    h, f, d = config.hidden_size, config.intermediate_size, config.patch_dim
    layer: dict[str, Shape] = {"attention_norm/kernel": (h,)}
    layer |= {f"attention/{w}/kernel": (h, h) for w in ("wq", "wk", "wv", "wo")}
    layer |= {"ffn_norm/kernel": (h,), "feed_forward/w1/kernel": (h, f)}
    layer |= {"feed_forward/w2/kernel": (f, h), "feed_forward/w3/kernel": (h, f)}
    ends: dict[str, dict[str, Shape]] = {
        "encoder": {
            "in_proj/kernel": (d, h),
            "is_kept_embed": (1, h),
            "is_masked_embed": (1, h),
            "ln_f/kernel": (h,),
            "pre_quant/kernel": (h, config.proj_dim),
        },
        "decoder": {"post_quant/kernel": (config.latent_dim, h), "ln_f/kernel": (h,), "out_proj/kernel": (h, d)},
    }
    shapes: dict[str, Shape] = {}
    for side, layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        shapes |= {f"{side}/{k}": v for k, v in ends[side].items()}
        if scanned:
            shapes |= {f"{side}/{side}_blocks/scan_decoder/{k}": (layers, *v) for k, v in layer.items()}
        else:
            shapes |= {f"{side}/{side}_blocks/{i}/{k}": v for i in range(layers) for k, v in layer.items()}
    return shapes


def from_official(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | ElasticTokConfig, origin: str = "state"
) -> ElasticTok:
    """Official parameters and configuration -> the ready model: float32, on the CPU, in eval mode, frozen.

    ``state`` maps flattened official names to tensors of any float dtype, with or without a ``state_dict/`` or
    ``params/`` prefix (where some keys have one, the others are ignored), layers scanned or numbered. ``config`` holds
    official configuration keys (:class:`ElasticTokConfig`). Raises :class:`CheckpointError` in one line.
    """
    if not isinstance(config, ElasticTokConfig):
        config = ElasticTokConfig.from_dict(config)
    found = unwrap(state)
    scanned = not any(f"/{side}_blocks/0/" in f"/{key}" for key in found for side in SIDES)
    _check(found, official_shapes(config, scanned), config, origin)
    with torch.device("meta"):
        model = ElasticTok(config)
    loaded = {
        name: read(lambda key: found[key].detach().to("cpu", torch.float32)).contiguous()
        for name, read in _readers(model, scanned).items()
    }
    model.load_state_dict(loaded, assign=True)
    return model.eval().requires_grad_(False)


def to_official(model: ElasticTok, scanned: bool = True) -> dict[str, Tensor]:
    """Inverse of :func:`from_official`: official names and layout, float32 on the CPU."""
    c, own = model.config, {k: v.detach().cpu().float() for k, v in model.state_dict().items()}
    out = {
        "encoder/in_proj/kernel": own["encoder.in_proj.weight"].T,
        "encoder/is_kept_embed": own["encoder.is_kept_embed"],
        "encoder/is_masked_embed": own["encoder.is_masked_embed"],
        "encoder/pre_quant/kernel": own["encoder.pre_quant.weight"].T,
        "decoder/post_quant/kernel": own["decoder.post_quant.weight"].T,
        "decoder/out_proj/kernel": own["decoder.out_proj.weight"].T,
    }
    for side, layers in (("encoder", c.num_encoder_layers), ("decoder", c.num_decoder_layers)):
        out[f"{side}/ln_f/kernel"] = own[f"{side}.stack.ln_f.weight"]
        numbered: list[dict[str, Tensor]] = []
        for i in range(layers):
            part = f"{side}.stack.layers.{i}."
            q, k, v = own[part + "attention.qkv.weight"].chunk(3)
            w1, w3 = own[part + "feed_forward.w13.weight"].chunk(2)
            numbered.append(
                {
                    "attention_norm/kernel": own[part + "attention_norm.weight"],
                    "attention/wq/kernel": q.T,
                    "attention/wk/kernel": k.T,
                    "attention/wv/kernel": v.T,
                    "attention/wo/kernel": own[part + "attention.wo.weight"].T,
                    "ffn_norm/kernel": own[part + "ffn_norm.weight"],
                    "feed_forward/w1/kernel": w1.T,
                    "feed_forward/w2/kernel": own[part + "feed_forward.w2.weight"].T,
                    "feed_forward/w3/kernel": w3.T,
                }
            )
        if scanned:
            stacked = {k: torch.stack([layer[k] for layer in numbered]) for k in numbered[0]} if numbered else {}
            out |= {f"{side}/{side}_blocks/scan_decoder/{k}": v for k, v in stacked.items()}
        else:
            out |= {f"{side}/{side}_blocks/{i}/{k}": v for i, layer in enumerate(numbered) for k, v in layer.items()}
    return {k: v.contiguous() for k, v in out.items()}


def load(path: str | Path, config: Mapping[str, Any] | ElasticTokConfig) -> ElasticTok:
    """:func:`read_checkpoint`, then :func:`from_official`."""
    return from_official(read_checkpoint(path), config, origin=str(path))


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a file, told by its first bytes: safetensors, torch pickle or msgpack stream.

    Of a whole training state in a stream only the parameters are read. Raises :class:`CheckpointError` in one line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of an ElasticTok checkpoint")
    with path.open("rb") as file:
        head = file.read(9)
    if head[:2] == b"\x80\x02" or head[:4] == b"PK\x03\x04":
        return _read_pickle(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head[:1] == b"\x92":
        return _read_stream(path)
    raise CheckpointError(
        f"{path}: starts with {head[:4]!r}; expected a msgpack stream as the official converter writes, "
        f"safetensors, or a torch file"
    )


def unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    """Strip wrapping prefixes; where some keys carry one, keys without (inputs, optimiser state) are left out."""
    split = {key: tuple(key.replace(".", "/").split("/") if "/" not in key else key.split("/")) for key in state}
    wrapped = {key: parts for key, parts in split.items() if parts[0] in WRAPPERS}
    chosen = wrapped or split
    return {"/".join(_strip(parts)): state[key] for key, parts in chosen.items()}


def describe(shapes: Mapping[str, Shape]) -> str:
    """In words, which variant parameters of these names and shapes belong to."""

    def size(key: str, axis: int) -> int | None:
        shape = shapes.get(key)
        return shape[axis] if shape is not None and len(shape) == 2 else None

    latent, proj = size("decoder/post_quant/kernel", 0), size("encoder/pre_quant/kernel", 1)
    hidden, patch = size("encoder/in_proj/kernel", 1), size("encoder/in_proj/kernel", 0)
    if latent is None and proj is None and hidden is None:
        names = " ".join(shapes)
        if any(word in names for word in ("quant_conv", "conv_in", "quantizer", "patcher")):
            return "a Cosmos or InfoTok tokeniser, not an ElasticTok"
        return "no ElasticTok"
    if latent is not None and proj is not None:
        kind = f"VAE of {latent} dimensions" if proj == 2 * latent else f"FSQ of {latent} levels"
    else:
        kind = "of unknown bottleneck"
    depth = []
    for side in SIDES:
        scanned = shapes.get(f"{side}/{side}_blocks/scan_decoder/attention_norm/kernel")
        prefix = f"{side}/{side}_blocks/"
        numbered = {key[len(prefix) :].split("/")[0] for key in shapes if key.startswith(prefix)}
        depth.append(str(scanned[0] if scanned else len(numbered)))
    return f"ElasticTok {kind}, {'+'.join(depth)} layers, hidden size {hidden}, {patch} values a patch"


def _strip(parts: tuple[str, ...]) -> tuple[str, ...]:
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return parts


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Shape], config: ElasticTokConfig, origin: str) -> None:
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    looks = f"it looks like {describe(shapes)}; wanted {describe(expected)}"
    for key, shape in expected.items():
        if key not in shapes:
            raise CheckpointError(f"{origin}: key {key!r} is missing, expected shape {shape}, found none; {looks}")
        if shapes[key] != shape:
            raise CheckpointError(f"{origin}: key {key!r} has shape {shapes[key]}, expected {shape}; {looks}")
    for key, shape in shapes.items():
        if key not in expected:
            raise CheckpointError(f"{origin}: key {key!r} of shape {shape} has no place here, expected none; {looks}")


Read = Callable[[Callable[[str], Tensor]], Tensor]


def _readers(model: ElasticTok, scanned: bool) -> dict[str, Read]:
    """For each of our parameters how it is put together from official ones."""
    readers: dict[str, Read] = {}

    def whole(name: str, key: str) -> None:
        readers[name] = lambda get: get(key)

    def linear(name: str, *keys: str, layer: int | None = None) -> None:
        def read(get: Callable[[str], Tensor]) -> Tensor:
            parts = [get(key) if layer is None else get(key)[layer] for key in keys]
            return torch.cat([part.T for part in parts]) if len(parts) > 1 else parts[0].T

        readers[f"{name}.weight"] = read

    def norm(name: str, key: str, layer: int | None = None) -> None:
        readers[f"{name}.weight"] = lambda get: get(key) if layer is None else get(key)[layer]

    linear("encoder.in_proj", "encoder/in_proj/kernel")
    whole("encoder.is_kept_embed", "encoder/is_kept_embed")
    whole("encoder.is_masked_embed", "encoder/is_masked_embed")
    linear("encoder.pre_quant", "encoder/pre_quant/kernel")
    linear("decoder.post_quant", "decoder/post_quant/kernel")
    linear("decoder.out_proj", "decoder/out_proj/kernel")
    for side, network in (("encoder", model.encoder), ("decoder", model.decoder)):
        norm(f"{side}.stack.ln_f", f"{side}/ln_f/kernel")
        for i, layer in enumerate(network.stack.layers):
            assert isinstance(layer, Layer)
            to, at = f"{side}.stack.layers.{i}", f"{side}/{side}_blocks/{'scan_decoder' if scanned else i}"
            row = i if scanned else None
            norm(f"{to}.attention_norm", f"{at}/attention_norm/kernel", row)
            norm(f"{to}.ffn_norm", f"{at}/ffn_norm/kernel", row)
            linear(f"{to}.attention.qkv", *(f"{at}/attention/{w}/kernel" for w in ("wq", "wk", "wv")), layer=row)
            linear(f"{to}.attention.wo", f"{at}/attention/wo/kernel", layer=row)
            linear(f"{to}.feed_forward.w13", *(f"{at}/feed_forward/{w}/kernel" for w in ("w1", "w3")), layer=row)
            linear(f"{to}.feed_forward.w2", f"{at}/feed_forward/w2/kernel", layer=row)
    return readers


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader meets
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: not a whole torch file of plain tensors ({reason}); fetch it again") from None
    while isinstance(content, Mapping) and any(isinstance(content.get(w), Mapping) for w in WRAPPERS):
        content = next(content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping))
    if isinstance(content, nn.Module) or not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a mapping of names to tensors")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = file.read(length) if length <= size else b""
    try:
        entries = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
    except ValueError:
        raise CheckpointError(
            f"{path}: truncated: its header should have {length} bytes, the file has {size}; fetch it again"
        ) from None
    room = size - 8 - length
    for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if end > room:
            looks = describe(unwrap({k: tuple(e["shape"]) for k, e in entries.items()}))
            raise CheckpointError(
                f"{path}: truncated: key {key!r} of expected shape {tuple(entry['shape'])} needs {end - begin} bytes, "
                f"found {max(0, room - begin)}; it looks like {looks}; fetch it again"
            )
    return load_file(path)


def _read_stream(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    key: tuple[str, ...] = ()
    with path.open("rb") as file:
        unpacker = msgpack.Unpacker(file, raw=False, max_buffer_size=0, read_size=1 << 24, strict_map_key=False)
        while True:
            at = unpacker.tell()
            key = ()
            try:
                if unpacker.read_array_header() != 2:
                    raise ValueError("an entry is no pair")
                key = tuple(str(part) for part in unpacker.unpack())
                if key and ("opt_state" in key or _strip(key)[0] not in SIDES):
                    unpacker.skip()
                    continue
                state["/".join(key)] = _flax_array(unpacker.unpack())
            except msgpack.OutOfData:
                break
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                where = f"key {'/'.join(key)!r}" if key else f"the entry at byte {at}"
                raise CheckpointError(
                    f"{path}: {where} is no flax array ({error}); it looks like {_seen(state)}"
                ) from None
    size = path.stat().st_size
    if at != size:
        where = f"key {'/'.join(key)!r}" if key else "an entry"
        raise CheckpointError(
            f"{path}: truncated: {where} begins at byte {at} and does not end within the {size} bytes found; "
            f"so far it looks like {_seen(state)}; fetch it again"
        )
    return state


def _seen(state: Mapping[str, Tensor]) -> str:
    return describe({k: tuple(v.shape) for k, v in unwrap(state).items()})


def _flax_array(packed: Any) -> Tensor:
    """flax's msgpack of an array: extension 1 (array) or 3 (scalar) of (shape, dtype, bytes); huge ones in chunks."""

    def array(code: int, data: bytes) -> Any:
        if code not in (1, 3):
            return msgpack.ExtType(code, data)
        shape, name, buffer = msgpack.unpackb(data, raw=False)
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype {name!r} is not known")
        if len(buffer) != prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(buffer)} bytes for shape {tuple(shape)} of {name}")
        values = torch.frombuffer(bytearray(buffer), dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        return values.reshape(tuple(shape))

    value = packed
    if isinstance(packed, bytes):
        value = msgpack.unpackb(packed, ext_hook=array, raw=False, strict_map_key=False)
    elif isinstance(packed, msgpack.ExtType):
        value = array(packed.code, packed.data)
    if isinstance(value, dict) and value.get("__msgpack_chunked_array__"):
        ordered = [[part[str(i)] for i in range(len(part))] for part in (value["chunks"], value["shape"])]
        value = torch.cat(ordered[0]).reshape(ordered[1])
    if not isinstance(value, Tensor):
        raise ValueError(f"found {type(value).__name__}")
    return value
