"""Measure a pair of clips under any metric profile, and one small table of what each says about the same pixels."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from avtbench.bench.errors import UserError
from avtbench.bench.metrics import profiles
from avtbench.bench.metrics import quality as canonical
from avtbench.bench.rows import Quality

if TYPE_CHECKING:
    import pandas

Video = Tensor | np.ndarray | str | Path
Columns = Sequence[str | canonical.FrameMetric]


def measure(name: str, original: Tensor, reconstruction: Tensor, lpips: Columns = ()) -> Quality:
    """Measure a pair of clips under a profile. Arguments and errors as in :func:`quality.measure`.

    LPIPS columns are those of the pixels that the profile compares; only ``tokenbench/1`` and ``as-published-mp4/1``
    have them.
    """
    profile = profiles.get(name)
    canonical.check_pair(original, reconstruction)
    return _MEASURED[profile.name](original, reconstruction, lpips)


def table(clip: Video, recon: Video) -> pandas.DataFrame:
    """A line per profile: ``profile``, ``PSNR (dB)``, ``SSIM``, ``MSE``, ``ceiling (dB)``, ``what it is``.

    clip: uint8 ``[T, H, W, 3]`` or a video file. recon: the same, or float in [0, 1]. PSNR is ``inf`` where the two are
    equal under the profile. ``MSE`` is in the profile's own unit (ElasticTok: [-1, 1]); ``ceiling`` is what the codec
    alone leaves of the original. Numbers of different lines are not comparable: that is what the table shows.

    Raises ValueError in one line where the two do not fit together.
    """
    import pandas  # every quality worker loads this module, and none makes a table

    original, reconstruction = pixels(clip), pixels(recon)
    if original.shape != reconstruction.shape:
        raise UserError(
            f"the clip is {_extent(original)}, the reconstruction {_extent(reconstruction)}; "
            "every profile compares frame by frame, pixel by pixel"
        )
    lines = []
    for profile in profiles.PROFILES.values():
        found = measure(profile.name, original, reconstruction)
        ceiling = profiles.ceiling(found)
        if profile.name == "elastictok-mse/1":
            error = fmean(profiles.block_mse(found))
        else:
            sums = found.frame_sse_float if profile.name == "vidtok/1" else found.frame_sse
            unit = 255**2 if profile.name == "vidtok/1" else 1
            error = sum(sums) / (unit * found.frame_pixels * len(sums))
        lines.append(
            {
                "profile": profile.name,
                "PSNR (dB)": profiles.psnr(found),
                "SSIM": fmean(found.frame_ssim) if found.frame_ssim else math.nan,
                "MSE": error,
                "ceiling (dB)": math.nan if ceiling is None else ceiling,
                "what it is": profile.summary,
            }
        )
    return pandas.DataFrame(lines)


def pixels(video: Video, frames: int | None = None) -> Tensor:
    """A clip in memory as it is; of a file (or a folder of frames) the first ``frames``, uint8 ``[T, H, W, 3]``."""
    if isinstance(video, (str, Path)):
        from avtbench.datasets.contract import View
        from avtbench.datasets.video import read

        return torch.from_numpy(read(Path(video), View(size=None, frames=frames)).video)
    return torch.from_numpy(video) if isinstance(video, np.ndarray) else video


def _extent(video: Tensor) -> str:
    return (
        f"{video.shape[0]} frames of {video.shape[1]}x{video.shape[2]}" if video.ndim == 4 else str(list(video.shape))
    )


# how the sums are measured


def _raw(name: str, ssim: bool) -> Callable[[Tensor, Tensor, Columns], Quality]:
    def measured(original: Tensor, reconstruction: Tensor, lpips: Columns) -> Quality:
        found = canonical.measure(original, reconstruction)
        return found.model_copy(update={"profile": name, "frame_ssim": found.frame_ssim if ssim else []})

    return measured


def _with_gaussian_ssim(original: Tensor, reconstruction: Tensor, lpips: Columns) -> Quality:
    similarity = []
    for x, y in zip(original, reconstruction, strict=True):
        exact = y.float() / 255 if y.dtype == torch.uint8 else y.float().clamp(0, 1)
        similarity.append(gaussian_ssim(x.float() / 255, exact))
    found = canonical.measure(original, reconstruction)
    return found.model_copy(update={"profile": "vidtok/1", "frame_ssim": similarity})


def gaussian_ssim(original: Tensor, reconstruction: Tensor) -> float:
    """SSIM of two float ``[H, W, 3]`` frames in [0, 1] as VidTok takes it (and piq before it).

    Averaged down by ``round(shorter side / 256)``, then an 11 x 11 Gaussian of sigma 1.5, population covariance,
    interior only. The shorter side must be 11 or more.
    """
    from skimage.metrics import structural_similarity

    if min(original.shape[:2]) < 11:
        raise ValueError(f"frames are {original.shape[0]}x{original.shape[1]}, vidtok/1 needs at least 11x11")
    factor = max(1, round(min(original.shape[:2]) / 256))
    pooled = [
        torch.nn.functional.avg_pool2d(frame.permute(2, 0, 1), factor).permute(1, 2, 0).cpu().double().numpy()
        for frame in (original, reconstruction)
    ]
    return float(
        structural_similarity(
            *pooled, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def _through_mp4(original: Tensor, reconstruction: Tensor, lpips: Columns) -> Quality:
    canonical.check_finite(reconstruction)
    source = original.cpu()
    x, y = mp4_round_trip(source), mp4_round_trip(canonical.to_uint8(reconstruction).cpu())
    found = canonical.measure(x.to(reconstruction.device), y.to(reconstruction.device), lpips)
    ceiling = canonical.measure(source, x).frame_sse
    return found.model_copy(update={"profile": "as-published-mp4/1", "ceiling_sse": ceiling})


def mp4_round_trip(video: Tensor) -> Tensor:
    """uint8 ``[T, H, W, 3]`` through H.264 as mediapy's ``write_video`` and ``read_video`` do it without arguments.

    libx264, preset medium, constant quantiser 20 up to 640 x 480 pixels and 28 above, yuv420p (yuv444p where a side is
    odd), BT.601, bicubic chroma both ways; quality does not depend on the frame rate. mediapy leaves the number of
    threads to ffmpeg, which moves the result by thousandths of a dB.
    """
    import av

    from avtbench.datasets.video import write_h264

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_h264(path, video.cpu().numpy())
        with av.open(str(path)) as container:
            frames = [f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames))


def _wrapped(original: Tensor, reconstruction: Tensor, lpips: Columns) -> Quality:
    x, y = original.cpu(), canonical.to_uint8(reconstruction).cpu()
    sums = []
    for a, b in zip(x, y, strict=True):
        difference = a - b  # uint8: both the difference and its square are taken modulo 256
        sums.append(int((difference * difference).sum(dtype=torch.int64)))
    found = canonical.measure(x, y)
    return found.model_copy(update={"profile": "tokenbench-uint8wrap/0", "frame_sse": sums, "frame_sse_float": []})


_MEASURED: dict[str, Callable[[Tensor, Tensor, Columns], Quality]] = {
    profiles.CANONICAL: canonical.measure,
    "frame-mean/1": _raw("frame-mean/1", ssim=True),
    "vidtok/1": _with_gaussian_ssim,
    "elastictok-mse/1": _raw("elastictok-mse/1", ssim=False),
    "as-published-mp4/1": _through_mp4,
    "tokenbench-uint8wrap/0": _wrapped,
}
