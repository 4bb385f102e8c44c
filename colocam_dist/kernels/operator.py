"""What both affinities share: checked inputs, and a quadratic form with a known gradient.

With t = 1 - 2 S and the symmetric affinity W: value = (1'W1 - t'Wt) / 2 and d value / d S = 2 W t.
Shape suffixes: B windows, N frames, C = 3 color channels, H and W the frame's pixels, P pixels of one window or frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Inputs", "Product", "check", "choose", "quadratic_form"]

log = logging.getLogger(__name__)

Product = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor | None]]
"""(t_P, valid_P, need Wt) -> (t'Wt, 1'W1, Wt or None), where pixels that are not valid have no affinity at all."""


class Inputs(NamedTuple):
    """Inputs with a window axis; `single` says whether it was added."""

    fg_BNHW: Tensor
    frames_BNCHW: Tensor
    mask_BN: Tensor
    single: bool


def check(name: str, fg: Tensor, frames: Tensor, mask: Tensor | None) -> Inputs:
    """Check shapes, types and devices, and add the window axis where it is missing.

    Raises:
        ValueError: what was wrong, what was wanted, what was got.
    """
    if fg.dim() not in (3, 4) or not fg.is_floating_point():
        raise ValueError(f"{name}: wanted float fg [n,H,W] or [B,n,H,W], got {fg.dtype} {tuple(fg.shape)}")
    single = fg.dim() == 3
    wanted = (*fg.shape[:-2], 3, *fg.shape[-2:])
    if frames.dtype != torch.uint8 or tuple(frames.shape) != wanted:
        raise ValueError(f"{name}: wanted uint8 frames {wanted}, got {frames.dtype} {tuple(frames.shape)}")
    if mask is None:
        mask = torch.ones(fg.shape[:-2], dtype=torch.bool, device=fg.device)
    if mask.dtype != torch.bool or mask.shape != fg.shape[:-2]:
        raise ValueError(f"{name}: wanted bool mask {tuple(fg.shape[:-2])}, got {mask.dtype} {tuple(mask.shape)}")
    if not fg.device == frames.device == mask.device:
        raise ValueError(f"{name}: inputs lie on different devices: {fg.device}, {frames.device}, {mask.device}")
    work = fg if fg.dtype == torch.float64 else fg.float()
    if single:
        work, frames, mask = work[None], frames[None], mask[None]
    return Inputs(work, frames, mask, single)


_ANNOUNCED: set[tuple[str, str]] = set()


def choose(name: str, backend: str, known: Sequence[str], automatic: str, reason: str) -> str:
    """The backend to use; "auto" takes `automatic` and says so once per operator.

    Raises:
        ValueError: an unknown backend.
    """
    if backend == "auto":
        if (name, automatic) not in _ANNOUNCED:
            _ANNOUNCED.add((name, automatic))
            log.info("%s: backend %s (%s)", name, automatic, reason)
        return automatic
    if backend not in known:
        raise ValueError(f"{name}: wanted backend auto, {' or '.join(known)}, got {backend!r}")
    return backend


def quadratic_form(fg_P: Tensor, valid_P: Tensor, product: Product) -> tuple[Tensor, Tensor]:
    """(value, total) of one coupled set of pixels; `value` carries the gradient 2 W t to `fg_P`."""
    value, total = _QuadraticForm.apply(fg_P, valid_P, product)
    return value, total


class _QuadraticForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fg_P: Tensor, valid_P: Tensor, product: Product) -> tuple[Tensor, Tensor]:
        with torch.autocast(fg_P.device.type, enabled=False):
            t_P = torch.where(valid_P, 1.0 - 2.0 * fg_P, 0.0)
            form, total, filtered_P = product(t_P, valid_P, fg_P.requires_grad or ctx.needs_input_grad[0])
        if filtered_P is not None:
            ctx.save_for_backward(torch.where(valid_P, 2.0 * filtered_P, 0.0))
        value = ((total - form) / 2.0).to(fg_P.dtype)
        total = total.to(fg_P.dtype)
        ctx.mark_non_differentiable(total)
        return value, total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient_P,) = ctx.saved_tensors
        return upstream * gradient_P, None, None
