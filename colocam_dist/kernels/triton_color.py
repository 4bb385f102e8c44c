"""The low-rank color forms as Triton kernels. docs/kernels.md has the cost of each step.

One pass over the pixels adds each to its bin of a 256³ histogram, whose bins stand in bricks of 8 x 8 x 16 levels: real
windows use 1 to 20 % of the bricks, so only marked ones are cleared, read and filled, and they stay in the L2 cache.
Two tables of (red, green) rows and three small matrix products lead to the core; the way back is the same in reverse.

B windows, N frames, H and W the frame's pixels, K rank padded to a power of 2, D nodes of the blue grid.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
from torch import Tensor

from colocam_dist.kernels import jit_color as jit
from colocam_dist.kernels.color_torch import TorchColorForm
from colocam_dist.kernels.gaussian import LEVELS, BlueGrid, blue_grid, color_tolerance, gaussian_factor, padded_rank
from colocam_dist.kernels.launch import launch
from colocam_dist.kernels.packed import packing_for

__all__ = ["TritonColorForm"]

BINS = LEVELS**3
BRICK = 8 * 8 * 16
TILES = (LEVELS // 8) ** 2  # columns of 16 bricks
PIXELS = 1024  # per program of the passes over pixels
RUN = 32  # neighbors of one color that are added as one; letterbox bars would wait for each other at one address
ROWS = 64  # pixels per program where each reads a row of `rank` numbers
BLOCK_ROWS, BLOCK_INNER, BLOCK_COLUMNS = 64, 32, 32  # of the matrix products
WINDOWS = 4  # at once: 128 MiB each
DIRECT = 1 << 19  # pixels per window up to which each takes its own product with a row; beyond, each marked bin does


class TritonColorForm(TorchColorForm):
    """Cores z and products W t of windows on a CUDA device, in float32."""

    def cores(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t = 1 - 2 S and of ones, both times the weights: ``[2, B, K, K, K]``; z of t is NaN for a bad map."""
        return self._cores(fg_BNHW, frames_BNCHW, weights_BNHW, jit.BOTH)

    def ones_core(self, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of ones alone, ``[B, K, K, K]``."""
        half = torch.full((1,), 0.5, device=frames_BNCHW.device)
        fg_BNHW = half.expand(*frames_BNCHW.shape[:2], *frames_BNCHW.shape[3:]).contiguous()
        return self._cores(fg_BNHW, frames_BNCHW, weights_BNHW, jit.ONES)[0]

    def t_core(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None) -> Tensor:
        """z of t alone, ``[B, K, K, K]``."""
        return self._cores(fg_BNHW, frames_BNCHW, weights_BNHW, jit.MAP)[0]

    def product(self, frames_BNCHW: Tensor, core_BKKK: Tensor) -> Tensor:
        """W t, ``[B, N, H, W]``, from z of t."""
        windows, frames, _, height, width = frames_BNCHW.shape
        product_BNHW = torch.empty(windows, frames, height, width, device=core_BKKK.device)
        for start in range(0, windows, WINDOWS):
            some = slice(start, start + WINDOWS)
            self._write_product(frames_BNCHW[some], core_BKKK[some].contiguous(), product_BNHW[some])
        return product_BNHW

    def _cores(self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None, channels: int) -> Tensor:
        fg_BNHW = fg_BNHW.contiguous()
        cores = []
        for start in range(0, len(fg_BNHW), WINDOWS):
            some = slice(start, start + WINDOWS)
            weights = None if weights_BNHW is None else weights_BNHW[some]
            cores.append(self._cores_at_once(fg_BNHW[some], frames_BNCHW[some], weights, channels))
        return torch.cat(cores, 1)

    def _cores_at_once(
        self, fg_BNHW: Tensor, frames_BNCHW: Tensor, weights_BNHW: Tensor | None, channels: int
    ) -> Tensor:
        device, windows, frames = fg_BNHW.device, *fg_BNHW.shape[:2]
        count, pixels = (2 if channels == jit.BOTH else 1), fg_BNHW[0, 0].numel()
        rank = padded_rank(self.sigma, torch.float32)
        poison_B = torch.zeros(windows, dtype=torch.int32, device=device)
        table = torch.empty(windows, count, LEVELS, LEVELS, rank, device=device)
        grid = (triton.cdiv(pixels, PIXELS), frames, windows)
        sizes = (pixels, frames)
        weight = _weight_arguments(weights_BNHW, fg_BNHW)
        if frames and self.mixed:
            axis = _blue_grid(self.sigma, device)
            nodes = len(axis.factor_DK)
            bins = torch.zeros(windows, 2, LEVELS * LEVELS * nodes, device=device)
            launch(jit.splat_floats, grid, frames_BNCHW, fg_BNHW, *weight, bins, poison_B, axis.base_L, axis.taps_LT,
                   *sizes, NODES=nodes, WEIGHTED=weights_BNHW is not None, BLOCK=PIXELS, RUN=RUN)  # fmt: skip
            launch(jit.rows_of_nodes, (LEVELS * LEVELS // ROWS, windows), bins, axis.factor_DK, table,
                   NODES=nodes, CHANNELS=channels, RANK=rank, BLOCK=ROWS)  # fmt: skip
        elif frames:
            marks = self._marks(frames_BNCHW)
            packing = packing_for(frames * pixels) if self.packed else None
            words = torch.empty(windows, BINS if packing else 2 * BINS, device=device,
                                dtype=torch.int64 if packing else torch.float32)  # fmt: skip
            launch(jit.clear, (TILES, windows), marks, words, CHANNELS=1 if packing else 2)
            factor_LK = _factor(self.sigma, device)
            if packing:
                launch(jit.splat_words, grid, frames_BNCHW, fg_BNHW, *weight, words, poison_B, *sizes,
                       SHIFT=packing.shift, FRACTION=packing.fraction, WEIGHTED=weights_BNHW is not None,
                       BLOCK=PIXELS, RUN=RUN)  # fmt: skip
            else:
                launch(jit.splat_floats, grid, frames_BNCHW, fg_BNHW, *weight, words, poison_B, words, words, *sizes,
                       NODES=0, WEIGHTED=weights_BNHW is not None, BLOCK=PIXELS, RUN=RUN)  # fmt: skip
            launch(jit.rows_of_bricks, (TILES, windows), marks, words, factor_LK, table,
                   SHIFT=packing.shift if packing else 0, FRACTION=packing.fraction if packing else 0,
                   CHANNELS=channels, RANK=rank)  # fmt: skip
        else:
            table.zero_()
        cores = self._contract(table.view(windows * count, LEVELS, LEVELS, rank)).view(windows, count, *[rank] * 3)
        if channels != jit.ONES:
            cores[:, 0].masked_fill_(poison_B.bool()[:, None, None, None], float("nan"))
        return cores.transpose(0, 1)

    def _marks(self, frames_BNCHW: Tensor) -> Tensor:
        """Which bricks of each window hold pixels, int32 ``[B, 16384]``."""
        windows, frames, _, height, width = frames_BNCHW.shape
        marks = torch.zeros(windows, BINS // BRICK, dtype=torch.int32, device=frames_BNCHW.device)
        grid = (triton.cdiv(height * width, PIXELS), frames, windows)
        launch(jit.mark, grid, frames_BNCHW, marks, height * width, frames, BLOCK=PIXELS)
        return marks

    def _contract(self, table_XLLK: Tensor) -> Tensor:
        """U' along green, then along red."""
        rank = table_XLLK.shape[-1]
        factor_KL = _factor(self.sigma, table_XLLK.device).T
        return _times(factor_KL, _times(factor_KL, table_XLLK).view(len(table_XLLK), LEVELS, rank * rank))

    def _write_product(self, frames_BNCHW: Tensor, core_BKKK: Tensor, product_BNHW: Tensor) -> None:
        windows, frames, _, height, width = frames_BNCHW.shape
        device, rank, pixels = core_BKKK.device, core_BKKK.shape[-1], height * width
        factor_LK = _factor(self.sigma, device)
        blue_LK = _blue_grid(self.sigma, device).factor_LK if self.mixed else factor_LK
        by_red = _times(factor_LK, core_BKKK.view(windows, rank, rank * rank))
        table = _times(factor_LK, by_red.view(windows, LEVELS, rank, rank))
        if frames * pixels <= DIRECT:
            grid = (triton.cdiv(pixels, ROWS), frames, windows)
            launch(
                jit.slice_rows, grid, frames_BNCHW, table, blue_LK, product_BNHW, pixels, frames, RANK=rank, BLOCK=ROWS
            )
        else:
            marks = self._marks(frames_BNCHW)
            bins = torch.empty(windows, BINS, device=device)
            launch(jit.bins_of_rows, (TILES, windows), marks, table, blue_LK, bins, RANK=rank)
            grid = (triton.cdiv(pixels, PIXELS), frames, windows)
            launch(jit.slice_bins, grid, frames_BNCHW, bins, product_BNHW, pixels, frames, BLOCK=PIXELS)


@lru_cache(maxsize=64)
def _factor(sigma: float, device: torch.device) -> Tensor:
    """U ``[256, K]``."""
    return _padded(gaussian_factor(LEVELS, sigma, color_tolerance(torch.float32), torch.float32, device), sigma)


@lru_cache(maxsize=64)
def _blue_grid(sigma: float, device: torch.device) -> BlueGrid:
    """The blue axis with K columns."""
    grid = blue_grid(sigma, torch.float32, device)
    return grid._replace(factor_DK=_padded(grid.factor_DK, sigma), factor_LK=_padded(grid.factor_LK, sigma))


def _padded(factor: Tensor, sigma: float) -> Tensor:
    return torch.nn.functional.pad(factor, (0, padded_rank(sigma, torch.float32) - factor.shape[1]))


def _weight_arguments(weights_BNHW: Tensor | None, fg_BNHW: Tensor) -> tuple[Tensor, int, int]:
    """The weights, and how far apart those of two frames and of two pixels are."""
    if weights_BNHW is None:
        return fg_BNHW, 0, 0  # not read
    if weights_BNHW.stride()[2:] == (0, 0):  # a mask of frames, expanded
        return weights_BNHW[:, :, 0, 0].float().contiguous(), 1, 0
    return weights_BNHW.float().contiguous(), fg_BNHW[0, 0].numel(), 1


def _times(factor_MS: Tensor, inputs_XSC: Tensor) -> Tensor:
    """`factor` [M, S] times each matrix [S, columns] of the last two axes, in float32 whatever torch's settings are."""
    rows, inner = factor_MS.shape
    columns = inputs_XSC.shape[-1]
    outputs = inputs_XSC.new_empty(*inputs_XSC.shape[:-2], rows, columns)
    block_rows, block_columns = min(rows, BLOCK_ROWS), min(columns, BLOCK_COLUMNS)
    grid = (rows // block_rows, columns // block_columns, inputs_XSC.numel() // (inner * columns))
    launch(jit.times, grid, factor_MS, inputs_XSC, outputs, *factor_MS.stride(),
           ROWS=rows, INNER=inner, COLUMNS=columns, BLOCK_ROWS=block_rows, BLOCK_INNER=min(inner, BLOCK_INNER),
           BLOCK_COLUMNS=block_columns)  # fmt: skip
    return outputs
