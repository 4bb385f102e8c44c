"""Color affinity of a window of frames (CoLo-CAM, Eq. 4): every pixel with every other, by color alone.

uint8 colors live on a 256³ lattice and the Gaussian is separable, so W = P (G x G x G) P' exactly, with the 0/1 matrix
P that says which bin a pixel is in. With G = U U' (rank 32 is exact to fp32 at sigma 15) everything is a contraction
with a 32³ core::

    z_v = (U x U x U)' P' v        1'W1 = |z_1|²        t'Wt = |z_t|²        W t = P (U x U x U) z_t

The first step sums v_p U[blue_p] over the pixels of each (red, green) pair that occurs, of which natural windows have
3,000 to 40,000 of 65,536. With few pairs this goes through a histogram of blue, O(P) + O(pairs * 256 * rank); with many
pairs it is summed pixel by pixel, O(P * rank). The rest is a constant 8 ms on one core, and the core, 128 KiB, is all
that the backward pass keeps.

B windows, N frames, C = 3 color channels, H and W the frame's pixels, P = N * H * W, M (red, green) pairs with a row,
L = 256 levels, K rank, Q pixels of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from colocam_dist.kernels.exact import ExactAffinity
from colocam_dist.kernels.gaussian import LEVELS, gaussian_factor
from colocam_dist.kernels.operator import Affinity, check, choose, quadratic_form

__all__ = ["COLOR_BACKENDS", "color_affinity"]

COLOR_BACKENDS = ("histogram", "exact")
SMALL = 1024  # pixels below which the dense form is faster than the constant cost of the core
FEW_PAIRS = 12  # pixels per pair from which on the histogram is faster than sums over pixels
PART = 1 << 14  # pixels whose rows of `rank` numbers are held at once


def color_affinity(
    fg: Tensor, frames: Tensor, sigma_rgb: float = 15.0, backend: str = "auto", mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Eq. 4 of each window, R = 2 S' W (1 - S) with W_pq = exp(-|c_p - c_q|² / (2 sigma_rgb²)) over all its pixels.

    Differentiable once in `fg`, with the gradient 2 W (1 - 2 S) times the upstream one. Computed in float32 (float64
    for float64 `fg`), also under autocast. Relative error of the histogram form against float64 truth: below 1e-6 in
    the value and in the gradient (L2); 1e-11 for float64.

    Args:
        fg: foreground probabilities S in [0, 1] (not checked), float ``[n, H, W]`` or ``[B, n, H, W]``. The gradient
            reaches 2 P for P pixels, which a float16 tensor cannot hold for windows above 32,000 pixels.
        frames: uint8 RGB ``[n, 3, H, W]`` or ``[B, n, 3, H, W]``; not to be changed before the backward pass.
        sigma_rgb: width of the kernel in steps of 0..255.
        backend: "histogram", "exact" (O(P²), the oracle), or "auto".
        mask: bool ``[n]`` or ``[B, n]``; frames with False do not count at all.

    Returns:
        (value, total), scalars or ``[B]``: R, and 1'W1 without gradient. R - 1'W1 is the published code's form.

    Raises:
        ValueError: shapes, types or devices that do not fit; an unknown backend; sigma_rgb <= 0.
    """
    if not sigma_rgb > 0.0:
        raise ValueError(f"color_affinity: wanted sigma_rgb > 0, got {sigma_rgb}")
    inputs = check("color_affinity", fg, frames, mask)
    pixels = inputs.fg_BNHW.shape[1:].numel()
    automatic = "exact" if pixels <= SMALL else "histogram"
    backend = choose("color_affinity", backend, COLOR_BACKENDS, automatic, f"{pixels} pixels per window")
    affinity: Affinity = ExactAffinity(sigma_rgb)
    if backend == "histogram":
        affinity = HistogramAffinity(sigma_rgb, compact=fg.device.type == "cpu")
    # One window after the other: the histogram of one stays in the cache, and memory does not grow with B.
    results = [
        quadratic_form(fg_NHW, frames_NCHW, mask_N, affinity)
        for fg_NHW, frames_NCHW, mask_N in zip(inputs.fg_BNHW, inputs.frames_BNCHW, inputs.mask_BN, strict=True)
    ]
    if inputs.single:
        return results[0]
    if not results:
        return inputs.fg_BNHW.sum((1, 2, 3)), inputs.fg_BNHW.new_zeros(0)
    values, totals = zip(*results, strict=True)
    return torch.stack(values), torch.stack(totals)


class _Pixels(NamedTuple):
    """The pairs that have a row, ascending, and for each pixel its row and its blue level, int32."""

    pair_M: Tensor
    row_P: Tensor
    blue_P: Tensor


@dataclass(frozen=True)
class HistogramAffinity:
    """The form in this module's head. Without `compact` all pairs have a row.

    To ask how many pairs occur makes the host wait for the device, where bandwidth is plenty; on a CPU it pays.
    """

    sigma: float
    compact: bool

    def forms(self, frames_NCHW: Tensor, t_NHW: Tensor, ones_NHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t'Wt, 1'W1 and z_t."""
        pixels = _pixels(frames_NCHW, self.compact)
        both = torch.stack([t_NHW.flatten(), ones_NHW.flatten()])
        rows = (_sum_pixels if self._many_pairs(pixels) else _sum_histogram)(pixels, both, self._factor(both))
        core_t, core_1 = (self._core(rows_MK, pixels.pair_M) for rows_MK in rows)
        return core_t.double().square().sum(), core_1.double().square().sum(), core_t

    def product(self, frames_NCHW: Tensor, kept: Tensor) -> Tensor:
        """P (U x U x U) z."""
        pixels = _pixels(frames_NCHW, self.compact)
        factor_LK = self._factor(kept)
        rank = factor_LK.shape[1]
        by_red = (factor_LK @ kept.view(rank, rank * rank)).view(LEVELS, rank, rank)
        rows_MK = (factor_LK @ by_red).view(LEVELS * LEVELS, rank)[pixels.pair_M]
        product_P = (_slice_pixels if self._many_pairs(pixels) else _slice_histogram)(pixels, rows_MK, factor_LK)
        return product_P.view(len(frames_NCHW), *frames_NCHW.shape[2:])

    def _core(self, rows_MK: Tensor, pair_M: Tensor) -> Tensor:
        """z, ``[rank, rank, rank]`` over red, green, blue, from the rows of the pairs."""
        factor_LK = self._factor(rows_MK)
        rank = factor_LK.shape[1]
        table = rows_MK.new_zeros(LEVELS * LEVELS, rank).index_copy_(0, pair_M, rows_MK)
        by_green = factor_LK.T @ table.view(LEVELS, LEVELS, rank)  # [red, rank, rank]
        return (factor_LK.T @ by_green.view(LEVELS, rank * rank)).view(rank, rank, rank)

    def _many_pairs(self, pixels: _Pixels) -> bool:
        return self.compact and len(pixels.row_P) < FEW_PAIRS * len(pixels.pair_M)

    def _factor(self, like: Tensor) -> Tensor:
        tolerance = 1e-6 if like.dtype == torch.float32 else 1e-12
        return gaussian_factor(LEVELS, self.sigma, tolerance, like.dtype, like.device)


def _pixels(frames_NCHW: Tensor, compact: bool) -> _Pixels:
    red_P, green_P, blue_P = (channel_NHW.flatten().int() for channel_NHW in frames_NCHW.unbind(1))
    pair_P = red_P * LEVELS + green_P
    if not compact:
        return _Pixels(torch.arange(LEVELS * LEVELS, device=frames_NCHW.device), pair_P, blue_P)
    found = torch.zeros(LEVELS * LEVELS, dtype=torch.bool, device=frames_NCHW.device)
    found.index_fill_(0, pair_P.long(), True)
    row_P = (found.cumsum(0, dtype=torch.int32) - 1).index_select(0, pair_P)
    return _Pixels(found.nonzero()[:, 0], row_P, blue_P)


# Sums are in float64: letterboxed frames put a quarter of all pixels into one bin, where fp32 would lose 4 digits.


def _sum_histogram(pixels: _Pixels, both: Tensor, factor_LK: Tensor) -> list[Tensor]:
    """For each of the two rows of `both`: sum of v_p U[blue_p] over the pixels of each pair, ``[M, rank]``."""
    bin_P = pixels.row_P * LEVELS + pixels.blue_P
    bins = torch.empty(len(pixels.pair_M) * LEVELS, dtype=torch.float64, device=both.device)
    sums = []
    for values_P in both:
        bins.zero_().index_add_(0, bin_P, values_P.double())
        sums.append(bins.view(-1, LEVELS).to(both.dtype) @ factor_LK)
    return sums


def _sum_pixels(pixels: _Pixels, both: Tensor, factor_LK: Tensor) -> list[Tensor]:
    """The same as :func:`_sum_histogram`, pixel by pixel."""
    row_P, order_P = pixels.row_P.sort(stable=True)
    first_M = torch.searchsorted(row_P, torch.arange(len(pixels.pair_M), dtype=torch.int32), out_int32=True)
    blue_P, wide_LK = pixels.blue_P[order_P], factor_LK.double()
    return [
        F.embedding_bag(blue_P, wide_LK, first_M, mode="sum", per_sample_weights=values_P[order_P].double()).to(
            both.dtype
        )
        for values_P in both
    ]


def _slice_histogram(pixels: _Pixels, rows_MK: Tensor, factor_LK: Tensor) -> Tensor:
    """rows[row_p] . U[blue_p] of each pixel: the transpose of :func:`_sum_histogram`."""
    return (rows_MK @ factor_LK.T).view(-1).index_select(0, pixels.row_P * LEVELS + pixels.blue_P)


def _slice_pixels(pixels: _Pixels, rows_MK: Tensor, factor_LK: Tensor) -> Tensor:
    """The same as :func:`_slice_histogram`, pixel by pixel."""
    parts = zip(pixels.row_P.split(PART), pixels.blue_P.split(PART), strict=True)
    return torch.cat(
        [(rows_MK.index_select(0, row_Q) * factor_LK.index_select(0, blue_Q)).sum(1) for row_Q, blue_Q in parts]
    )
