"""From a clip to kept codes and back, window by window: what the official command line does, as five functions.

    coded  = encode_clip(model, video, layout)          # encoder, ViT, quantiser
    losses = error_maps(model, coded)                   # full-rate decode of every window
    routes = route(model, losses, rate, layout, ...)    # rates and masks
    codes  = [c.codes * r.keep.unsqueeze(1) ...]        # dropped tokens become the zero code
    video  = decode_clip(model, codes, layout)

:func:`autoencode` is their sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError
from avtbench.methods.infotok.network import InfoTok
from avtbench.methods.infotok.router import check_strategy, get_allocated_ratios, global_rates, keep_mask
from avtbench.methods.infotok.windows import Layout, to_uint8
from avtbench.methods.stages import stage


@dataclass(frozen=True)
class CodedWindow:
    """A padded window ``x: [1, 3, T', H', W']``, its ``indices: int32 [1, t, h, w]`` and ``codes: [1, C, t, h, w]``."""

    x: Tensor
    indices: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Route:
    """The rate of one window, its shares (``[1, 1]`` or ``[1, t]``) and its mask (``keep: bool [1, t, h, w]``)."""

    rate: float
    ratios: Tensor
    keep: Tensor


@dataclass(frozen=True)
class Autoencoded:
    """A clip through the whole model; lists have one entry per window."""

    video: Tensor
    """uint8 ``[T, H, W, 3]``."""
    routes: list[Route]
    losses: list[Tensor]
    reconstructions: list[Tensor]
    """Padded windows ``[1, 3, T', H', W']``, not clamped."""
    token_rate: list[float]
    """What the official command line prints: the requested rates, and without an overlap the last window's only."""


def layout_of(model: InfoTok, video: Tensor, window: int = 17, overlap: int = 0, *, faithful: bool = True) -> Layout:
    """The layout of a uint8 ``[T, H, W, 3]`` clip for this model."""
    config = model.config
    size = (video.shape[0], video.shape[1], video.shape[2])
    return Layout(size, config.temporal_compression, config.spatial_compression, window, overlap, faithful)


def encode_clip(model: InfoTok, video: Tensor, layout: Layout) -> list[CodedWindow]:
    """Cut a uint8 ``[T, H, W, 3]`` clip and encode every window at full rate."""
    video = video.to(model.device)
    coded = []
    for span in layout.spans:
        x = layout.cut(video, span, model.dtype)
        indices, codes = model.encode(x)
        coded.append(CodedWindow(x, indices, codes))
    return coded


def error_maps(model: InfoTok, coded: Sequence[CodedWindow]) -> list[Tensor]:
    """Chunk loss ``[1, t, h, w]`` of every window: one full-rate decode each; padding counts like any other pixel."""
    return [model.chunk_loss(window.codes, window.x) for window in coded]


def window_elbos(losses: Sequence[Tensor], layout: Layout) -> list[float]:
    """Mean loss of every window. Where ``layout.faithful`` is off, latent frames that repeat the previous window's
    are left out; the official tool meant to, but passes the overlap in another argument's place."""
    skipped = [0 if layout.faithful else layout.repeated(i) for i in range(len(losses))]
    return torch.stack([loss[:, n:].mean() for loss, n in zip(losses, skipped, strict=True)]).tolist()


def collect_elbos(model: InfoTok, videos: Iterable[Tensor], window: int = 17, overlap: int = 0) -> list[float]:
    """First pass of ``global_elbo``: the mean loss of every window of every clip, one encode and one decode each.

    Their plain mean is the ``elbo_mean`` of the second pass.
    """
    elbos: list[float] = []
    for video in videos:
        layout = layout_of(model, video, window, overlap)
        elbos += window_elbos(error_maps(model, encode_clip(model, video, layout)), layout)
    return elbos


def route(
    model: InfoTok,
    losses: Sequence[Tensor],
    rate: float,
    layout: Layout,
    *,
    strategy: str = "elbo",
    method: str | None = None,
    elbo_mean: float | None = None,
    seed: int = 0,
) -> list[Route]:
    """Decide rate, shares and mask of every window.

    method:    mask method; None is the model's own.
    elbo_mean: mean loss that ``global_elbo`` and ``global_elbo_bin`` compare with; None is the mean over ``losses``.
    seed:      of the random shares of ``uniform``.
    """
    known, method = check_strategy(strategy), method or model.config.vit.method
    with stage("route"):
        rates = [rate] * len(losses)
        if known in ("global_elbo", "global_elbo_bin"):
            elbos = window_elbos(losses, layout)
            mean = fmean(elbos) if elbo_mean is None else elbo_mean
            rates = global_rates(elbos, mean, rate, binned=known == "global_elbo_bin")
        generator = torch.Generator().manual_seed(seed)
        routes = []
        for loss, r in zip(losses, rates, strict=True):
            ratios = get_allocated_ratios(loss, r, method == "mse", known, generator=generator)
            routes.append(Route(r, ratios, keep_mask(loss, ratios, method, faithful=layout.faithful)))
        return routes


def decode_windows(model: InfoTok, codes: Sequence[Tensor]) -> list[Tensor]:
    """Masked codes ``[1, C, t, h, w]`` of every window -> padded windows ``[1, 3, T', H', W']``, not clamped."""
    return [model.decode(window.to(model.dtype)) for window in codes]


def decode_clip(model: InfoTok, codes: Sequence[Tensor], layout: Layout) -> Tensor:
    """Masked codes of every window -> the clip, float32 ``[T, H, W, 3]`` in [0, 1], see :meth:`Layout.join`."""
    if len(codes) != len(layout.spans):
        raise ContractError(f"infotok: codes of {len(codes)} windows, the layout has {len(layout.spans)}")
    decoded = decode_windows(model, codes)
    with stage("join"):
        return layout.join([layout.uncut(x, span) for x, span in zip(decoded, layout.spans, strict=True)])


@torch.inference_mode()
def autoencode(
    model: InfoTok,
    video: Tensor,
    rate: float,
    *,
    window: int = 17,
    overlap: int = 0,
    strategy: str = "elbo",
    method: str | None = None,
    elbo_mean: float | None = None,
    seed: int = 0,
    faithful: bool = True,
) -> Autoencoded:
    """A uint8 ``[T, H, W, 3]`` clip of any size through the model at ``rate``, as the official command line does it.

    The keywords are those of :func:`route` and of :class:`~avtbench.methods.infotok.windows.Layout`. With a
    ``global_elbo`` strategy and ``elbo_mean=None`` the clip stands for the whole run.
    """
    layout = layout_of(model, video, window, overlap, faithful=faithful)
    coded = encode_clip(model, video, layout)
    losses = error_maps(model, coded)
    routes = route(model, losses, rate, layout, strategy=strategy, method=method, elbo_mean=elbo_mean, seed=seed)
    codes = [c.codes * r.keep.unsqueeze(1) for c, r in zip(coded, routes, strict=True)]
    decoded = decode_windows(model, codes)
    clip = layout.join([layout.uncut(x, span) for x, span in zip(decoded, layout.spans, strict=True)])
    rates = [r.rate for r in routes]
    return Autoencoded(to_uint8(clip), routes, losses, decoded, rates if overlap else rates[-1:])
