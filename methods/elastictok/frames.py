"""Frames to patches and back, and the official rules for cutting a recording into frames (elastictok.md section 1)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avtbench.methods.contract import ContractError
from avtbench.methods.elastictok.config import ElasticTokConfig

Trailing = Literal["repeat", "drop"]
"""What becomes of frames beyond the last whole block: the last one repeated to fill a block, or none of them coded."""


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(recon: Tensor) -> Tensor:
    """[-1, 1] -> uint8 by truncation, as the official code writes pictures (the benchmark's own metrics round)."""
    return recon.float().clamp(-1, 1).add(1).mul(127.5).to(torch.uint8)


def patchify(video: Tensor, config: ElasticTokConfig) -> Tensor:
    """``[..., T, R, R, 3]`` of whole blocks -> ``[..., L, D]``: tokens (t, y, x), inside one (tp, yp, xp, colour)."""
    *lead, frames, height, width, _ = video.shape
    tp, hp, wp = config.patch_size
    side = config.resolution
    if (height, width) != (side, side) or frames % config.frames_per_block:
        raise ContractError(
            f"ElasticTok: frames of {height}x{width}, {frames} of them; expected {side}x{side} and a multiple of "
            f"{config.frames_per_block} (tile() cuts any clip so)"
        )
    grid = video.reshape(-1, frames // tp, tp, height // hp, hp, width // wp, wp, 3)
    return grid.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(*lead, -1, config.patch_dim)


def unpatchify(patches: Tensor, config: ElasticTokConfig) -> Tensor:
    """Inverse of :func:`patchify`: ``[..., L, D]`` -> ``[..., T, R, R, 3]``."""
    *lead, length, _ = patches.shape
    (tp, hp, wp), side = config.patch_size, config.resolution
    if side is None:
        raise ContractError("ElasticTok: this configuration has no square frames; work on its patches")
    frames = length // config.max_toks * config.frames_per_block
    grid = patches.reshape(-1, frames // tp, side // hp, side // wp, tp, hp, wp, 3)
    return grid.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(*lead, frames, side, side, 3)


def tiles_of(
    video: tuple[int, int, int], config: ElasticTokConfig, trailing: Trailing = "repeat"
) -> tuple[int, int, int]:
    """(blocks, rows, columns) that code a clip of (T, H, W); with ``drop`` only whole blocks, but one at least."""
    side = config.resolution
    if side is None:
        raise ContractError("ElasticTok: this configuration has no square frames; it cannot code video")
    frames, height, width = video
    whole, rest = divmod(frames, config.frames_per_block)
    blocks = whole + (rest > 0 and (trailing == "repeat" or whole == 0))
    return blocks, -(-height // side), -(-width // side)


def tile(video: Tensor, config: ElasticTokConfig, trailing: Trailing = "repeat") -> Tensor:
    """``[T, H, W, 3]`` of any size -> ``[rows * columns, T', R, R, 3]``, edges replicated up to whole ones, or frames
    beyond the last whole block dropped."""
    frames, height, width, _ = video.shape
    blocks, rows, columns = tiles_of((frames, height, width), config, trailing)
    side = config.resolution
    assert side is not None
    for axis, (have, want) in enumerate(
        ((frames, blocks * config.frames_per_block), (height, rows * side), (width, columns * side))
    ):
        if want != have:
            video = video.index_select(axis, torch.arange(want, device=video.device).clamp_(max=have - 1))
    grid = video.reshape(-1, rows, side, columns, side, 3)
    return grid.permute(1, 3, 0, 2, 4, 5).reshape(rows * columns, -1, side, side, 3)


def untile(tiles: Tensor, video: tuple[int, int, int], config: ElasticTokConfig) -> Tensor:
    """Inverse of :func:`tile`, at the extent ``video`` = (T, H, W): cropped, the last frame shown for dropped ones."""
    _, rows, columns = tiles_of(video, config)
    side = tiles.shape[2]
    grid = tiles.reshape(rows, columns, -1, side, side, 3).permute(2, 0, 3, 1, 4, 5)
    whole = grid.reshape(-1, rows * side, columns * side, 3)
    missing = max(video[0] - whole.shape[0], 0)
    return torch.cat([whole, whole[-1:].expand(missing, -1, -1, -1)])[: video[0], : video[1], : video[2]]


def official_crop(frame: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 ``[H, W, 3]`` -> ``[R, R, 3]``: shorter side to R with Pillow's bilinear filter, then the centre."""
    from PIL import Image

    height, width = frame.shape[:2]
    scale = resolution / min(height, width)
    sides = [resolution if side == min(height, width) else int(side * scale) for side in (width, height)]
    size = tuple(resolution if side == resolution - 1 else side for side in sides)
    resized = Image.fromarray(frame).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return np.asarray(resized.crop((left, top, left + resolution, top + resolution)))


def official_indices(frames: int, source_fps: float, fps: float = 24.0, frames_per_block: int = 4) -> np.ndarray:
    """Frames that the official reader takes: resampled to ``fps``, those beyond the last whole block dropped."""
    wanted = int(frames / source_fps * fps)
    indices = np.linspace(0, frames - 1, wanted).astype(np.int64)
    return indices[: wanted // frames_per_block * frames_per_block]
