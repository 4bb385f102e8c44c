"""What both affinities share: checked inputs, and a quadratic form with a known gradient.

With t = 1 - 2 S and the symmetric affinity W: value = (1'W1 - t'Wt) / 2 and d value / d S = 2 W t.
Shape suffixes: B windows, N frames that are coupled, C = 3 color channels, H and W the frame's pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Affinity", "Inputs", "check", "choose", "quadratic_form"]

log = logging.getLogger(__name__)


class Affinity(Protocol):
    """A symmetric affinity W between all pixels of the frames that it is given. A backend implements this, no more.

    Everything needed for the gradient that does not follow from the frames is in `kept`, which is additive over pixels
    in the low-rank forms: a window split over devices needs the sum of `kept` over them, and nothing else.
    """

    def forms(self, frames_NCHW: Tensor, t_NHW: Tensor, ones_NHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t'Wt, 1'W1 and `kept`; `t` and `ones` are 0 at pixels that do not count."""

    def product(self, frames_NCHW: Tensor, kept: Tensor) -> Tensor:
        """W t, ``[N, H, W]``."""


class Inputs(NamedTuple):
    """Inputs with a window axis; `single` says whether it was added."""

    fg_BNHW: Tensor
    frames_BNCHW: Tensor
    mask_BN: Tensor
    single: bool


def check(name: str, fg: Tensor, frames: Tensor, mask: Tensor | None) -> Inputs:
    """Check shapes, types and devices, and add the window axis where it is missing.

    The range of `fg` is not checked: that would make the host wait for the device.

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


def quadratic_form(fg_NHW: Tensor, frames_NCHW: Tensor, mask_N: Tensor, affinity: Affinity) -> tuple[Tensor, Tensor]:
    """(value, total) of one set of coupled frames; `value` carries the gradient 2 W t to `fg_NHW`."""
    value, total = _QuadraticForm.apply(fg_NHW, frames_NCHW, mask_N, affinity)
    return value, total


class _QuadraticForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fg_NHW: Tensor, frames_NCHW: Tensor, mask_N: Tensor, affinity: Affinity
    ) -> tuple[Tensor, Tensor]:
        mask_N11 = mask_N[:, None, None]
        with torch.autocast(fg_NHW.device.type, enabled=False):
            # `where`, not a product: a masked frame may hold anything, also what is not a number.
            t_NHW = torch.where(mask_N11, 1.0 - 2.0 * fg_NHW, 0.0)
            ones_NHW = mask_N11.to(fg_NHW.dtype).expand_as(fg_NHW)
            form, total, kept = affinity.forms(frames_NCHW, t_NHW, ones_NHW)
        ctx.affinity = affinity
        ctx.save_for_backward(frames_NCHW, mask_N, kept)
        value = ((total - form) / 2.0).to(fg_NHW.dtype)
        total = total.to(fg_NHW.dtype)
        ctx.mark_non_differentiable(total)
        return value, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        frames_NCHW, mask_N, kept = ctx.saved_tensors
        with torch.autocast(upstream.device.type, enabled=False):
            product_NHW = ctx.affinity.product(frames_NCHW, kept)
        return torch.where(mask_N[:, None, None], 2.0 * upstream * product_NHW, 0.0), None, None, None
