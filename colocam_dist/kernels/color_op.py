"""The color affinity as an operator of torch: its backends, its gradient, and windows that are split over ranks.

Registered with ``torch.library``, so that ``torch.compile`` takes it as one node. With t = 1 - 2 S and weights w:
value = (1'W1 - t'Wt) / 2, d value / d S = 2 w W (w t).
B windows, N frames, C = 3 color channels, H and W the frame's pixels, K rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from colocam_dist.kernels.backends import choose
from colocam_dist.kernels.color_torch import TorchColorForm
from colocam_dist.kernels.exact import ExactAffinity
from colocam_dist.kernels.gaussian import color_rank, padded_rank
from colocam_dist.kernels.inputs import Inputs, announce, map_and_ones
from colocam_dist.kernels.packed import packing_for

__all__ = ["COLOR_BACKENDS", "Call", "ColorForm", "color_form", "color_operator", "groups", "resolve_color"]

COLOR_BACKENDS = ("histogram", "histogram_fp32", "mixed", "exact")
SMALL = 1024  # pixels below which the dense form is faster on a CPU than the constant cost of the core
TRITON_SIGMA = 3.5  # below it the rank passes 128, and the core would not be small any more


class ColorForm(Protocol):
    """A low-rank color affinity W of windows. A backend implements this, no more."""

    def cores(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t = 1 - 2 S and of ones, both times the weights: ``[2, B, K, K, K]``."""

    def ones_core(self, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of ones alone, ``[B, K, K, K]``."""

    def t_core(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t alone, ``[B, K, K, K]``."""

    def product(self, frames_BNCHW: Tensor, core_BKKK: Tensor) -> Tensor:
        """W t, ``[B, N, H, W]``, from z of t."""


class Call(NamedTuple):
    """What a call is made with besides tensors, as the operator takes it."""

    sigma: float
    backend: str
    group: str
    averaged: bool


class _Groups:
    """Process groups by name: operators of torch take no objects."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, dist.ProcessGroup] = WeakValueDictionary()

    def name(self, group: dist.ProcessGroup | None) -> str:
        """The group's name; "" for none."""
        if group is None:
            return ""
        self._known[group.group_name] = group
        return group.group_name

    def sum_(self, tensor: Tensor, name: str) -> Tensor:
        """Sum over the ranks of the group, in place."""
        if name:
            dist.all_reduce(tensor, group=self._known[name])
        return tensor

    def size(self, name: str) -> int:
        """Ranks of the group, 1 for none."""
        return dist.get_world_size(self._known[name]) if name else 1


groups = _Groups()


def resolve_color(name: str, backend: str, inputs: Inputs, sigma: float, *, split: bool) -> str:
    """The backend with its implementation, such as "torch:histogram".

    Args:
        name: of the caller, for messages.
        backend: as the caller got it.
        inputs: checked.
        sigma: the kernel's width.
        split: only a form with cores will do.

    Raises:
        ValueError: an unknown backend, or one that cannot run here.
    """
    pixels = inputs.fg_BNHW.shape[1:].numel()
    device = inputs.fg_BNHW.device
    if split and backend.split(":")[-1] == "exact":
        raise ValueError(f"{name}: backend {backend} has no core to prepare or to sum over ranks; use histogram")
    small = pixels <= SMALL and device.type == "cpu" and not split

    def limit(form: str) -> str | None:
        if form == "exact" or sigma >= TRITON_SIGMA:
            return None
        return f"the kernels hold sigma_rgb >= {TRITON_SIGMA} (rank 128), got {sigma}"

    automatic = ("exact" if small else "histogram", f"{pixels} pixels per window")
    resolved = choose(name, backend, COLOR_BACKENDS, automatic, inputs.fg_BNHW, limit)
    if resolved.endswith(":histogram"):
        if inputs.weights_BNHW is not None and inputs.weights_BNHW.dtype != torch.bool:
            return announce(name, f"{resolved}_fp32", "the mask is not bool, and packed words count whole pixels")
        if packing_for(pixels) is None:
            return announce(name, f"{resolved}_fp32", f"{pixels} pixels are too many for the packed word")
    return resolved


def color_form(backend: str, sigma: float) -> ColorForm:
    """The low-rank form of a resolved backend."""
    implementation, form = backend.split(":")
    if implementation == "torch":
        return TorchColorForm(sigma, packed=form == "histogram", mixed=form == "mixed")
    from colocam_dist.kernels.triton_color import TritonColorForm  # needs triton, which a CPU machine may lack

    return TritonColorForm(sigma, packed=form == "histogram", mixed=form == "mixed")


def _exact(fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None, call: Call) -> tuple[Tensor, ...]:
    """t'Wt, 1'W1 ``[B]`` in float64 and W t ``[B, N, H, W]``."""
    t_BNHW, ones_BNHW = map_and_ones(fg_BNHW, weights_BNHW)
    if call.backend.startswith("triton"):
        from colocam_dist.kernels.triton_exact import exact_product  # needs triton

        product_BNHW, ones_product_BNHW = exact_product(frames_BNCHW, t_BNHW, ones_BNHW, call.sigma, None)
        forms = [
            (product.double() * with_.double()).sum((1, 2, 3))
            for product, with_ in ((product_BNHW, t_BNHW), (ones_product_BNHW, ones_BNHW))
        ]
        return (*forms, product_BNHW)
    affinity = ExactAffinity(call.sigma)
    windows = zip(frames_BNCHW, t_BNHW, ones_BNHW, strict=True)
    return tuple(torch.stack(parts) for parts in zip(*(affinity.forms(*window) for window in windows), strict=True))


@torch.library.custom_op("colocam_dist::color_affinity", mutates_args=())
def color_operator(
    fg_BNHW: Tensor,
    frames_BNCHW: Tensor,
    weights_BNHW: Tensor | None,
    core_1: Tensor | None,
    sigma: float,
    backend: str,
    group: str,
    averaged: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and total ``[B]``, and what the gradient needs: z of t, or W t where there is no core.

    `core_1` is z of ones where it is known.
    """
    call = Call(sigma, backend, group, averaged)
    with torch.autocast(fg_BNHW.device.type, enabled=False):
        if backend.endswith(":exact"):
            form_B, total_B, kept = _exact(fg_BNHW, frames_BNCHW, weights_BNHW, call)
        else:
            form = color_form(backend, sigma)
            if core_1 is None:
                kept, core_1 = groups.sum_(form.cores(fg_BNHW, frames_BNCHW, weights_BNHW), group)
            else:
                kept = form.t_core(fg_BNHW, frames_BNCHW, weights_BNHW)
            form_B, total_B = (core.double().square().sum((1, 2, 3)) for core in (kept, core_1))
            kept = kept.clone()  # not a view of both cores, which would be kept as well
    value_B = ((total_B - form_B) / 2.0).to(fg_BNHW.dtype)
    return value_B, total_B.to(fg_BNHW.dtype), kept


@color_operator.register_fake
def _(
    fg_BNHW: Tensor,
    frames_BNCHW: Tensor,
    weights_BNHW: Tensor | None,
    core_1: Tensor | None,
    sigma: float,
    backend: str,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    windows = len(fg_BNHW)
    rank = (padded_rank if backend.startswith("triton") else color_rank)(sigma, fg_BNHW.dtype)
    shape: tuple[int, ...] = (windows, rank, rank, rank)
    if backend.endswith(":exact"):
        shape = tuple(fg_BNHW.shape)
    return fg_BNHW.new_empty(windows), fg_BNHW.new_empty(windows), fg_BNHW.new_empty(shape)


@torch.library.custom_op("colocam_dist::color_affinity_gradient", mutates_args=())
def color_gradient(
    kept: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None, upstream_B: Tensor, sigma: float, backend: str
) -> Tensor:
    """2 w W t times the upstream gradient, ``[B, N, H, W]``."""
    with torch.autocast(kept.device.type, enabled=False):
        if backend.endswith(":exact"):
            gradient_BNHW = kept * (2.0 * upstream_B)[:, None, None, None]
        else:
            gradient_BNHW = color_form(backend, sigma).product(
                frames_BNCHW, kept * (2.0 * upstream_B)[:, None, None, None]
            )
    return gradient_BNHW if weights_BNHW is None else gradient_BNHW.mul_(weights_BNHW)


@color_gradient.register_fake
def _(
    kept: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None, upstream_B: Tensor, sigma: float, backend: str
) -> Tensor:
    return kept.new_empty((*frames_BNCHW.shape[:2], *frames_BNCHW.shape[3:]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, frames_BNCHW, weights_BNHW, _, ctx.sigma, ctx.backend, group, averaged = inputs
    ctx.scale = float(groups.size(group)) if averaged else 1.0
    ctx.save_for_backward(output[2], frames_BNCHW, weights_BNHW)


def _backward(ctx: Any, upstream_B: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    kept, frames_BNCHW, weights_BNHW = ctx.saved_tensors
    upstream_B = upstream_B * ctx.scale
    gradient_BNHW = color_gradient(kept, frames_BNCHW, weights_BNHW, upstream_B, ctx.sigma, ctx.backend)
    return gradient_BNHW, *[None] * 7


color_operator.register_autograd(_backward, setup_context=_keep)
