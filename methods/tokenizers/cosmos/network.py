"""Encoder and decoder of the Cosmos tokenisers (factorised causal convolutions behind a Haar transform).

Parameter names are the official ones (inside ``encoder.`` and ``decoder.``), so official state dicts load directly.
Activations are kept as ``[B, T, H, W, C]``: with channels last in memory a (1,3,3) convolution is a 2-D one over
frames, a (3,1,1) one a 2-D one over (T, H*W), a 1x1x1 one a matrix product, and attention finds its tokens in place,
all without moving data.

Sources: Cosmos tokeniser 0.1 and Tokenize1 (1.0), which differ in the configurations and in that 0.1 also allocates the
convolutions of resampling steps that a level does not use (``dead_convs``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avtbench.methods.contract import ContractError

MOST_SEQUENCES = 32768
"""Sequences handed to one attention call; CUDA kernels refuse more than 65 535."""


def _log2(value: int, what: str) -> int:
    if value < 1 or value & (value - 1):
        raise ContractError(f"Cosmos config: {what} is {value}, expected a power of two")
    return value.bit_length() - 1


@dataclass(frozen=True)
class CosmosConfig:
    """Structure of one encoder/decoder pair; field names follow the official configuration.

    ``decoder_mult`` is given where the decoder's widths differ from the encoder's (0.1 CV4x8x8). ``dead_convs`` is True
    for 0.1 files, which hold convolutions that are never used.
    """

    patch_size: int = 4
    channels: int = 128
    channels_mult: tuple[int, ...] = (2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    z_factor: int = 1
    spatial_compression: int = 8
    temporal_compression: int = 8
    in_channels: int = 3
    out_channels: int = 3
    num_groups: int = 1
    resolution: int = 1024
    attn_resolutions: tuple[int, ...] = (32,)
    legacy_mode: bool = False
    decoder_mult: tuple[int, ...] | None = None
    dead_convs: bool = False

    def __post_init__(self) -> None:
        for name in ("channels_mult", "attn_resolutions", "decoder_mult"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        patch = _log2(self.patch_size, "patch_size")
        for name in ("spatial_compression", "temporal_compression"):
            if _log2(getattr(self, name), name) < patch:
                raise ContractError(
                    f"Cosmos config: {name} {getattr(self, name)} is below patch_size {self.patch_size}"
                )

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> CosmosConfig:
        """Take the fields that matter from an official configuration; refuse what these networks do not compute."""
        for key, known in (("encoder", "FACTORIZED"), ("decoder", "FACTORIZED"), ("patch_method", "haar")):
            found = getattr(config.get(key, known), "name", config.get(key, known))
            if str(found).lower() != known.lower():
                raise ContractError(f"Cosmos config: {key} is {found!r}, only {known!r} is implemented")
        return cls(**{k: v for k, v in config.items() if k in cls.__dataclass_fields__})

    def with_(self, **changes: Any) -> CosmosConfig:
        """A copy with other values."""
        return replace(self, **changes)

    @property
    def spatial_steps(self) -> int:
        """Halvings in height and width by the encoder's levels (the patcher does the rest)."""
        return _log2(self.spatial_compression // self.patch_size, "spatial_compression / patch_size")

    @property
    def temporal_steps(self) -> int:
        """Halvings in time by the encoder's levels."""
        return _log2(self.temporal_compression // self.patch_size, "temporal_compression / patch_size")

    def down(self, level: int) -> tuple[bool, bool]:
        """(spatial, temporal): what the encoder halves after ``level``."""
        return level < self.spatial_steps, level < self.temporal_steps

    def up(self, level: int) -> tuple[bool, bool]:
        """(spatial, temporal): what the decoder doubles after ``level`` (counted from the pixels, as in the names)."""
        depth = len(self.decoder_mult or self.channels_mult) - 1 - level
        if self.legacy_mode:
            temporal = depth < self.temporal_steps
        else:
            temporal = 0 < depth < self.temporal_steps + 1
        return temporal or (depth < self.spatial_steps and self.spatial_steps > self.temporal_steps), temporal

    def attends(self, level: int) -> bool:
        """Whether the blocks of ``level`` carry attention (no published variant does)."""
        return self.resolution // self.patch_size // 2**level in self.attn_resolutions


class PointConv(nn.Module):
    """1x1x1 convolution ``[..., C_in]`` -> ``[..., C_out]``."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv3d = nn.Conv3d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.conv3d.weight.flatten(1), self.conv3d.bias)


class SpatialConv(nn.Module):
    """(1,3,3) convolution of every frame; stride 2 pads zeros at the right and bottom only."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(width_in, width_out, (1, 3, 3), (1, stride, stride))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1).permute(0, 3, 1, 2)
        if self.stride == 2:
            frames = F.pad(frames, (0, 1, 0, 1))
        weight, bias = self.conv3d.weight.squeeze(2), self.conv3d.bias
        frames = F.conv2d(frames, weight, bias, self.stride, 1 if self.stride == 1 else 0)
        return frames.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class TemporalConv(nn.Module):
    """(3,1,1) convolution over time that never looks ahead; the first frame stands in for the past."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(width_in, width_out, (3, 1, 1), (stride, 1, 1))
        self.stride = stride

    def forward(self, x: Tensor, before: int = 0) -> Tensor:
        """``before``: how many more copies of the first frame to put in front."""
        past = x[:, :1].expand(-1, 3 - self.stride + before, -1, -1, -1)
        rows = torch.cat([past, x], 1).flatten(2, 3).permute(0, 3, 1, 2)
        rows = F.conv2d(rows, self.conv3d.weight.squeeze(-1), self.conv3d.bias, (self.stride, 1))
        return rows.permute(0, 2, 3, 1).unflatten(2, x.shape[2:4])


def conv_pair(width_in: int, width_out: int) -> nn.Sequential:
    """A 3x3x3 convolution factorised into space and time."""
    return nn.Sequential(SpatialConv(width_in, width_out), TemporalConv(width_out, width_out))


class FrameNorm(nn.Module):
    """Group normalisation of each frame on its own (over C, H and W), so that no frame sees another.

    With more than one group the official code normalises over time as well; so does this.
    """

    def __init__(self, width: int, groups: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if norm.num_groups > 1:
            return norm(x.movedim(-1, 1)).movedim(1, -1)
        if x.is_cuda:
            return self.in_two_passes(x)
        return norm(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(x.shape)

    def in_two_passes(self, x: Tensor) -> Tensor:
        """The same for one group by whole-card reductions: CUDA's group norm leaves a frame to one block of threads,
        and wants the channels first."""
        norm, frame = self.norm, (2, 3, 4)
        if x.dtype == torch.float32:
            variance, mean = torch.var_mean(x, frame, correction=0, keepdim=True)
        else:
            mean = x.mean(frame, keepdim=True, dtype=torch.float32)
            square = torch.linalg.vector_norm(x, dim=frame, keepdim=True, dtype=torch.float32).square()
            variance = (square / math.prod(x.shape[2:]) - mean.square()).clamp_min(0)
        scale = torch.rsqrt(variance + norm.eps) * norm.weight
        shift = norm.bias - mean * scale
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


class ResBlock(nn.Module):
    """Two normalised, activated convolution pairs beside a shortcut."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.norm1 = FrameNorm(width_in, groups)
        self.conv1 = conv_pair(width_in, width_out)
        self.norm2 = FrameNorm(width_out, groups)
        self.conv2 = conv_pair(width_out, width_out)
        self.nin_shortcut = PointConv(width_in, width_out) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


class Attention(nn.Module):
    """Single-head attention beside a shortcut; subclasses say which tokens see each other."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = FrameNorm(width, groups)
        self.q = PointConv(width, width)
        self.k = PointConv(width, width)
        self.v = PointConv(width, width)
        self.proj_out = PointConv(width, width)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v and result ``[B, T, N, C]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2, 3)
        h = self.mix(self.q(h), self.k(h), self.v(h))
        return self.proj_out(h).unflatten(2, x.shape[2:4]).add_(x)


class SpatialAttention(Attention):
    """All pixels of one frame see each other."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class TemporalAttention(Attention):
    """Each pixel sees itself in this and all earlier frames."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(*(x.transpose(1, 2).split(MOST_SEQUENCES, 1) for x in (q, k, v)), strict=True)
        mixed = [F.scaled_dot_product_attention(a, b, c, is_causal=True) for a, b, c in parts]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1)).transpose(1, 2)


def attention_pair(width: int, groups: int) -> nn.Sequential:
    """Attention in space, then in time."""
    return nn.Sequential(SpatialAttention(width, groups), TemporalAttention(width, groups))


class Down(nn.Module):
    """Halve space and/or time: a strided convolution plus the mean of what it replaces."""

    def __init__(self, width: int, spatial: bool, temporal: bool, dead_convs: bool):
        super().__init__()
        self.spatial, self.temporal = spatial, temporal
        if spatial or dead_convs:
            self.conv1 = SpatialConv(width, width, stride=2)
        if temporal or dead_convs:
            self.conv2 = TemporalConv(width, width, stride=2)
        if spatial or temporal or dead_convs:
            self.conv3 = PointConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial:
            pooled = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            x = self.conv1(x).add_(pooled.unflatten(0, x.shape[:2]))
        if self.temporal:
            h = self.conv2(x, before=1)
            h[:, :1].add_(x[:, :1])
            if x.shape[1] > 1:
                h[:, 1:].add_((x[:, 1::2] + x[:, 2::2]).mul_(0.5))
            x = h
        return self.conv3(x) if self.spatial or self.temporal else x


class Up(nn.Module):
    """Double time and/or space by repetition, each refined by a convolution beside a shortcut."""

    def __init__(self, width: int, spatial: bool, temporal: bool, dead_convs: bool):
        super().__init__()
        self.spatial, self.temporal = spatial, temporal
        if temporal or dead_convs:
            self.conv1 = TemporalConv(width, width)
        if spatial or dead_convs:
            self.conv2 = SpatialConv(width, width)
        if spatial or temporal or dead_convs:
            self.conv3 = PointConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.temporal:
            if x.shape[1] > 1:
                x = x.repeat_interleave(2, 1)[:, 1:]
            x = self.conv1(x).add_(x)
        if self.spatial:
            b, t, h, w, c = x.shape
            x = x[:, :, :, None, :, None].expand(b, t, h, 2, w, 2, c).reshape(b, t, 2 * h, 2 * w, c)
            x = self.conv2(x).add_(x)
        return self.conv3(x) if self.spatial or self.temporal else x


def haar_matrix(patch: int, channels: int) -> Tensor:
    """float32 ``[channels*patch^3, channels*patch^3]``: bands from the pixels of one patch x patch x patch cell.

    Rows: (band of the last round, ..., band of the first round, colour), band = 4t + 2h + w. Columns: pixel offsets as
    (t, h, w) bits from the highest to the lowest, then colour. A band is the signed mean over 2x2x2.
    """
    signs = torch.tensor([[(-1.0) ** (band & offset).bit_count() for offset in range(8)] for band in range(8)])
    matrix = torch.ones(1, 1)
    for _ in range(_log2(patch, "patch_size")):
        matrix = torch.kron(matrix, signs / 8)
    return torch.kron(matrix, torch.eye(channels))


class _Haar(nn.Module):
    def __init__(self, patch: int, channels: int):
        super().__init__()
        self.patch, self.channels = patch, channels
        self.rounds = _log2(patch, "patch_size")
        matrix = haar_matrix(patch, channels)
        self.register_buffer("matrix", self.weight(matrix), persistent=False)

    matrix: Tensor

    def weight(self, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    def cells(self, bits: bool) -> list[int]:
        """Axes of (B, C, t, t bits, h, h bits, w, w bits), ordered as (B, t, h, w, high to low (t, h, w) bits, C)."""
        r = self.rounds
        t, h, w = 2, 3 + r, 4 + 2 * r
        order = [0, t, h, w, *(axis + 1 + i for i in range(r) for axis in (t, h, w)), 1]
        return order if bits else [order.index(i) for i in range(len(order))]


class HaarPatcher(_Haar):
    """Video ``[B, C, T, H, W]`` -> bands ``[B, t, h, w, C*p^3]``; the first frame is repeated p times first."""

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch
        if p > 1:
            x = torch.cat([x[:, :, :1].expand(-1, -1, p - 1, -1, -1), x], 2)
        b, c, t, h, w = x.shape
        two = [2] * self.rounds
        x = x.reshape(b, c, t // p, *two, h // p, *two, w // p, *two).permute(self.cells(True))
        return F.linear(x.reshape(b, t // p, h // p, w // p, c * p**3), self.matrix)


class HaarUnpatcher(_Haar):
    """Inverse of :class:`HaarPatcher`: bands ``[B, t, h, w, C*p^3]`` -> video ``[B, C, T, H, W]``."""

    def weight(self, matrix: Tensor) -> Tensor:
        return (matrix.t() * self.patch**3).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        p, c = self.patch, self.channels
        b, t, h, w, _ = x.shape
        x = F.linear(x, self.matrix).reshape(b, t, h, w, *[2] * (3 * self.rounds), c).permute(self.cells(False))
        return x.reshape(b, c, t * p, h * p, w * p)[:, :, p - 1 :]


class _Level(nn.Module):
    """Residual blocks of one width, then ``resample`` (named ``downsample`` or ``upsample``) where a level follows."""

    def __init__(self, width_in: int, width_out: int, blocks: int, attends: bool, groups: int):
        super().__init__()
        self.resample: list[str] = []
        widths = [width_in] + [width_out] * blocks
        self.block = nn.ModuleList(ResBlock(a, b, groups) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(attention_pair(width_out, groups) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in self.resample:
            x = self.get_submodule(name)(x)
        return x

    def add(self, name: str, resample: nn.Module) -> None:
        self.resample.append(name)
        self.add_module(name, resample)


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int):
        super().__init__()
        self.block_1 = ResBlock(width, width, groups)
        self.attn_1 = attention_pair(width, groups)
        self.block_2 = ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class CosmosEncoder(nn.Module):
    """Video ``[B, 3, T, H, W]`` in [-1, 1] -> ``[B, z_channels*z_factor, t, h, w]``, t = 1 + (T - 1) / temporal.

    T must be 1 + k * temporal, H and W multiples of ``spatial_compression``. The result is a view with the channels
    last in memory.
    """

    def __init__(self, config: CosmosConfig):
        super().__init__()
        c, groups = config, config.num_groups
        self.config = config
        self.patcher3d = HaarPatcher(c.patch_size, c.in_channels)
        self.conv_in = conv_pair(c.in_channels * c.patch_size**3, c.channels)
        self.down = nn.ModuleList()
        width = c.channels
        for level, mult in enumerate(c.channels_mult):
            stage = _Level(width, c.channels * mult, c.num_res_blocks, c.attends(level), groups)
            width = c.channels * mult
            if level < len(c.channels_mult) - 1:
                stage.add("downsample", Down(width, *c.down(level), c.dead_convs))
            self.down.append(stage)
        self.mid = _Middle(width, groups)
        self.norm_out = FrameNorm(width, groups)
        self.conv_out = conv_pair(width, c.z_channels * c.z_factor)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        _, _, frames, height, width = x.shape
        c = self.config
        if (frames - 1) % c.temporal_compression or height % c.spatial_compression or width % c.spatial_compression:
            raise ContractError(
                f"Cosmos encoder: clip of {frames} frames of {height}x{width}, expected 1 + k*{c.temporal_compression} "
                f"frames and sides that are multiples of {c.spatial_compression}; pad first"
            )
        h = self.conv_in(self.patcher3d(x))
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True)).movedim(-1, 1)


class CosmosDecoder(nn.Module):
    """``[B, z_channels, t, h, w]`` -> video ``[B, 3, T, H, W]``, T = 1 + (t - 1) * temporal; not clamped."""

    def __init__(self, config: CosmosConfig):
        super().__init__()
        c, groups = config, config.num_groups
        self.config = config
        mults = c.decoder_mult or c.channels_mult
        width = c.channels * mults[-1]
        self.conv_in = conv_pair(c.z_channels, width)
        self.mid = _Middle(width, groups)
        levels = []
        for level in reversed(range(len(mults))):
            stage = _Level(width, c.channels * mults[level], c.num_res_blocks + 1, c.attends(level), groups)
            width = c.channels * mults[level]
            if level:
                stage.add("upsample", Up(width, *c.up(level), c.dead_convs))
            levels.append(stage)
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = FrameNorm(width, groups)
        self.conv_out = conv_pair(width, c.out_channels * c.patch_size**3)
        self.unpatcher3d = HaarUnpatcher(c.patch_size, c.out_channels)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z.movedim(1, -1)))
        for level in reversed(self.up):
            h = level(h)
        return self.unpatcher3d(self.conv_out(F.silu(self.norm_out(h), inplace=True)))
