"""The affinity of one frame on a spline grid in torch: for CPUs, for float64, and for devices without Triton.

C = 3 color channels, H and W the frame's pixels, P = H * W, L = 256 levels, J = 27 nodes of a pixel, D grid nodes per
axis, K spatial modes, E = 2 K: modes times t, then modes times 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from colocam_dist.kernels.gaussian import color_grid, spatial_modes

__all__ = ["GridAffinity"]

GRID_ENTRIES = 1 << 24  # of the grid held at once; a narrow color kernel needs many nodes


class _Spread(NamedTuple):
    """B of one frame: the node of each pixel's first corner, the other nodes relative to it, and their weights."""

    corner_P: Tensor
    offset_J: Tensor
    weight_PJ: Tensor


@dataclass(frozen=True)
class GridAffinity:
    """The form in this module's head, for one frame.

    The pixels of a grid cell are summed before they reach the grid, which is 4 times as fast on a CPU; to ask how many
    cells are in use makes the host wait for a device.
    """

    sigma_rgb: float
    sigma_xy: float
    tolerance: float

    def forms(
        self, frames_NCHW: Tensor, t_NHW: Tensor, ones_NHW: Tensor, need: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """t'Wt, 1'W1 and, with `need`, W t (else zeros); N = 1."""
        dtype, device = t_NHW.dtype, t_NHW.device
        base_L, taps_L3, core_DD = color_grid(self.sigma_rgb, dtype, device)
        modes_PK = spatial_modes(*t_NHW.shape[1:], self.sigma_xy, self.tolerance, dtype, device)
        spread = _spread(frames_NCHW[0], base_L, taps_L3, len(core_DD))
        t_P1, ones_P1 = t_NHW.reshape(-1, 1), ones_NHW.reshape(-1, 1)
        filtered_P = torch.zeros_like(t_P1[:, 0])
        form = total = torch.zeros((), dtype=torch.float64, device=device)
        for some_PK in modes_PK.split(max(1, GRID_ENTRIES // (2 * len(core_DD) ** 3)), 1):
            grid = _splat(spread, torch.cat([some_PK * t_P1, some_PK * ones_P1], 1), len(core_DD))
            coupled = _couple(grid, core_DD)
            form_E = (grid * coupled).sum(0, dtype=torch.float64)
            form_t, form_1 = form_E.view(2, -1).sum(1)
            form, total = form + form_t, total + form_1
            if need:
                filtered_P += (_slice(spread, coupled[:, : some_PK.shape[1]].contiguous()) * some_PK).sum(1)
        return form, total, filtered_P.view(t_NHW.shape)


def _spread(frame_CHW: Tensor, base_L: Tensor, taps_L3: Tensor, nodes: int) -> _Spread:
    red, green, blue = frame_CHW.int().flatten(1)
    corner_P = (base_L[red] * nodes + base_L[green]) * nodes + base_L[blue]
    step = torch.arange(taps_L3.shape[1], dtype=torch.int32, device=frame_CHW.device)
    offset_J = ((step[:, None, None] * nodes + step[:, None]) * nodes + step).flatten()
    weight = taps_L3[red][:, :, None, None] * taps_L3[green][:, None, :, None] * taps_L3[blue][:, None, None, :]
    return _Spread(corner_P, offset_J, weight.flatten(1))


def _splat(spread: _Spread, values_PE: Tensor, nodes: int) -> Tensor:
    """B' v, ``[nodes³, E]``, with pixels sorted so that each sum of a cell is over a bag of neighbors."""
    corner_P, order_P = spread.corner_P.sort(stable=True)
    corner_M, count_M = corner_P.unique_consecutive(return_counts=True)
    pixels, n_offsets = len(order_P), len(spread.offset_J)
    first_JM = (count_M.cumsum(0) - count_M) + pixels * torch.arange(n_offsets, device=order_P.device)[:, None]
    sums = F.embedding_bag(
        order_P.repeat(n_offsets),
        values_PE,
        first_JM.flatten(),
        mode="sum",
        per_sample_weights=spread.weight_PJ[order_P].T.flatten(),
    )
    grid = values_PE.new_zeros(nodes**3, values_PE.shape[1])
    return grid.index_add_(0, (corner_M + spread.offset_J[:, None]).flatten(), sums)


def _couple(grid: Tensor, core_DD: Tensor) -> Tensor:
    """(M x M x M) h."""
    nodes, entries = len(core_DD), grid.shape[1]
    by_red = (core_DD @ grid.view(nodes, -1)).view(nodes, nodes, -1)
    return (core_DD @ (core_DD @ by_red).view(nodes * nodes, nodes, entries)).view(-1, entries)


def _slice(spread: _Spread, grid: Tensor) -> Tensor:
    """B q, ``[P, E]``: the transpose of :func:`_splat`."""
    nodes_PJ = spread.corner_P[:, None] + spread.offset_J
    return F.embedding_bag(nodes_PJ, grid, mode="sum", per_sample_weights=spread.weight_PJ)
