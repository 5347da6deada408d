"""Sizes of an ElasticTok: the official configuration keys, the published sizes and scaled-down ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isqrt, prod
from typing import Any

from avtbench.methods.contract import ContractError


@dataclass(frozen=True)
class ElasticTokConfig:
    """One network. Field names are those of the official configuration; see architectures.md section 1.

    A block of ``frames_per_block`` frames of ``resolution`` squared pixels becomes ``max_toks`` tokens, exactly
    (frames_per_block / Tp) * (resolution / Hp) * (resolution / Wp) with ``patch_size`` = (Tp, Hp, Wp).
    """

    bottleneck_type: str = "vae"
    """``vae`` (continuous, "CV") or ``fsq`` (discrete)."""
    hidden_size: int = 1024
    intermediate_size: int = 2048
    num_encoder_layers: int = 10
    num_decoder_layers: int = 10
    num_attention_heads: int = 8
    patch_size: tuple[int, int, int] = (2, 8, 8)
    frames_per_block: int = 4
    resolution: int | None = 256
    """Side of the square frames; None where ``max_toks`` is no square grid (then only patches can be coded)."""
    min_toks: int = 128
    max_toks: int = 2048
    max_sequence_length: int = 8192
    vae_bottleneck_dim: int = 8
    fsq_quant_levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    theta: float = 1e4
    rms_norm_eps: float = 1e-5
    max_blocks_per_chunk: int = 4
    """Longer videos are cut in chunks of this many blocks; nothing is carried from one chunk to the next."""

    def __post_init__(self) -> None:
        if self.bottleneck_type not in ("vae", "fsq"):
            raise ContractError(f"ElasticTok: bottleneck_type is {self.bottleneck_type!r}, expected 'vae' or 'fsq'")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ContractError(
                f"ElasticTok: hidden_size {self.hidden_size} gives no {self.num_attention_heads} heads of an even width"
            )
        if self.max_sequence_length < self.max_toks or not 0 < self.min_toks <= self.max_toks:
            raise ContractError(
                f"ElasticTok: expected 0 < min_toks <= max_toks <= max_sequence_length, "
                f"found {self.min_toks}, {self.max_toks}, {self.max_sequence_length}"
            )
        if self.resolution is not None and self.tokens_at(self.resolution) != self.max_toks:
            raise ContractError(
                f"ElasticTok: patch {self.patch_size} cuts {self.frames_per_block} frames of {self.resolution} pixels "
                f"in {self.tokens_at(self.resolution)} tokens, but max_toks is {self.max_toks}; they must be equal"
            )

    def tokens_at(self, resolution: int) -> int:
        """Tokens of a block of square frames of that side; 0 where patches do not fit."""
        (tp, hp, wp), side = self.patch_size, resolution
        if self.frames_per_block % tp or side % hp or side % wp:
            return 0
        return (self.frames_per_block // tp) * (side // hp) * (side // wp)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_dim(self) -> int:
        """Values of a patch, D = Tp * Hp * Wp * 3."""
        return prod(self.patch_size) * 3

    @property
    def latent_dim(self) -> int:
        """Channels of a latent: the VAE's dimension or the number of FSQ levels."""
        return self.vae_bottleneck_dim if self.bottleneck_type == "vae" else len(self.fsq_quant_levels)

    @property
    def proj_dim(self) -> int:
        """Width of the bottleneck's input: mean and log-variance, or one value per FSQ level."""
        return self.latent_dim * (2 if self.bottleneck_type == "vae" else 1)

    @property
    def codebook(self) -> int | None:
        """Number of codes, None for the VAE."""
        return prod(self.fsq_quant_levels) if self.bottleneck_type == "fsq" else None

    @property
    def chunk_blocks(self) -> int:
        """Blocks that are coded together."""
        return min(self.max_blocks_per_chunk, self.max_sequence_length // self.max_toks)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; :meth:`from_dict` is the inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ElasticTokConfig:
        """From official keys; what is missing takes the official class default, keys without effect are ignored.

        ``resolution`` and ``max_sequence_length`` follow from the rest where absent.
        """
        if isinstance(config.get("config"), Mapping):
            config = config["config"]
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.items() if k in known
        }
        missing = [k for k in ("hidden_size", "patch_size", "max_toks", "bottleneck_type") if k not in given]
        if missing:
            raise ContractError(f"ElasticTok: the configuration has no {missing[0]!r}; found {sorted(config)}")
        if "head_dim" in config and config["head_dim"] * given.get("num_attention_heads", 8) != given["hidden_size"]:
            raise ContractError(
                f"ElasticTok: head_dim {config['head_dim']} x heads is not hidden_size {given['hidden_size']}"
            )
        tokens, (tp, hp, wp) = given["max_toks"], given["patch_size"]
        if given.get("resolution") is None:
            frames = given.get("frames_per_block", cls.frames_per_block)
            side = isqrt(tokens * hp * wp * tp // frames)
            probe = replace(cls(), resolution=None, patch_size=(tp, hp, wp), frames_per_block=frames)
            given["resolution"] = side if probe.tokens_at(side) == tokens else None
        given.setdefault("max_sequence_length", tokens * config.get("n_blocks", cls.max_blocks_per_chunk))
        given.setdefault("min_toks", max(1, tokens // 16))
        return cls(**given)

    @classmethod
    def named(cls, name: str, bottleneck: str = "vae") -> ElasticTokConfig:
        """A size of :data:`SIZES` with the published patch, RoPE base and bottleneck of the VAE or the FSQ variant."""
        if name not in SIZES:
            raise ContractError(f"ElasticTok: no configuration {name!r}; there are {', '.join(SIZES)}")
        side, hidden, inner, layers, heads, eps = SIZES[name]
        patch, theta = ((2, 8, 8), 5e6) if bottleneck == "vae" else ((1, 8, 8), 5e7)
        tokens = (4 // patch[0]) * (side // 8) ** 2
        return cls(
            bottleneck_type=bottleneck,
            hidden_size=hidden,
            intermediate_size=inner,
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            num_attention_heads=heads,
            patch_size=patch,
            resolution=side,
            min_toks=tokens // 16,
            max_toks=tokens,
            max_sequence_length=4 * tokens,
            theta=theta,
            rms_norm_eps=eps,
        )


SIZES: dict[str, tuple[int, int, int, int, int, float]] = {
    "200m": (256, 1024, 2048, 10, 8, 1e-5),
    "M": (128, 512, 1024, 8, 8, 1e-5),
    "S": (96, 384, 768, 6, 6, 1e-5),
    "XS": (64, 256, 512, 4, 4, 1e-5),
    "debug": (64, 256, 256, 2, 2, 1e-6),
}
"""Name -> (resolution, hidden, SwiGLU width, layers on each side, heads, norm eps). ``200m`` is the published one;
``M``, ``S`` and ``XS`` keep min/max = 1/16, 4 frames a block and 4 blocks a chunk (architectures.md 1.6)."""
