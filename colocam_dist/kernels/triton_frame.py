"""The affinity by color and position on a spline grid as Triton kernels. docs/kernels.md has the cost of each step.

B frames, H and W the frame's pixels, P = H * W, L = 256 levels, D grid nodes per axis, K spatial modes padded to 16, 32
or more, E = 2 K.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from colocam_dist.kernels import jit_frame as jit
from colocam_dist.kernels.gaussian import color_grid, spatial_modes
from colocam_dist.kernels.launch import launch

__all__ = ["GridTables", "grid_product", "grid_tables"]

SPLAT_PIXELS = 32  # per program; 64 would pass the registers of a thread
SLICE_PIXELS = 64
GRID_BYTES = 1 << 28  # of the grids held at once, twice over
NODES_AT_ONCE = 64  # of a sum over nodes
COLUMNS = 32  # of a matrix product


class GridTables(NamedTuple):
    """What depends on sizes and widths alone.

    Attributes:
        base_L: int32 ``[256]``, first node of each level.
        taps_L3: ``[256, 3]``.
        core_DD: M.
        modes_PK: ``[P, K]``, padded with zeros.
    """

    base_L: Tensor
    taps_L3: Tensor
    core_DD: Tensor
    modes_PK: Tensor


@lru_cache(maxsize=16)
def grid_tables(
    height: int, width: int, sigma_rgb: float, sigma_xy: float, tolerance: float, device: torch.device
) -> GridTables:
    """Tables for frames of one size; `tolerance` is the largest error of an entry of the spatial kernel."""
    modes_PK = spatial_modes(height, width, sigma_xy, tolerance, torch.float32, device)
    padded = max(16, 1 << (modes_PK.shape[1] - 1).bit_length())
    modes_PK = torch.nn.functional.pad(modes_PK, (0, padded - modes_PK.shape[1]))
    return GridTables(*color_grid(sigma_rgb, torch.float32, device), modes_PK)


def grid_product(
    fg_BHW: Tensor, frames_BCHW: Tensor, weights_BHW: Tensor | None, tables: GridTables, need: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """t'Wt and 1'W1 of each frame, float64 ``[B]``, and with `need` W (w t), ``[B, H, W]``.

    Args:
        fg_BHW: S, float32; may hold anything where the weight is 0.
        frames_BCHW: uint8 ``[B, 3, H, W]``.
        weights_BHW: w >= 0, float32; None: ones. t is 1 - 2 S times w here, and ones are w.
        tables: from :func:`grid_tables` for these frames.
        need: whether the third result is wanted.
    """
    floats = len(tables.core_DD) ** 3 * 2 * tables.modes_PK.shape[1]
    at_once = max(1, GRID_BYTES // (4 * floats))
    form_B2 = torch.empty(len(fg_BHW), 2, dtype=torch.float64, device=fg_BHW.device)
    product_BHW = torch.empty_like(fg_BHW, memory_format=torch.contiguous_format) if need else None
    for start in range(0, len(fg_BHW), at_once):
        some = slice(start, start + at_once)
        weights = None if weights_BHW is None else weights_BHW[some]
        product = None if product_BHW is None else product_BHW[some]
        fg, frames = fg_BHW[some].contiguous(), frames_BCHW[some].contiguous()
        form_B2[some] = _write_some(fg, frames, weights, tables, product)
    return form_B2[:, 0], form_B2[:, 1], product_BHW


def _write_some(
    fg_BHW: Tensor,
    frames_BCHW: Tensor,
    weights_BHW: Tensor | None,
    tables: GridTables,
    product_BHW: Tensor | None,
) -> Tensor:
    """Both forms, ``[B, 2]``; the product goes where it is wanted."""
    device, count, pixels = fg_BHW.device, len(fg_BHW), fg_BHW[0].numel()
    nodes, modes = len(tables.core_DD), tables.modes_PK.shape[1]
    weights, row, step = fg_BHW, 0, 0  # not read without weights
    if weights_BHW is not None:
        if weights_BHW.stride()[1:] == (0, 0):  # a mask of frames, expanded
            weights, row, step = weights_BHW[:, 0, 0].contiguous(), 1, 0
        else:
            weights, row, step = weights_BHW.contiguous(), pixels, 1
    grid = torch.zeros(count, nodes**3, 2 * modes, device=device)
    axes = (tables.base_L, tables.taps_L3, tables.modes_PK)
    blocks = (triton.cdiv(pixels, SPLAT_PIXELS), count)
    launch(jit.splat, blocks, frames_BCHW, fg_BHW, weights, row, step, *axes, grid, pixels,
           NODES=nodes, MODES=modes, WEIGHTED=weights_BHW is not None, BLOCK=SPLAT_PIXELS)  # fmt: skip
    coupled = grid
    spare = [torch.empty_like(grid), torch.empty_like(grid)]
    for axis in range(3):
        columns = nodes ** (2 - axis) * 2 * modes
        matrices = count * nodes**axis
        launch(jit.couple, (matrices, triton.cdiv(columns, COLUMNS)), tables.core_DD, coupled, spare[axis % 2],
               COLUMNS=columns, NODES=nodes, PADDED=max(16, 1 << (nodes - 1).bit_length()), BLOCK=COLUMNS)  # fmt: skip
        coupled = spare[axis % 2]
    sums = triton.cdiv(nodes**3, NODES_AT_ONCE)
    partial = torch.empty(count, sums, 2, dtype=torch.float64, device=device)
    launch(jit.forms, (sums, count), grid, coupled, partial, nodes**3, MODES=modes, BLOCK=NODES_AT_ONCE)
    if product_BHW is not None:
        blocks = (triton.cdiv(pixels, SLICE_PIXELS), count)
        launch(jit.slice_grid, blocks, frames_BCHW, *axes, coupled, product_BHW, pixels,
               NODES=nodes, MODES=modes, BLOCK=SLICE_PIXELS)  # fmt: skip
    return partial.sum(1)
