"""Affinity of the pixels of one frame by color and position (CoLo-CAM, Eq. 2), for each frame of a batch.

W = sum_k (v_k v_k') o W_color: the spatial Gaussian is wide (sigma 100 pixels), so a few products of one-dimensional
eigenvectors v_k give it. W_color = B (M x M x M) B', where B spreads a color over the 3 x 3 x 3 nearest nodes of a
coarse color grid and M couples the nodes of one axis; both are fitted to the Gaussian, see
:func:`colocam_dist.kernels.gaussian.color_grid`. The form is symmetric, so that value and gradient are exactly
consistent, and its error does not depend on the picture::

    h_k = B' (v_k o t)        q_k = (M x M x M) h_k        t'Wt = sum_k h_k' q_k        W t = sum_k v_k o (B q_k)

B frames, C = 3 color channels, H and W the frame's pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from colocam_dist.kernels.backends import choose
from colocam_dist.kernels.exact import ExactAffinity
from colocam_dist.kernels.frame_torch import GridAffinity
from colocam_dist.kernels.gaussian import color_grid_nodes
from colocam_dist.kernels.inputs import check, check_widths, map_and_ones

__all__ = ["FRAME_BACKENDS", "frame_affinity"]

FRAME_BACKENDS = ("grid", "exact")
SMALL = 512  # pixels below which the dense form is faster than the constant cost of the grid
ENTRY_ERROR = 10.0  # by which the largest entry of what is left out may exceed `tolerance`; see there
TRITON_NODES = 64  # per axis of the color grid that the kernels hold


def frame_affinity(
    fg: Tensor,
    frames: Tensor,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    backend: str = "auto",
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
    validate: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """R = 2 S' W (1 - S) of each frame, W_pq = exp(-|c_p - c_q|² / (2 sigma_rgb²) - |x_p - x_q|² / (2 sigma_xy²)).

    Differentiable once in `fg`, with the gradient 2 W (1 - 2 S) times the upstream one. Computed in float32 (float64
    for float64 `fg`), also under autocast. Relative error of the grid form against the exact one:
    1e-3 to 2.5e-3 in the gradient (L2), 3e-4 in the value, on real frames of 112 and 224 pixels, also with noise of 8
    and 25 steps. A map that is noise itself, whose gradient nearly cancels, has 4e-3.

    Cost per frame of P pixels and K modes: O(P K) plus a constant, with 6 modes at 112 px and 15 at 224 px;
    "exact" O(P²). Memory of the grid form at sigma_rgb 15: 0.2 MiB per mode and frame (Triton, at most 256 MiB at
    once), on a CPU one frame at a time and 0.5 KiB per pixel.

    Args:
        fg: foreground probabilities S in [0, 1], float ``[n, H, W]`` or ``[B, n, H, W]``.
        frames: uint8 RGB ``[n, 3, H, W]`` or ``[B, n, 3, H, W]``; not to be changed before the backward pass.
        sigma_rgb: width of the color kernel in steps of 0..255. The grid form's cost grows below about 8, with its
            inverse fourth power.
        sigma_xy: width of the spatial kernel in pixels. The cost grows with the number of modes, about
            ``2 * (1 + H / sigma_xy) * (1 + W / sigma_xy)``.
        backend: "grid", "exact" (O(P²), the oracle), or "auto". Each runs as Triton kernels on a CUDA device and in
            torch elsewhere; "torch:..." and "triton:..." force one of the two.
        mask: bool or float ``[n]``, ``[B, n]`` (frames) or like `fg` (pixels), as for the color affinity; a frame with
            False or 0 gives 0.
        tolerance: of the spatial kernel in the grid form: relative L2 error of the gradient that leaving out modes may
            add, on real frames. The color grid's own error, about 1e-3, does not depend on it; for less take "exact".
        validate: whether NaN and fg outside [0, 1] raise. None: on a CPU only, because the check makes the host wait
            for a device.

    Returns:
        (value, total), ``[n]`` or ``[B, n]``: R, and 1'W1 without gradient, per frame.

    Raises:
        ValueError: shapes, types or devices that do not fit; with `validate` a NaN, fg outside [0, 1] or negative
            weights; an unknown backend, or one that cannot run here; a width or tolerance <= 0.
    """
    check_widths("frame_affinity", sigma_rgb=sigma_rgb, sigma_xy=sigma_xy, tolerance=tolerance)
    inputs = check("frame_affinity", fg, frames, mask, validate=validate)
    height, width = inputs.fg_BNHW.shape[2:]

    def limit(form: str) -> str | None:
        if form == "exact":
            return None if max(height, width) <= 1024 else f"frames of {height} x {width}; the kernel holds 1024 x 1024"
        nodes = color_grid_nodes(sigma_rgb)
        return None if nodes <= TRITON_NODES else f"sigma_rgb {sigma_rgb} needs {nodes} nodes, of {TRITON_NODES}"

    small = height * width <= SMALL and fg.device.type == "cpu"
    automatic = ("exact" if small else "grid", f"{height * width} pixels per frame")
    resolved = choose("frame_affinity", backend, FRAME_BACKENDS, automatic, inputs.fg_BNHW, limit)
    need = torch.is_grad_enabled() and fg.requires_grad
    flat = [None if part is None else part.flatten(0, 1) for part in inputs[:3]]
    value_B, total_B, _ = frame_operator(*flat, sigma_rgb, sigma_xy, ENTRY_ERROR * tolerance, resolved, need)
    shape = fg.shape[:-2]
    return value_B.view(shape), total_B.detach().view(shape)


def _products(
    fg_BHW: Tensor,
    frames_BCHW: Tensor,
    weights_BHW: Tensor | None,
    sigmas: tuple[float, float],
    tolerance: float,
    backend: str,
    need: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """t'Wt and 1'W1 ``[B]``, W t ``[B, H, W]``."""
    t_BHW, ones_BHW = map_and_ones(fg_BHW, weights_BHW)
    if backend == "triton:grid":
        from colocam_dist.kernels.triton_frame import grid_product, grid_tables  # needs triton

        tables = grid_tables(*fg_BHW.shape[1:], *sigmas, tolerance, fg_BHW.device)
        return grid_product(fg_BHW, frames_BCHW, None if weights_BHW is None else ones_BHW, tables, need)
    if backend == "triton:exact":
        from colocam_dist.kernels.triton_exact import exact_product  # needs triton

        products = exact_product(frames_BCHW[:, None], t_BHW[:, None], ones_BHW[:, None], *sigmas)
        form_B, total_B = (
            (product[:, 0].double() * with_.double()).sum((1, 2))
            for product, with_ in zip(products, (t_BHW, ones_BHW), strict=True)
        )
        return form_B, total_B, products[0][:, 0]
    affinity = ExactAffinity(*sigmas) if backend == "torch:exact" else GridAffinity(*sigmas, tolerance)
    # One frame after the other: its grid stays in the cache.
    each = zip(frames_BCHW.split(1), t_BHW.split(1), ones_BHW.split(1), strict=True)
    forms, totals, products = zip(*(affinity.forms(*frame, need) for frame in each), strict=True)
    return torch.stack(forms), torch.stack(totals), torch.cat(products)


@torch.library.custom_op("colocam_dist::frame_affinity", mutates_args=())
def frame_operator(
    fg_BHW: Tensor,
    frames_BCHW: Tensor,
    weights_BHW: Tensor | None,
    sigma_rgb: float,
    sigma_xy: float,
    tolerance: float,
    backend: str,
    need: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and total ``[B]``, and the gradient ``[B, H, W]``; without `need` it is empty."""
    sigmas = (sigma_rgb, sigma_xy)
    with torch.autocast(fg_BHW.device.type, enabled=False):
        form_B, total_B, product_BHW = _products(fg_BHW, frames_BCHW, weights_BHW, sigmas, tolerance, backend, need)
        value_B = ((total_B - form_B) / 2.0).to(fg_BHW.dtype)
        if not need or product_BHW is None:
            return value_B, total_B.to(fg_BHW.dtype), fg_BHW.new_empty(0)
        gradient_BHW = 2.0 * product_BHW
        if weights_BHW is not None:
            gradient_BHW *= weights_BHW
    return value_B, total_B.to(fg_BHW.dtype), gradient_BHW


@frame_operator.register_fake
def _(fg_BHW: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    frames, need = len(fg_BHW), others[-1]
    gradient_BHW = fg_BHW.new_empty(fg_BHW.shape if need else (0,))
    return fg_BHW.new_empty(frames), fg_BHW.new_empty(frames), gradient_BHW


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, upstream_B: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    (gradient_BHW,) = ctx.saved_tensors
    return upstream_B[:, None, None] * gradient_BHW, *[None] * 7


frame_operator.register_autograd(_backward, setup_context=_keep)
