"""The row: what is stored of one point. Raw first, so that every figure follows later without a model.

A point is (method, setting, clip, pass). Derived quantities (PSNR, kept fraction, ...) live in
:mod:`avtbench.bench.metrics.measures`; here stand only counts, sums and samples.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

ROW_SCHEMA = 1
"""Part of every key: raise it when the meaning of a stored field changes."""


def _infinities_as_text(value: float | None) -> float | str | None:
    return str(value) if value is not None and value in (float("inf"), float("-inf")) else value


Setting = Annotated[float, PlainSerializer(_infinities_as_text, when_used="json")]


class Status(str, Enum):
    """Closed vocabulary of outcomes."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Record):
    """Counted from the tokens themselves, never from what was requested (bits are per clip)."""

    kept: int
    total: int
    blocks: int = 0
    payload_bits: int
    """kept x log2(codebook), or kept x channels x precision."""
    mask_bits: int
    """1 bit per position, or one count per block for prefix masks."""
    mask_bits_coded: int
    """Size of the mask after a real entropy coder."""
    extra_bits: int = 0


class Quality(_Record):
    """Raw sums on the original extent; lists have one entry per frame."""

    profile: str = Field(pattern=r"^[a-z0-9-]+/[0-9]+$")
    """Name and version of the metric profile, e.g. ``tokenbench/1``; nothing is stored without one."""
    frame_pixels: int
    """Height x width x 3 of a frame."""
    frame_sse: list[int]
    """Sum of squared differences of uint8 values."""
    frame_sse_float: list[float]
    """The same before the reconstruction is rounded to uint8, in units of 255."""
    frame_ssim: list[float]
    frame_lpips: dict[str, list[float]] = Field(default_factory=dict)
    """By column name, e.g. ``lpips_squeeze``."""
    absent: dict[str, str] = Field(default_factory=dict)
    """Metrics that could not be measured, with the reason."""
    ceiling_sse: list[int] = Field(default_factory=list)
    """Squared error of the coded original, where the profile sends both sides through a codec."""


class StageCost(_Record):
    """One node of the stage tree; ``path`` joins nested names with ``/``, e.g. ``select/search/decoder``."""

    path: str
    seconds: list[float]
    """One entry per sample."""
    flops: int | None = None
    peak_bytes: int | None = None
    evaluations: dict[str, int] = Field(default_factory=dict)
    """Network evaluations inside the stage, per call."""


class Extrapolation(_Record):
    """How the samples of a timing stand for more than was run: a method that declares a trace may run a part of it."""

    stages: dict[str, float]
    """Path -> evaluations of the declared trace for each one that was run; the stage's time was multiplied by it."""
    evaluations: int
    """Network evaluations that were run in a call."""
    of: int
    """Network evaluations that the samples stand for."""
    measured: list[float]
    """End-to-end seconds of the calls as they ran."""

    def __str__(self) -> str:
        parts = ", ".join(f"{path} x {factor:g}" for path, factor in self.stages.items())
        return f"extrapolated from {self.evaluations} of {self.of} evaluations ({parts})"


class Timing(_Record):
    """Every sample of one speed point, in seconds; ``stages`` are aligned with ``encode_side``."""

    scenario: str
    device: str
    dtype: str
    compiled: bool = False
    """Whether a network went through ``torch.compile``."""
    launch: int
    sitting: str = ""
    """The same for all that were timed in turns: only such samples are pairs. Empty in rows from before it was kept."""
    rounds: list[int]
    encode_side: list[float]
    """pixels on the device -> kept tokens and mask."""
    decode_side: list[float]
    """kept tokens and mask -> pixels on the device."""
    warmup: list[float]
    """End-to-end seconds of the warm-up calls; never part of a statistic."""
    warmed: bool = True
    """False where no call was made to warm the process up: none was planned, or slow calls had used up its time."""
    stages: list[StageCost]
    stop_reason: str
    seed: int
    peak_bytes: int | None = None
    """Peak memory from a call of its own or, where none was made, of the timed ones: allocated on CUDA, resident set
    elsewhere."""
    lanes: int = 1
    """Clips in flight at once (``throughput``); the samples are then seconds per clip."""
    chunks: list[list[float]] = Field(default_factory=list)
    """``stream``: end-to-end seconds of every chunk, one list per sample; the first is the time to first chunk."""
    outside: dict[str, list[float]] = Field(default_factory=dict)
    """Seconds of what the samples leave out: ``read``, once, the clip decoded and cut to its view; ``copy``, for every
    sample, its pixels brought to the device."""
    setup_seconds: float | None = None
    """From the start of the process to the built method: imports, weights, moving them to the device. Measured alone
    in ``cold``; elsewhere the processes of a launch start side by side."""
    forced: dict[str, Any] = Field(default_factory=dict)
    """Declared trace (rate, search length) when weights are random."""
    extrapolated: Extrapolation | None = None
    """Set where the samples stand for more evaluations than were run; None: every one of them was run."""


class Preview(_Record):
    """One frame of one point, kept for looking at: original, reconstruction and keep mask, each a PNG."""

    key: str
    """Key of the row it belongs to."""
    frame: int
    """Index of the frame in the clip."""
    original: bytes = Field(repr=False)
    reconstruction: bytes = Field(repr=False)
    keep: bytes = Field(repr=False)
    """Keep mask of the latent frame that covers ``frame``: 8-bit grey, one pixel per latent position, 255 = kept."""


class Row(_Record):
    """One stored point."""

    key: str
    status: Status
    reason: str = ""
    row_schema: int = ROW_SCHEMA
    pass_: Literal["quality", "speed"]
    method: str
    alias: str = ""
    """Name under which the method was run when it differs (A/A pairs)."""
    tier: Literal["shared", "faithful"]
    family: str
    weights: Literal["trained", "random", "none"]
    tokenizer: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    setting_name: str = ""
    setting: Setting | None = None
    dataset: str
    clip: str
    source: str = ""
    clip_digest: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    motion: float | None = None
    """Mean absolute luma difference between consecutive frames, 0..255; None for one frame."""
    view: dict[str, Any] = Field(default_factory=dict)
    environment: str = ""
    """Digest of the environment record the point was measured in."""
    seconds: float = 0.0
    """Wall time the point took to run, everything included."""
    evaluations: dict[str, int] = Field(default_factory=dict)
    """Network evaluations of one encode + select + decode."""
    rate: Rate | None = None
    quality: Quality | None = None
    timing: Timing | None = None

    @model_validator(mode="after")
    def _barred(self) -> Row:
        if self.status is Status.DONE and self.pass_ == "quality":
            if self.quality is None or self.rate is None:
                raise ValueError("a finished quality row needs quality and rate")
            if self.weights == "random":
                raise ValueError(f"{self.method} ran with random weights: such a row never enters a quality table")
        if self.status is Status.DONE and self.pass_ == "speed" and self.timing is None:
            raise ValueError("a finished speed row needs timing")
        if self.status is not Status.DONE and not self.reason:
            raise ValueError(f"a row with status {self.status.value} needs a reason")
        return self
