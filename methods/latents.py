"""What the methods on a shared frozen tokeniser have in common: encoding, packing kept latents, unpacking them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from avtbench.methods.calibration import latent_statistics
from avtbench.methods.contract import ContractError, Tokens, Weights
from avtbench.methods.streaming import DecodingState, EncodingState, FillState, StreamingMethod
from avtbench.methods.tokenizers.contract import FrozenTokenizer


@dataclass(frozen=True)
class Latents:
    """A clip on the sender's side. ``z``: ``[C, t, h, w]``, standardised per channel; ``video``: the clip itself."""

    z: Tensor
    video: Tensor

    @property
    def extent(self) -> tuple[int, int, int]:
        frames, height, width = self.video.shape[:3]
        return frames, height, width


class LatentMethod(StreamingMethod):
    """A rule on the latents of a frozen tokeniser: choose the mask, fill what was dropped.

    A rule that can go on from an earlier chunk overrides :meth:`choose_chunk` and :meth:`fill_chunk`, and streams; one
    that needs the clip as a whole overrides :meth:`choose` and :meth:`fill`.

    tokenizer: the frozen tokeniser; thresholds and kept values are in standard deviations of its latents.
    """

    def __init__(self, tokenizer: FrozenTokenizer) -> None:
        cls = type(self)
        if cls.choose is LatentMethod.choose and cls.choose_chunk is LatentMethod.choose_chunk:
            raise ContractError(f"{self.name}: the class defines no rule, expected choose_chunk or choose")
        self.statistics = latent_statistics(tokenizer)
        self.tokenizer = tokenizer
        self.weights: Weights = tokenizer.weights
        self.center, self.scale = self.statistics.center, self.statistics.scale

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.name,
            "tokenizer_digest": self.tokenizer.digest,
            "statistics_digest": self.statistics.digest,
        }

    def choose(self, latents: Latents, setting: float) -> Tensor:
        """The mask ``keep: bool [t, h, w]``."""
        return self.choose_chunk(latents, setting, None)

    def choose_chunk(self, latents: Latents, setting: float, state: Tensor | None) -> Tensor:
        """The mask of the next chunk; ``state`` is what :meth:`carry_on` made of the one before, None at the start."""
        raise ContractError(str(self.no_stream))

    def carry_on(self, latents: Latents, keep: Tensor, state: Tensor | None) -> Tensor | None:
        """C_sel, the reference ``[C, h, w]`` that the rule carries on from a chunk to the next; None: it has none."""
        return None

    def fill(self, z: Tensor, keep: Tensor) -> Tensor:
        """Standardised latents with dropped positions zeroed -> complete latents; kept positions are not changed."""
        return self.fill_chunk(z, keep, None)[0]

    def fill_chunk(self, z: Tensor, keep: Tensor, state: FillState | None) -> tuple[Tensor, FillState | None]:
        """The same for the next chunk, and what the filler has to remember of it."""
        return z, None

    def encode(self, video: Tensor) -> Latents:
        return Latents((self.tokenizer.encode(video).float() - self.center) / self.scale, video)

    def select(self, latents: Latents, setting: float) -> Tokens:
        setting = self.check_setting(setting)
        with self.stage("choose"):
            keep = self.choose(latents, setting)
        with self.stage("pack"):
            return self.pack(latents.z, keep, latents.extent)

    def decode(self, tokens: Tokens) -> Tensor:
        with self.stage("unpack"):
            z = self.unpack(tokens)
        with self.stage("fill"):
            z = self.fill(z, tokens.keep)
        return self.tokenizer.decode(z * self.scale + self.center, tokens.video)

    @property
    def no_stream(self) -> str | None:
        cls = type(self)
        if cls.choose is not LatentMethod.choose or cls.fill is not LatentMethod.fill:
            return f"{self.name} takes a clip as a whole: its rule has no choose_chunk and fill_chunk"
        if not self.tokenizer.streams:
            return f"tokeniser {self.tokenizer.name} takes a clip as a whole; use one that streams, such as embedded"
        return None

    @property
    def step(self) -> int:
        return self.tokenizer.temporal

    @property
    def lead(self) -> int:
        return 1 if self.tokenizer.causal_first and self.step > 1 else 0

    def encode_chunk(self, video: Tensor, state: EncodingState | None) -> tuple[Latents, EncodingState]:
        if self.no_stream:
            raise ContractError(self.no_stream)
        if state and state.ended:
            raise ContractError(
                f"{self.name}: a chunk follows one that did not fill its last latent frame, which ends a stream; "
                f"expected {self.lead} + k * {self.step} frames in the first chunk and k * {self.step} in later ones"
            )
        frames, height, width = video.shape[:3]
        ended = self.tokenizer.legal(frames, height, width, starts=state is None)[0] != frames
        z, carried = self.tokenizer.encode_next(video, state.tokenizer if state else None)
        return Latents((z.float() - self.center) / self.scale, video), EncodingState(carried, ended)

    def select_chunk(self, latents: Latents, setting: float, state: Tensor | None) -> tuple[Tokens, Tensor | None]:
        setting = self.check_setting(setting)
        with self.stage("choose"):
            keep = self.choose_chunk(latents, setting, state)
            carried = self.carry_on(latents, keep, state)
        with self.stage("pack"):
            return self.pack(latents.z, keep, latents.extent), carried

    def decode_chunk(self, tokens: Tokens, state: DecodingState | None) -> tuple[Tensor, DecodingState]:
        with self.stage("unpack"):
            z = self.unpack(tokens)
        with self.stage("fill"):
            z, filled = self.fill_chunk(z, tokens.keep.to(z.device), state.fill if state else None)
        latent = z * self.scale + self.center
        frames, carried = self.tokenizer.decode_next(latent, tokens.video, state.tokenizer if state else None)
        return frames, DecodingState(carried, filled)

    def forget_fill(self, state: DecodingState) -> DecodingState:
        return replace(state, fill=None)

    def pack(self, z: Tensor, keep: Tensor, video: tuple[int, int, int]) -> Tokens:
        """Kept latents as they are sent: 16-bit floats."""
        values = z.flatten(1).index_select(1, keep.flatten().nonzero().squeeze(1)).half()
        return Tokens(values.T, keep, video, precision=16)

    def unpack(self, tokens: Tokens) -> Tensor:
        """``[C, t, h, w]`` with zeros (the latents' mean) at dropped positions."""
        keep, values = tokens.keep.to(self.center.device), tokens.values.to(self.center.device).float()
        z = values.new_zeros((keep.numel(), self.tokenizer.channels))
        z.index_copy_(0, keep.flatten().nonzero().squeeze(1), values)
        return z.view(*keep.shape, -1).permute(3, 0, 1, 2)
