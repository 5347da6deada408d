"""Official parameters into a model, or one line that says why they do not fit.

The downloaded ``infotok_mse.pt`` loads as it is: a bare state dict or a training checkpoint with a ``model`` entry,
with or without key prefixes; safetensors too. Pickles are opened with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avtbench.methods.checkpoints import disagreements, read_tensors, refuse, strip_prefix
from avtbench.methods.contract import ContractError
from avtbench.methods.infotok.config import InfoTokConfig, resolve_config
from avtbench.methods.infotok.network import InfoTok
from avtbench.methods.placement import place, seeded
from avtbench.methods.tokenizers.cosmos.model import looks_like as looks_like_cosmos

BUFFERS = ("encoder.patcher3d.", "decoder.unpatcher3d.", "quantizer.", "save_loss", "ema_loss")
"""Constants and training statistics that official files carry and this model computes or does without."""


def from_official(
    state: Mapping[str, Tensor],
    config: InfoTokConfig | Mapping[str, Any] | str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    what: str = "InfoTok checkpoint",
) -> InfoTok:
    """Official parameters -> a ready model (evaluation mode, no gradients).

    state:  official names, as in the released file or with a prefix (``state_dict/``, ``network.``, ...); tensors
            under another prefix and the official constants (wavelets, codebook, ...) are read past.
    config: the official configuration as a mapping (with ``vit_config``): the ``config`` entry of a reference vector's
            JSON; or a name of ``CONFIGS``, the path of such a JSON file, or an :class:`InfoTokConfig`.

    Raises :class:`ContractError` in one line: the first key that is missing, of another shape or unexpected, expected
    and found shape, and which variant the file looks like.
    """
    resolved = resolve_config(config)
    where, precision = place(device, dtype)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in InfoTok(resolved).state_dict().items()}
    full = strip_prefix(state, shapes)
    levels = full.get("quantizer._levels")
    if levels is not None and levels.tolist() != list(resolved.levels):
        raise ContractError(f"{what}: quantizer._levels is {levels.tolist()}, expected {list(resolved.levels)}")
    given = {name: tensor for name, tensor in full.items() if not name.startswith(BUFFERS)}
    if problems := disagreements(shapes, given):
        raise refuse(what, problems, len(shapes), looks_like(given))
    with seeded(0):
        model = InfoTok(resolved).to(where, precision)
    model.load_state_dict(given)
    return model


def load_checkpoint(
    path: str | Path,
    config: InfoTokConfig | Mapping[str, Any] | str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> InfoTok:
    """:func:`from_official` from a file, with the published configuration by default."""
    name = Path(path).name
    return from_official(
        read_tensors(path), resolve_config(config), device=device, dtype=dtype, what=f"InfoTok checkpoint {name}"
    )


def random_model(
    config: InfoTokConfig | Mapping[str, Any] | str | None = None,
    seed: int = 0,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
) -> InfoTok:
    """A model with random parameters: published cost, no published quality."""
    where, precision = place(device, dtype)
    with seeded(seed):
        return InfoTok(resolve_config(config)).to(where, precision)


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Which tokeniser a state dict is, in words."""
    w1, first = state.get("vit_encoder.0.mlp.w1.weight"), state.get("encoder.conv_in.0.conv3d.weight")
    latent = state.get("post_quant_conv.conv3d.weight")
    if w1 is None or w1.dim() != 2 or first is None or latent is None or first.dim() != 5 or latent.dim() < 2:
        return looks_like_cosmos({k: v for k, v in state.items() if not k.startswith("vit_")})
    depth = [len({k.split(".")[1] for k in state if k.startswith(f"vit_{side}coder.")}) for side in ("en", "de")]
    return (
        f"InfoTok with patch {round((first.shape[1] / 3) ** (1 / 3))}, {first.shape[0]} channels, z {latent.shape[0]}, "
        f"ViT {w1.shape[1]}/{w1.shape[0]} of {depth[0]}+{depth[1]} blocks: give its config"
    )
