"""Checked inputs of both affinities. B windows, N frames, C = 3 color channels, H and W the frame's pixels."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inputs", "announce", "check", "check_widths", "in_range", "map_and_ones"]

log = logging.getLogger(__name__)

SLACK = 1e-3  # by which interpolated maps may leave [0, 1]


class Inputs(NamedTuple):
    """Inputs with a window axis; `single` says whether it was added.

    Attributes:
        fg_BNHW: float32 or float64.
        frames_BNCHW: uint8, contiguous.
        weights_BNHW: None when every pixel counts once, else bool or `fg`'s type; expanded, not copied.
        single: whether the caller gave one window.
    """

    fg_BNHW: Tensor
    frames_BNCHW: Tensor
    weights_BNHW: Tensor | None
    single: bool


def check(
    name: str, fg: Tensor, frames: Tensor, mask: Tensor | None, *, validate: bool | None = None, empty: bool = False
) -> Inputs:
    """Check shapes, types and devices, and values, and add the window axis where it is missing.

    Args:
        name: of the operator, for messages.
        fg: as the operator takes it.
        frames: as the operator takes it.
        mask: as the operator takes it.
        validate: whether values are checked; None: on a CPU only, because a device would make the host wait.
        empty: whether windows without frames are allowed.

    Raises:
        ValueError: what was wrong, what was wanted, what was got.
    """
    if fg.dim() not in (3, 4) or not fg.is_floating_point():
        raise ValueError(f"{name}: wanted float fg [n,H,W] or [B,n,H,W], got {fg.dtype} {tuple(fg.shape)}")
    wanted = (*fg.shape[:-2], 3, *fg.shape[-2:])
    if frames.dtype != torch.uint8 or tuple(frames.shape) != wanted:
        hint = ""
        if frames.is_floating_point() and tuple(frames.shape) == wanted:
            hint = "; pass the pixels before normalization (0..255), not the network's input"
        raise ValueError(f"{name}: wanted uint8 frames {wanted}, got {frames.dtype} {tuple(frames.shape)}{hint}")
    if not empty and fg.numel() == 0:
        raise ValueError(f"{name}: wanted at least one window, frame and pixel, got fg {tuple(fg.shape)}")
    weights = _weights(name, fg, mask)
    devices = [str(tensor.device) for tensor in (fg, frames, weights) if tensor is not None]
    if len(set(devices)) > 1:
        raise ValueError(f"{name}: inputs lie on different devices: {', '.join(devices)}")
    work = fg if fg.dtype == torch.float64 else fg.float()
    if weights is not None and weights.dtype != torch.bool:
        weights = weights.to(work.dtype)
    single = fg.dim() == 3
    if single:
        work, frames, weights = work[None], frames[None], None if weights is None else weights[None]
    if validate is None:
        validate = work.device.type == "cpu"
    if validate and not torch.compiler.is_compiling():
        _check_values(name, work.detach(), weights)
    return Inputs(work, frames.contiguous(), weights, single)


def check_widths(name: str, **widths: float) -> None:
    """All numbers must be positive and finite.

    Raises:
        ValueError: one is not.
    """
    for key, value in widths.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{name}: wanted {key} > 0 and finite, got {value}")


def _weights(name: str, fg: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask with an entry per pixel, as a view."""
    if mask is None:
        return None
    right = mask.shape in (fg.shape, fg.shape[:-2]) and (mask.dtype == torch.bool or mask.is_floating_point())
    if not right:
        raise ValueError(
            f"{name}: wanted a bool or float mask {tuple(fg.shape[:-2])} (frames) or {tuple(fg.shape)} (pixels), "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    if mask.shape != fg.shape:
        mask = mask[..., None, None].expand(fg.shape)
    return mask.detach()


def map_and_ones(fg: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """w t with t = 1 - 2 S, and w, in the type of `fg`; weights of the same shape, None: ones."""
    if weights is None:
        return 1.0 - 2.0 * fg, torch.ones_like(fg)
    ones = weights.to(fg.dtype)
    # `where`, not only a product: a pixel that does not count may hold anything, also what is not a number.
    return torch.where(ones > 0.0, 1.0 - 2.0 * fg, 0.0) * ones, ones


def in_range(fg: Tensor, weights: Tensor | None) -> bool:
    """Whether all probabilities that count are in [0, 1]; makes the host wait for a device."""
    if weights is not None:
        fg = torch.where(weights > 0, fg, 0.5)
    if fg.numel() == 0:
        return True
    low, high = (float(bound) for bound in fg.aminmax())
    return low >= -SLACK and high <= 1.0 + SLACK


def _check_values(name: str, fg: Tensor, weights: Tensor | None) -> None:
    if weights is not None and weights.dtype != torch.bool and not bool((weights >= 0.0).all()):
        raise ValueError(f"{name}: wanted weights >= 0, got {float(weights.min())}")
    if not in_range(fg, weights):
        counting = fg if weights is None else fg[weights > 0]
        bad = counting[~((counting >= -SLACK) & (counting <= 1.0 + SLACK))]
        raise ValueError(
            f"{name}: wanted probabilities fg in [0, 1], got {len(bad)} others, the first {float(bad[0])}; "
            "logits need a softmax or sigmoid first"
        )


_ANNOUNCED: set[tuple[str, str]] = set()


def announce(name: str, chosen: str, reason: str) -> str:
    """Log once per operator and choice what "auto" took and why; returns `chosen`."""
    if not torch.compiler.is_compiling() and (name, chosen) not in _ANNOUNCED:
        _ANNOUNCED.add((name, chosen))
        log.info("%s: backend %s (%s)", name, chosen, reason)
    return chosen
