"""How much a clip moves: the one number that kept fractions are drawn against."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601 weights of R, G, B."""


def motion(video: np.ndarray) -> float | None:
    """Mean absolute luma difference between consecutive frames, 0..255; None for a single frame.

    ``video``: uint8 ``[T, H, W, 3]``.
    """
    if len(video) < 2:
        return None
    total, last = 0.0, video[0] @ LUMA
    for frame in video[1:]:
        luma = frame @ LUMA
        total += float(np.abs(luma - last).mean(dtype=np.float64))
        last = luma
    return total / (len(video) - 1)
