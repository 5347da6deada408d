"""``elastictok-cv`` and ``elastictok-fsq``: the published ElasticTok as methods of the benchmark.

A model codes square frames of one size, blocks of ``frames_per_block`` of them, chunks of four blocks. Other clips are
fitted so, and come back at full extent: a clip is cut in windows of the model's size (256 for ``200m``, 128 for ``M``,
96 for ``S``, 64 for ``XS``) side by side, each coded as a video of its own; edges are replicated to whole windows and
whole blocks. Padding is coded and paid for like anything else: give clips of the model's size where numbers are to be
compared with published ones, and of a multiple of four frames, or ``trailing="drop"``, as the official reader does.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError, Method, Tokens
from avtbench.methods.elastictok import frames
from avtbench.methods.elastictok.checkpoint import load
from avtbench.methods.elastictok.config import SIZES, ElasticTokConfig
from avtbench.methods.elastictok.network import ElasticTok, KVCache
from avtbench.methods.elastictok.search import SEARCHES, Search, forced_search
from avtbench.methods.forced import Forced

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Patches:
    """``x: float32 [windows, blocks * M, D]`` in [-1, 1] and the clip's (T, H, W)."""

    x: Tensor
    video: tuple[int, int, int]


class _ElasticTokMethod(Method):
    """Encode cuts patches, select searches and encodes with the masks found, decode runs the decoder once more.

    config:   a size by name (``200m``, ``M``, ``S``, ``XS``, ``debug``) or a mapping of official configuration keys.
    weights:  path of an official checkpoint (msgpack stream, safetensors, torch), or ``random`` (speed only).
    seed:     of the random parameters.
    faithful: the search as published; False takes the corrected one.
    search:   ``binary`` or ``linear`` (100 trials a block).
    trailing: frames beyond the last whole block are filled up to one (``repeat``: every frame is coded) or not coded at
              all (``drop``, as published: the last coded frame is shown again for them).
    device, dtype: where and in which precision (``float32``, ``bfloat16``) the networks run.
    forced:   ``{"probes": 11, "kept": 700}``: a declared trace, every block taking that many trials and keeping that
              many tokens, so that timing with random weights has the published cost. With ``"run": 1`` only so many
              of a block's trials are made and :attr:`shortened` says what they stand for. None searches.
    """

    needs_weights = True
    bottleneck: ClassVar[Literal["vae", "fsq"]]

    def __init__(
        self,
        config: str | Mapping[str, Any] = "200m",
        weights: str | None = None,
        seed: int = 0,
        faithful: bool = True,
        search: str = "binary",
        trailing: frames.Trailing = "repeat",
        device: str = "cpu",
        dtype: str = "float32",
        forced: Mapping[str, int] | None = None,
    ) -> None:
        if isinstance(config, str):
            self.config = ElasticTokConfig.named(config, self.bottleneck)
        else:
            self.config = ElasticTokConfig.from_dict({"bottleneck_type": self.bottleneck, **config})
        if self.config.bottleneck_type != self.bottleneck:
            raise ContractError(
                f"{self.name}: the configuration's bottleneck is {self.config.bottleneck_type!r}; take the other method"
            )
        if search not in SEARCHES:
            raise ContractError(f"{self.name}: search is {search!r}, expected one of {', '.join(SEARCHES)}")
        if trailing not in get_args(frames.Trailing):
            raise ContractError(f"{self.name}: trailing is {trailing!r}, expected repeat or drop")
        if dtype not in DTYPES:
            raise ContractError(f"{self.name}: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
        self.faithful, self.search = faithful, search
        self.trailing: frames.Trailing = trailing
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        self.forced = Forced.given(self.name, forced)
        self._source = weights
        self._seed = seed
        self._spare: list[KVCache] = []
        self._model: ElasticTok | None = None
        if weights == "random":
            self.weights = "random"
            with torch.device("meta"):
                model = ElasticTok(self.config)
            self._model = model.to_empty(device="cpu").initialise(seed).eval().requires_grad_(False)
        elif weights is not None:
            self._model = load(weights, self.config)
        if self._model is not None:
            self._model.to(self.device, self.dtype)

    @property
    def model(self) -> ElasticTok:
        """The network; raises :class:`ContractError` where no weights were given."""
        if self._model is None:
            raise ContractError(self._no_weights())
        return self._model

    def skip(self, video: tuple[int, int, int]) -> str | None:
        return self._no_weights() if self._model is None else None

    def check_setting(self, setting: float) -> float:
        value = super().check_setting(setting)
        if value < 0:
            raise ContractError(
                f"{self.name}: {self.setting_name} is {value:g}, expected 0 or more; "
                f"defaults are {self.default_settings}"
            )
        return value

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "config": self.config.as_dict(),
            "faithful": self.faithful,
            "search": self.search,
            "trailing": self.trailing,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights": self.digest,
            "forced": None if self.forced is None else self.forced.as_dict(),
        }

    @cached_property
    def digest(self) -> str:
        """sha256 (16 hex digits) of the parameters, ``random:SEED`` or ``none``."""
        if self._model is None or self.weights == "random":
            return "none" if self._model is None else f"random:{self._seed}"
        content = hashlib.sha256()
        for key, value in self._model.state_dict().items():
            content.update(key.encode())
            content.update(value.cpu().contiguous().view(torch.uint8).numpy())
        return content.hexdigest()[:16]

    @property
    def shortened(self) -> Mapping[str, float]:
        """Stages of which a call makes only a part, with what one made evaluation stands for."""
        share = 1.0 if self.forced is None else self.forced.share
        return {"select/search/trial": share} if share > 1 else {}

    def encode(self, video: Tensor) -> Patches:
        device = self.model.device
        with self.stage("patchify"):
            tiles = frames.tile(video.to(device), self.config, self.trailing)
            x = frames.patchify(frames.to_unit(tiles), self.config)
        return Patches(x, (video.shape[0], video.shape[1], video.shape[2]))

    def select(self, latents: Patches, setting: float) -> Tokens:
        threshold = self.check_setting(setting)
        keep, kept = [], []
        for x in self._chunks(latents.x):
            with self.stage("search"):
                found = self._search(x, threshold)
            with self.stage("final"):
                kept.append(self.model.encode(x, found.keep)[found.keep])
            keep.append(found.keep.view(-1, self.config.max_toks))
        values, codebook = torch.cat(kept), self.config.codebook
        return Tokens(
            values=values if codebook is None else self.model.indices(values),
            keep=torch.cat(keep),
            video=latents.video,
            mask_kind="prefix",
            codebook=codebook,
        )

    def decode(self, tokens: Tokens) -> Tensor:
        blocks, rows, columns = frames.tiles_of(tokens.video, self.config, self.trailing)
        due = (rows * columns * blocks, self.config.max_toks)
        if tuple(tokens.keep.shape) != due or tokens.codebook != self.config.codebook:
            raise ContractError(
                f"{self.name}: tokens with keep {tuple(tokens.keep.shape)} and codebook {tokens.codebook}, expected "
                f"{due} and {self.config.codebook}; they were made with another configuration"
            )
        keep, values = tokens.keep.to(self.model.device), tokens.values.to(self.model.device)
        z = torch.zeros((*due, self.config.latent_dim), device=keep.device)
        z[keep] = (values if tokens.codebook is None else self.model.values(values)).float()
        windows = z.view(rows * columns, -1, self.config.latent_dim)
        with self.stage("final"):
            recon = torch.cat([self.model.decode(chunk) for chunk in self._chunks(windows)], 1)
        with self.stage("unpatchify"):
            tiles = frames.unpatchify(recon.view(rows * columns, -1, self.config.patch_dim), self.config)
            return frames.untile(tiles, tokens.video, self.config).add(1).div(2)

    def _chunks(self, sequences: Tensor) -> list[Tensor]:
        """``[windows, blocks * M, C]`` -> ``[1, n * M, C]`` for every chunk of every window, in the order of blocks."""
        length = self.config.chunk_blocks * self.config.max_toks
        return [part for window in sequences.split(1) for part in window.split(length, 1)]

    def _search(self, x: Tensor, threshold: float) -> Search:
        blocks = x.shape[1] // self.config.max_toks
        cache: KVCache | None = None
        with contextlib.suppress(IndexError):
            cache = self._spare.pop()  # taken for this search: several clips may be in flight
        if cache is None or cache.capacity < blocks * self.config.max_toks:
            cache = self.model.new_cache(1, blocks)
        if self.forced is not None:
            found = forced_search(self.model, x, self.forced, cache=cache)
        else:
            found = SEARCHES[self.search](self.model, x, threshold, faithful=self.faithful, cache=cache)
        self._spare.append(cache)
        return found

    def _no_weights(self) -> str:
        return (
            f"{self.name} needs weights: give --set method.{self.name}.weights=PATH (an official checkpoint), "
            f"or weights=random to time it (configurations: {', '.join(SIZES)})"
        )


class ElasticTokCV(_ElasticTokMethod):
    """ElasticTok with the VAE bottleneck ("CV"), as published: 200m, 256x256, continuous tokens of 8 channels."""

    name = "elastictok-cv"
    summary = "ElasticTok (VAE): per-block search for the fewest tokens that meet an MSE"
    family = "search"
    tier = "faithful"
    setting_name = "MSE target"
    setting_unit = "MSE on [-1, 1]"
    default_settings = (0.001, 0.003, 0.007, 0.015)
    declared_trace: ClassVar[Mapping[str, int]] = {"probes": 11, "kept": 1024}
    bottleneck = "vae"


class ElasticTokFSQ(_ElasticTokMethod):
    """ElasticTok with finite scalar quantisation, as published: 200m, 256x256, 64 000 codes."""

    name = "elastictok-fsq"
    summary = "ElasticTok (FSQ): per-block search for the fewest codes that meet an MSE"
    family = "search"
    tier = "faithful"
    setting_name = "MSE target"
    setting_unit = "MSE on [-1, 1]"
    default_settings = (0.001, 0.003, 0.007, 0.015)
    declared_trace: ClassVar[Mapping[str, int]] = {"probes": 12, "kept": 2048}
    bottleneck = "fsq"
