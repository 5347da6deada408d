"""Sizes of an InfoTok model: the published one, two smaller ones, or any that an official config describes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok.router import check_mask_method

PUBLISHED = "OURS4x8x8-mse-256p-88"


@dataclass(frozen=True)
class ViTConfig:
    """``vit_config`` of the official model."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    num_attention_heads: int = 32
    theta: float = 1e4
    rms_norm_eps: float = 1e-5
    max_num_video_frames: int = 49
    """Rows of ``temporal_embed``: the most latent frames of a window."""
    max_sequence_length: int = 96
    """Largest latent height or width (the official rotary table's side)."""
    method: str = "mse"
    """Mask method that the model was trained with."""


@dataclass(frozen=True)
class InfoTokConfig:
    """An InfoTok model. Field names are the official ones; defaults are ``OURS4x8x8-mse-256p-88``."""

    channels: int = 128
    channels_mult: tuple[int, ...] = (2, 4, 4)
    num_res_blocks: int = 2
    patch_size: int = 2
    z_channels: int = 256
    spatial_compression: int = 8
    temporal_compression: int = 4
    embedding_dim: int = 6
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    attn_resolutions: tuple[int, ...] = (32,)
    resolution: int = 1024
    in_channels: int = 3
    out_channels: int = 3
    legacy_mode: bool = False
    vit: ViTConfig = ViTConfig()

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def as_dict(self) -> dict[str, Any]:
        """The config as official names and JSON-able values; :meth:`from_dict` reads it back."""
        values = asdict(self)
        return {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k != "vit"},
            "vit_config": values["vit"],
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> InfoTokConfig:
        """Read an official config (``vit_config`` nested); entries without influence on inference are ignored.

        Raises :class:`ContractError` for what the published family does not have: other quantisers or CNNs, no ViT,
        learned 1-D tokens (``concat_decode_2d``), ``special_attn``, 1-D rotary layers.
        """
        vit = dict(config.get("vit_config", config.get("vit", {})))
        expected = {"quantizer": "FSQ", "encoder": "FACTORIZED", "decoder": "FACTORIZED", "use_vit": True}
        expected |= {"patch_method": "haar", "z_factor": 1, "num_groups": 1}
        for key, value in expected.items():
            if config.get(key, value) != value:
                raise ContractError(
                    f"infotok: config has {key}={config[key]!r}, this model is built for {value!r} only"
                )
        for key in ("concat_decode_2d", "special_attn"):
            if vit.get(key, False):
                raise ContractError(
                    f"infotok: vit_config has {key}=True, a legacy variant that is not published; expected False"
                )
        if vit.get("switch_rotary_to_1d", 1.0) < 1.0:
            raise ContractError(
                f"infotok: vit_config has switch_rotary_to_1d={vit['switch_rotary_to_1d']}, "
                "expected 1.0 (2-D rotary in every layer)"
            )

        def pick(kind: type, source: Mapping[str, Any]) -> dict[str, Any]:
            names = {f.name for f in fields(kind)}
            return {k: tuple(v) if isinstance(v, list) else v for k, v in source.items() if k in names and k != "vit"}

        made = cls(**pick(cls, config), vit=ViTConfig(**pick(ViTConfig, vit)))
        made.check()
        return made

    def check(self) -> None:
        """Raise :class:`ContractError` where sizes cannot fit together."""
        vit = self.vit
        check_mask_method(vit.method)
        if vit.hidden_size % vit.num_attention_heads or vit.hidden_size // vit.num_attention_heads % 4:
            raise ContractError(
                f"infotok: hidden_size {vit.hidden_size} over {vit.num_attention_heads} heads is "
                f"{vit.hidden_size / vit.num_attention_heads:g} a head; 2-D rotary needs a multiple of 4"
            )
        if len(self.levels) != self.embedding_dim:
            raise ContractError(
                f"infotok: {len(self.levels)} FSQ levels for embedding_dim {self.embedding_dim}; expected as many"
            )


CONFIGS: dict[str, InfoTokConfig] = {
    PUBLISHED: InfoTokConfig(),
    "small": InfoTokConfig(channels=64, z_channels=128, vit=ViTConfig(128, 256, 4, 4, 16)),
    "tiny": InfoTokConfig(channels=32, z_channels=64, vit=ViTConfig(64, 128, 2, 2, 8)),
}
"""By name: the published model (123.1 M parameters), ``small`` (29.5 M) and ``tiny`` (7.2 M)."""


def resolve_config(config: InfoTokConfig | Mapping[str, Any] | str | Path | None) -> InfoTokConfig:
    """A config from itself, an official dict, a name of :data:`CONFIGS`, or the path of a JSON file that holds one
    (bare or under ``config``); None is the published model."""
    if config is None:
        return CONFIGS[PUBLISHED]
    if isinstance(config, InfoTokConfig):
        return config
    if isinstance(config, Mapping):
        return InfoTokConfig.from_dict(config)
    if str(config) in CONFIGS:
        return CONFIGS[str(config)]
    path = Path(config)
    if path.suffix == ".json" and path.is_file():
        content = json.loads(path.read_text())
        return InfoTokConfig.from_dict(content.get("config", content))
    raise ContractError(f"infotok: config {str(config)!r} is neither one of {', '.join(CONFIGS)} nor a JSON file")
