"""The low-rank color forms in torch: for CPUs, for float64, and for devices without Triton.

The first step of z_v = (U x U x U)' P' v sums v_p U[blue_p] over the pixels of each (red, green) pair that occurs, of
which natural windows have 3,000 to 40,000 of 65,536. Pixels are first counted in a histogram with 256 bins of blue for
each such pair; then the colors that occur, a twentieth to all of the pixels, are summed by pair: O(P) + O(colors *
rank). The rest is a constant.

B windows, N frames, C = 3 color channels, H and W the frame's pixels, P = N * H * W, Q pixels of a part, M (red, green)
pairs that occur, U colors that occur, L = 256 levels, K rank, D nodes of the blue grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from colocam_dist.kernels.gaussian import LEVELS, blue_grid, color_tolerance, gaussian_factor
from colocam_dist.kernels.inputs import in_range, map_and_ones
from colocam_dist.kernels.packed import Packing, packing_for

__all__ = ["TorchColorForm"]

PAIRS = LEVELS * LEVELS
PART = 1 << 17  # pixels handled at once: their temporaries stay in the cache


@dataclass(frozen=True)
class TorchColorForm:
    """Cores z and products W t of windows.

    Attributes:
        sigma: width of the kernel in steps of 0..255.
        packed: histograms of 64-bit words (:mod:`colocam_dist.kernels.packed`); else of floating point numbers.
        mixed: the blue axis on a spline grid.
    """

    sigma: float
    packed: bool
    mixed: bool = False

    def cores(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t = 1 - 2 S and of ones, both times the weights: ``[2, B, K, K, K]`` in the type of `fg`.

        With `packed`, z of t is NaN for a map that is not in [0, 1], as a GPU gives it.
        """
        cores = []
        for window, (fg_NHW, frames_NCHW) in enumerate(zip(fg_BNHW, frames_BNCHW, strict=True)):
            pixels = _Window(frames_NCHW)
            weights_P = None if weights_BNHW is None else weights_BNHW[window].reshape(-1)
            # Integers cannot hold what is not a number.
            bad = self.packed and not in_range(fg_NHW.reshape(-1), weights_P)
            rows_2MK = self._sums(pixels, fg_NHW.reshape(-1), weights_P)
            both = torch.stack([self._core(rows_MK, pixels.pair_M) for rows_MK in rows_2MK])
            if bad:
                both[0] = float("nan")
            cores.append(both)
        return torch.stack(cores, 1)

    def ones_core(self, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of ones alone, ``[B, K, K, K]`` float32."""
        shape = (*frames_BNCHW.shape[:2], *frames_BNCHW.shape[3:])
        # A map of one half has t = 0, so that the other core costs its share; on a GPU the kernels leave it out.
        return self.cores(torch.full(shape, 0.5, device=frames_BNCHW.device), frames_BNCHW, weights_BNHW)[1]

    def t_core(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t alone, ``[B, K, K, K]``."""
        return self.cores(fg_BNHW, frames_BNCHW, weights_BNHW)[0]

    def product(self, frames_BNCHW: Tensor, core_BKKK: Tensor) -> Tensor:
        """W t, ``[B, N, H, W]``, from z of t."""
        factor_LK, blue_LK = self._factors(core_BKKK)
        shape = (*frames_BNCHW.shape[:2], *frames_BNCHW.shape[3:])
        product_BP = core_BKKK.new_empty(len(core_BKKK), math.prod(shape[1:]))
        for frames_NCHW, core_KKK, product_P in zip(frames_BNCHW, core_BKKK, product_BP, strict=True):
            pixels = _Window(frames_NCHW)
            rank = factor_LK.shape[1]
            by_red = (factor_LK @ core_KKK.reshape(rank, -1)).view(LEVELS, rank, -1)
            rows_MK = (factor_LK @ by_red).view(PAIRS, -1)[pixels.pair_M]
            bins = (rows_MK @ blue_LK.T).view(-1)
            for part, row_Q, blue_Q in pixels.parts():
                torch.index_select(bins, 0, row_Q * LEVELS + blue_Q, out=product_P[part])
        return product_BP.view(shape)

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """U of red and green, and of blue."""
        factor_LK = gaussian_factor(LEVELS, self.sigma, color_tolerance(like.dtype), like.dtype, like.device)
        if self.mixed:
            return factor_LK, blue_grid(self.sigma, like.dtype, like.device).factor_LK
        return factor_LK, factor_LK

    def _core(self, rows_MK: Tensor, pair_M: Tensor) -> Tensor:
        """z from the rows of the pairs, ``[rank, rank, rank]`` over red, green, blue."""
        factor_LK = self._factors(rows_MK)[0]
        rank, blue_rank = factor_LK.shape[1], rows_MK.shape[1]
        table = rows_MK.new_zeros(PAIRS, blue_rank).index_copy_(0, pair_M, rows_MK)
        by_green = factor_LK.T @ table.view(LEVELS, LEVELS, blue_rank)
        return (factor_LK.T @ by_green.view(LEVELS, -1)).view(rank, rank, blue_rank)

    def _sums(self, pixels: _Window, fg_P: Tensor, weights_P: Tensor | None) -> list[Tensor]:
        """For t and for ones: sum of w_p v_p U[blue_p] over the pixels of each pair, ``[M, rank]``."""
        if self.mixed:
            return self._sums_of_grid(pixels, fg_P, weights_P)
        packing = packing_for(pixels.count) if self.packed and fg_P.dtype == torch.float32 else None
        if packing is None:
            color_U, both_2U = _float_histogram(pixels, fg_P, weights_P)
        else:
            color_U, both_2U = _packed_histogram(pixels, fg_P, weights_P, packing)
        factor_LK = self._factors(fg_P)[1]
        row_U, blue_U = (color_U // LEVELS).int(), (color_U % LEVELS).int()
        rows_M = torch.arange(len(pixels.pair_M), dtype=torch.int32, device=fg_P.device)
        first_M = torch.searchsorted(row_U, rows_M, out_int32=True)
        return [
            F.embedding_bag(blue_U, factor_LK, first_M, mode="sum", per_sample_weights=values_U)
            for values_U in both_2U.to(fg_P.dtype)
        ]

    def _sums_of_grid(self, pixels: _Window, fg_P: Tensor, weights_P: Tensor | None) -> list[Tensor]:
        grid = blue_grid(self.sigma, fg_P.dtype, fg_P.device)
        nodes = len(grid.factor_DK)
        bins = torch.zeros(2, len(pixels.pair_M) * nodes, dtype=torch.float64, device=fg_P.device)
        for part, row_Q, blue_Q in pixels.parts():
            first_Q = row_Q * nodes + grid.base_L[blue_Q]
            taps_QT = grid.taps_LT[blue_Q]
            for channel, values_Q in enumerate(
                map_and_ones(fg_P[part], None if weights_P is None else weights_P[part])
            ):
                for tap, tap_Q in enumerate(taps_QT.T):
                    bins[channel].index_add_(0, first_Q + tap, (tap_Q * values_Q).double())
        return [channel.to(fg_P.dtype).view(-1, nodes) @ grid.factor_DK for channel in bins]


class _Window:
    """Which (red, green) pairs occur in a window, ascending, and the row of each pixel among them."""

    def __init__(self, frames_NCHW: Tensor) -> None:
        self.frames_NCHW = frames_NCHW
        self.count = frames_NCHW[:, 0].numel()
        counts = torch.zeros(PAIRS, dtype=torch.int32, device=frames_NCHW.device)
        ones_Q = torch.ones(PART, dtype=torch.int32, device=frames_NCHW.device)
        for _, pair_Q, _ in self._colors():
            counts.index_add_(0, pair_Q, ones_Q[: len(pair_Q)])
        found = counts > 0
        self.pair_M = found.nonzero()[:, 0]
        self.row_of_pair = found.cumsum(0, dtype=torch.int32) - 1

    def parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Of at most PART pixels each: where they stand, their rows and their blue levels, int32."""
        for part, pair_Q, blue_Q in self._colors():
            yield part, self.row_of_pair.index_select(0, pair_Q), blue_Q

    def _colors(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        start = 0
        for frame_CHW in self.frames_NCHW:
            for colors_CQ in frame_CHW.reshape(3, -1).split(PART, 1):
                red_Q, green_Q, blue_Q = colors_CQ.int().unbind(0)
                yield slice(start, start + len(red_Q)), red_Q * LEVELS + green_Q, blue_Q
                start += len(red_Q)


def _packed_histogram(
    pixels: _Window, fg_P: Tensor, weights_P: Tensor | None, packing: Packing
) -> tuple[Tensor, Tensor]:
    """Bins that hold pixels, int64 ``[U]``, and their sums of t and of ones, float64 ``[2, U]``; weights are 0 or 1."""
    words = torch.zeros(len(pixels.pair_M) * LEVELS, dtype=torch.int64, device=fg_P.device)
    one = 1 << packing.shift
    for part, row_Q, blue_Q in pixels.parts():
        fg_Q = fg_P[part]
        if weights_P is None:
            word_Q = (fg_Q * 2.0**packing.fraction).round_().long().add_(one)
        else:
            counts_Q = weights_P[part] > 0
            word_Q = (torch.where(counts_Q, fg_Q, 0.0) * 2.0**packing.fraction).round_().long() + counts_Q * one
        words.index_add_(0, row_Q * LEVELS + blue_Q, word_Q)
    color_U = words.nonzero()[:, 0]
    word_U = words[color_U]
    count_U = (word_U + (one >> 1)) >> packing.shift
    foreground_U = word_U - (count_U << packing.shift)
    # Subtracted as integers: exact, also for a bin of many pixels with S near 1/2.
    t_U = ((count_U << packing.fraction) - 2 * foreground_U).double() * 2.0**-packing.fraction
    return color_U, torch.stack([t_U, count_U.double()])


def _float_histogram(pixels: _Window, fg_P: Tensor, weights_P: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same in float64, for any weights."""
    bins = torch.zeros(2, len(pixels.pair_M) * LEVELS, dtype=torch.float64, device=fg_P.device)
    for part, row_Q, blue_Q in pixels.parts():
        bin_Q = row_Q * LEVELS + blue_Q
        for channel, values_Q in enumerate(map_and_ones(fg_P[part], None if weights_P is None else weights_P[part])):
            bins[channel].index_add_(0, bin_Q, values_Q.double())
    color_U = bins[1].nonzero()[:, 0]
    return color_U, bins[:, color_U]
