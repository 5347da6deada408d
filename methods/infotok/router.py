"""The router: which tokens are worth sending, decided from the error map of a full-rate decode.

Everything here takes ``loss: float [B, t, h, w]``, the mean absolute error of each token's pixel patch (the paper's
ELBO, of which only the reconstruction term is used), and returns shares of tokens or masks. High-error tokens are
*kept*. No network runs in this file.

``faithful=True`` keeps the released arithmetic, including its quirks:

======================  ============================================  ==========================================
rule                    ``faithful=True``                             ``faithful=False``
======================  ============================================  ==========================================
``mse``                 keeps losses strictly above the (1-r)         keeps exactly round(r * N) tokens, the
                        quantile: at r = 1 the least token is lost,   highest losses first, ties in grid order
                        tied losses at the bound are all dropped,
                        equal losses keep nothing
``order``, ``order_K``  keeps floor(ratio * h * w) + 1 per frame      keeps round(ratio * h * w), at least 1
======================  ============================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from avtbench.methods.contract import ContractError

Strategy = Literal["elbo", "global_elbo", "global_elbo_bin", "static", "uniform"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
LEAST_RATIO = 0.0625
"""Smallest share that the per-frame and the global rules hand out."""
FORWARD_RATES = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Rates that the official ``forward`` tries in evaluation, indexed by ``n_tries``."""


def check_mask_method(method: str) -> str:
    """Return ``mse``, ``order`` or ``order_K`` (K >= 1) unchanged; raise :class:`ContractError` for anything else."""
    name, _, stride = method.partition("_")
    if method in ("mse", "order") or (name == "order" and stride.isdigit() and int(stride) > 0):
        return method
    raise ContractError(
        f"infotok: mask method {method!r} is unknown; use 'mse', 'order' or 'order_K' such as 'order_4'"
    )


def check_strategy(strategy: str) -> Strategy:
    """Return a known strategy unchanged; raise :class:`ContractError` for anything else."""
    for known in STRATEGIES:
        if strategy == known:
            return known
    raise ContractError(f"infotok: strategy {strategy!r} is unknown; use one of {', '.join(STRATEGIES)}")


def elbo_ratios(loss: Tensor, rate: float) -> Tensor:
    """Share per latent frame ``[B, t]`` in proportion to its mean loss, around ``rate``, not clipped.

    With ``w = b / mean(b) - 1`` of the frame means ``b``, the spread is shrunk so that no share passes 1.
    """
    frames = loss.float().mean(dim=(2, 3))
    excess = frames / frames.mean(dim=1, keepdim=True) - 1
    most = excess.amax(dim=1, keepdim=True) + 1e-5
    share = torch.tensor(
        rate, dtype=torch.float32, device=loss.device
    )  # 1 / rate - 1 in float32, as in the official code
    spread = torch.minimum(most, 1 / share - 1) / most
    return share * (1 + excess * spread)


def get_allocated_ratios(
    loss: Tensor, rate: float, mask_seq: bool, strategy: str = "elbo", *, generator: torch.Generator | None = None
) -> Tensor:
    """Shares of tokens to keep: ``[B, 1]`` for the whole window, or ``[B, t]`` per latent frame in [0.0625, 1].

    mask_seq: True for mask method ``mse``. The rate then is returned as it is, whatever the strategy: with the
              published method ``static``, ``elbo`` and ``uniform`` are the same thing.
    strategy: ``static`` gives every frame the rate, ``uniform`` a random share (from ``generator``), ``elbo`` a share
              that follows the frame's loss. The ``global_elbo`` strategies change the rate of a whole window (see
              :func:`global_rates`) and then share like ``elbo``.
    """
    batch, frames = loss.shape[:2]
    if mask_seq:
        return torch.full((batch, 1), rate, device=loss.device)
    known = check_strategy(strategy)
    if known == "static":
        ratios = torch.full((batch, frames), rate, device=loss.device)
    elif known == "uniform":
        draw = torch.rand((batch, frames), generator=generator).to(loss.device).clamp(min=LEAST_RATIO)
        ratios = draw / draw.mean(dim=1, keepdim=True) * rate
    else:
        ratios = elbo_ratios(loss, rate)
    return ratios.clamp(LEAST_RATIO, 1)


def global_rates(elbos: Sequence[float], mean: float, rate: float, *, binned: bool = False) -> list[float]:
    """Rate of each window: ``rate * elbo / mean``, to the nearest quarter if ``binned``, limited to [0.0625, 1].

    ``mean`` is the plain mean of the mean losses of all windows of all files in the run, so a result depends on its
    company; the arithmetic is float32 as in the official tool.
    """
    share = torch.tensor(list(elbos), dtype=torch.float32) * rate / torch.tensor(mean, dtype=torch.float32)
    if binned:
        share = (share / 0.25).round() * 0.25
    return [float(r) for r in share.clamp(LEAST_RATIO, 1)]


def keep_mask(
    loss: Tensor, ratios: Tensor, method: str = "mse", *, faithful: bool = True, forward: bool = False
) -> Tensor:
    """bool ``[B, t, h, w]``, True for kept tokens.

    ratios:  ``[B, 1]`` or ``[B, t]`` from :func:`get_allocated_ratios`; ``mse`` uses their mean.
    method:  ``mse``: highest losses of the window. ``order``: the first tokens of each frame in raster order.
             ``order_K``: the ``order`` mask read with stride K, so that kept tokens spread over the frame.
    forward: bounds as the official ``forward`` takes them (a sorted loss, an integer index) and not as its
             ``mask_tokens`` does (an interpolated quantile, a fractional index).
    """
    check_mask_method(method)
    if method == "mse":
        return _keep_highest(loss, ratios, faithful=faithful, forward=forward)
    return _keep_first(loss.shape, ratios, method, faithful=faithful, forward=forward)


def mask_tokens(
    codes: Tensor, loss: Tensor, ratios: Tensor, method: str = "mse", *, faithful: bool = True, forward: bool = False
) -> tuple[Tensor, Tensor]:
    """Codes ``[B, C, t, h, w]`` with dropped tokens set to 0, and the :func:`keep_mask` that did it."""
    keep = keep_mask(loss, ratios, method, faithful=faithful, forward=forward)
    return codes * keep.unsqueeze(1), keep


def quantile_bound(loss: Tensor, ratios: Tensor) -> Tensor:
    """The loss ``[B]`` that a token must exceed: the (1 - mean ratio) quantile of its window, linearly interpolated."""
    shares = 1 - ratios.float().mean(dim=1)
    return torch.stack([torch.quantile(row, q) for row, q in zip(loss.float().flatten(1), shares, strict=True)])


def _keep_highest(loss: Tensor, ratios: Tensor, *, faithful: bool, forward: bool) -> Tensor:
    flat = loss.float().flatten(1)
    size = flat.shape[1]
    rate = ratios.float().mean(dim=1)
    if not faithful:
        rank = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        keep = rank < (rate * size).round().unsqueeze(1)
    elif forward:
        index = ((1 - rate) * (size - 1)).long().clamp(0, size - 1)
        keep = flat > flat.sort(dim=1).values.gather(1, index.unsqueeze(1))
    else:
        keep = flat > quantile_bound(loss, ratios).unsqueeze(1)
    return keep.reshape(loss.shape)


def _keep_first(shape: torch.Size, ratios: Tensor, method: str, *, faithful: bool, forward: bool) -> Tensor:
    batch, frames, height, width = shape
    size = height * width
    ratios = ratios.float().expand(batch, frames)
    index = torch.arange(size, device=ratios.device)
    if faithful:
        last = ratios * size
        keep = index <= (last.long() if forward else last).unsqueeze(-1)
    else:
        keep = index < (ratios * size).round().clamp(min=1).unsqueeze(-1)
    if method != "order":
        stride = int(method.removeprefix("order_"))
        if size % stride:
            raise ContractError(
                f"infotok: mask method {method!r} needs a latent frame whose {height} x {width} = {size} tokens "
                f"divide by {stride}"
            )
        keep = keep.unflatten(-1, (stride, size // stride)).transpose(-1, -2)
    return keep.reshape(shape)
