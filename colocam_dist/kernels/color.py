"""Color affinity of a window of frames (CoLo-CAM, Eq. 4): every pixel with every other, by color alone.

uint8 colors live on a 256³ lattice and the Gaussian is separable, so W = P (G x G x G) P' exactly, with the 0/1 matrix
P that says which bin a pixel is in. With G = U U' (rank 32 is exact to fp32 at sigma 15) everything is a contraction
with a 32³ core::

    z_v = (U x U x U)' P' v        1'W1 = |z_1|²        t'Wt = |z_t|²        W t = P (U x U x U) z_t

The cores are additive over pixels: a window whose frames lie on several devices needs the sum of the cores over them
and nothing else. docs/kernels.md has the algebra, errors and costs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from colocam_dist.kernels.color_op import COLOR_BACKENDS, Call, color_form, color_operator, groups, resolve_color
from colocam_dist.kernels.inputs import Inputs, check, check_widths

__all__ = ["COLOR_BACKENDS", "PreparedColors", "color_affinity"]


def color_affinity(
    fg: Tensor,
    frames: Tensor,
    sigma_rgb: float = 15.0,
    backend: str = "auto",
    mask: Tensor | None = None,
    *,
    process_group: dist.ProcessGroup | None = None,
    averaged: bool = False,
    validate: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 4 of each window, R = 2 S' W (1 - S) with W_pq = exp(-|c_p - c_q|² / (2 sigma_rgb²)) over all its pixels.

    Differentiable once in `fg`, with the gradient 2 W (1 - 2 S) times the upstream one. Computed in float32 (float64
    for float64 `fg`), also under autocast. Relative error against float64 truth of "histogram" and "exact": below 1e-6
    in the value and in the gradient (L2); 1e-11 for float64 `fg`; of "mixed": 5e-4.

    Cost per window of P pixels: O(P) plus a constant; "exact" O(P²). Memory: at most 8 bytes for each of 2^24 bins
    (Triton; four windows at once) or for each bin in rows that occur (torch), 4 bytes per pixel for the gradient.

    Args:
        fg: foreground probabilities S in [0, 1], float ``[n, H, W]`` or ``[B, n, H, W]``. The gradient reaches 2 P for
            P pixels, which a float16 tensor cannot hold for windows above 32,000 pixels.
        frames: uint8 RGB ``[n, 3, H, W]`` or ``[B, n, 3, H, W]``; not to be changed before the backward pass.
        sigma_rgb: width of the kernel in steps of 0..255.
        backend: "histogram" (sums in integers: the same bits for any order of the pixels), "histogram_fp32",
            "mixed" (the blue axis on a spline grid: a sixth of the histogram on a GPU), "exact" (O(P²), the oracle), or
            "auto". Each runs as Triton kernels on a CUDA device and in torch elsewhere; "torch:..." and "triton:..."
            force one of the two.
        mask: bool or float ``[n]``, ``[B, n]`` (frames) or like `fg` (pixels). Frames and pixels with False or 0 do not
            count at all and may hold anything; other numbers are weights w >= 0: R = 2 (w S)' W (w (1 - S)).
        process_group: the window's frames lie on the ranks of this group, on each its own, of any number n >= 0; every
            rank has to call. Value and total are those of the whole window, the same on all ranks; the gradient is the
            one for the rank's own frames.
        averaged: with a group: multiply the gradient by the group's size, for training that averages gradients over it
            (DDP, DeepSpeed).
        validate: whether NaN and fg outside [0, 1] raise. Without, such a window's value and gradient are NaN in the
            "histogram" form. None: on a CPU only, because the check makes the host wait for a device.

    Returns:
        (value, total), scalars or ``[B]``: R, and 1'W1 without gradient. R - 1'W1 is the published code's form.

    Raises:
        ValueError: shapes, types or devices that do not fit; with `validate` a NaN, fg outside [0, 1] or negative
            weights; an unknown backend, or one that cannot run here; sigma_rgb <= 0.
    """
    check_widths("color_affinity", sigma_rgb=sigma_rgb)
    inputs = check("color_affinity", fg, frames, mask, validate=validate, empty=process_group is not None)
    resolved = resolve_color("color_affinity", backend, inputs, sigma_rgb, split=process_group is not None)
    return _apply(inputs, Call(sigma_rgb, resolved, groups.name(process_group), averaged), None)


class PreparedColors:
    """The part of the color affinity that depends on the frames alone, for use with one or many maps.

    On a GPU it can run ahead on a side stream while the network computes the maps; calling the object takes the rest.
    """

    def __init__(
        self, frames: Tensor, sigma_rgb: float = 15.0, backend: str = "auto", mask: Tensor | None = None
    ) -> None:
        """Compute 1'W1 of each window. The arguments are those of :func:`color_affinity`.

        Raises:
            ValueError: as :func:`color_affinity`; "exact" has nothing to prepare.
        """
        check_widths("PreparedColors", sigma_rgb=sigma_rgb)
        if frames.dim() not in (4, 5):
            raise ValueError(
                f"PreparedColors: wanted uint8 frames [n,3,H,W] or [B,n,3,H,W], "
                f"got {frames.dtype} {tuple(frames.shape)}"
            )
        nothing = torch.zeros((), device=frames.device).expand(*frames.shape[:-3], *frames.shape[-2:])
        inputs = check("PreparedColors", nothing, frames, mask)
        self.backend = resolve_color("PreparedColors", backend, inputs, sigma_rgb, split=True)
        self.frames, self.mask, self.sigma_rgb = frames, mask, sigma_rgb
        form = color_form(self.backend, sigma_rgb)
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            self._core_1 = form.ones_core(inputs.frames_BNCHW, inputs.weights_BNHW)

    def __call__(self, fg: Tensor) -> tuple[Tensor, Tensor]:
        """(value, total) of these frames and the maps `fg`, as :func:`color_affinity` gives them; float32."""
        inputs = check("PreparedColors", fg, self.frames, self.mask)
        if inputs.fg_BNHW.dtype != torch.float32:
            raise ValueError(f"PreparedColors: wanted fg of at most float32, got {fg.dtype}")
        return _apply(inputs, Call(self.sigma_rgb, self.backend, "", False), self._core_1)


def _apply(inputs: Inputs, call: Call, core_1: Any) -> tuple[Tensor, Tensor]:
    value, total, _ = color_operator(inputs.fg_BNHW, inputs.frames_BNCHW, inputs.weights_BNHW, core_1, *call)
    total = total.detach()
    return (value[0], total[0]) if inputs.single else (value, total)
