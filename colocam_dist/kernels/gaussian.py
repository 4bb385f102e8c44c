"""One-dimensional Gaussian matrices on integer grids, in compact forms.

Computed once in float64 with numpy (so that shapes are known also where torch only traces), cached as tensors.
L = 256 levels of a color channel, K rank, D grid nodes, T taps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "LEVELS",
    "BlueGrid",
    "blue_grid",
    "color_grid",
    "color_grid_nodes",
    "color_rank",
    "color_tolerance",
    "gaussian_factor",
    "padded_rank",
    "spatial_modes",
]

LEVELS = 256  # of one uint8 color channel
# Of the color grid; 1.25 doubles the error; 2 leaves a third of it at half again to twice the cost.
NODES_PER_SIGMA = 1.5
MIXED_NODES_PER_SIGMA = 2.25  # of the mixed form's one grid axis, where a node costs little
FITS = 30  # turns of the fit, 0.1 s once; 10 leave a third more error, 100 a tenth less

Array = NDArray[np.float64]


def color_tolerance(dtype: torch.dtype) -> float:
    """Largest error of an entry of a color axis that does not show in results of this type."""
    return 1e-12 if dtype == torch.float64 else 1e-6


def color_rank(sigma: float, dtype: torch.dtype) -> int:
    """Columns of the color axis's factor: ``gaussian_factor(256, sigma, ...)``."""
    return _factor(LEVELS, sigma, color_tolerance(dtype)).shape[1]


def padded_rank(sigma: float, dtype: torch.dtype) -> int:
    """The rank as Triton's kernels hold it: a power of 2, at least 16."""
    return max(16, 1 << (color_rank(sigma, dtype) - 1).bit_length())


@lru_cache(maxsize=64)
def gaussian_factor(size: int, sigma: float, tolerance: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """U ``[size, rank]`` with U U' = G, G_ij = exp(-(i - j)² / (2 sigma²)), to twice `tolerance` in every entry.

    Eigenvectors scaled by the roots of their eigenvalues, of the smallest rank that suffices: at size 256 and sigma 15
    it is 32 for 1e-6 and 47 for 1e-12. The diagonal is exact, so that letterbox bars and frames of one color are.
    """
    return torch.from_numpy(_factor(size, sigma, tolerance)).to(device, dtype)


@lru_cache(maxsize=64)
def spatial_modes(
    height: int, width: int, sigma: float, tolerance: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """V ``[height * width, modes]`` with V V' = the Gaussian of pixel distance, to `tolerance` in every entry.

    Products of one-dimensional eigenvectors, the strongest ones that suffice: 10 at 112 px and 22 at 224 px for sigma
    100 and 1e-3.
    """
    rows, cols = _factor(height, sigma, 1e-14), _factor(width, sigma, 1e-14)
    strength = np.square(rows).sum(0)[:, None] * np.square(cols).sum(0)
    kept = []
    missing = np.ones((height, width))
    for pair in np.argsort(-strength, axis=None, kind="stable").tolist():
        mode = rows[:, pair // strength.shape[1], None] * cols[:, pair % strength.shape[1]]
        kept.append(mode.ravel())
        missing -= np.square(mode)  # the diagonal of what is left, which bounds every other entry of it
        if missing.max() <= tolerance:
            break
    return torch.from_numpy(np.stack(kept, 1)).to(device, dtype)


@lru_cache(maxsize=64)
def color_grid(sigma: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First node int32 ``[256]``, taps ``[256, 3]`` and core M ``[nodes, nodes]`` with B M B' = G for 256 levels.

    Row i of B holds the three taps of level i at its first node and the two after it. The diagonal is exact, so that
    frames of one color are. Largest error of an entry at sigma 15: 3.3e-3.
    """
    grid = _fitted_grid(sigma, _color_step(sigma), 3)
    taps_LT, core_DD = (torch.from_numpy(part).to(device, dtype) for part in (grid.taps_LT, grid.core_DD))
    return torch.from_numpy(grid.base_L).int().to(device), taps_LT, core_DD


def color_grid_nodes(sigma: float) -> int:
    """Nodes per axis of :func:`color_grid`."""
    return int((LEVELS - 1) / _color_step(sigma) + 0.5) + 3


def _color_step(sigma: float) -> float:
    return max(1.0, sigma / NODES_PER_SIGMA)


class BlueGrid(NamedTuple):
    """One color axis on a spline grid of D nodes: B F (B F)' = G for 256 levels, B of four taps per level.

    Attributes:
        base_L: int32 ``[256]``, first node of each level.
        taps_LT: ``[256, 4]``, weights of that node and the three after it.
        factor_DK: F ``[D, rank]``, of the same rank as :func:`gaussian_factor`, with columns of zeros if need be.
        factor_LK: B F ``[256, rank]``.
    """

    base_L: Tensor
    taps_LT: Tensor
    factor_DK: Tensor
    factor_LK: Tensor


@lru_cache(maxsize=64)
def blue_grid(sigma: float, dtype: torch.dtype, device: torch.device) -> BlueGrid:
    """The spline axis of the mixed form. Largest error of an entry at sigma 15: 2e-4, with 42 nodes."""
    grid = _fitted_grid(sigma, max(1.0, sigma / MIXED_NODES_PER_SIGMA), 4)
    values, vectors = np.linalg.eigh((grid.core_DD + grid.core_DD.T) / 2)
    rank = color_rank(sigma, dtype)
    factor_DK = np.zeros((len(values), rank))
    strongest = slice(len(values), None if len(values) <= rank else len(values) - rank - 1, -1)
    chosen = vectors[:, strongest] * np.sqrt(values[strongest].clip(min=0.0))
    factor_DK[:, : chosen.shape[1]] = chosen
    parts = (grid.taps_LT, factor_DK, grid.spread_LD @ factor_DK)
    return BlueGrid(
        torch.from_numpy(grid.base_L).int().to(device), *(torch.from_numpy(part).to(device, dtype) for part in parts)
    )


@lru_cache(maxsize=64)
def _factor(size: int, sigma: float, tolerance: float) -> Array:
    values, vectors = np.linalg.eigh(_gaussian(size, sigma))
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
    # Entry (i, j) misses sum_k>r l_k v_ik v_jk; by Cauchy-Schwarz its largest entry stands on the diagonal.
    missing = (values * np.square(vectors))[:, ::-1].cumsum(1)[:, ::-1].max(0)
    rank = max(1, int((missing > tolerance).sum()))
    factor = vectors[:, :rank] * np.sqrt(values[:rank])
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


class _Grid(NamedTuple):
    base_L: NDArray[np.int64]
    taps_LT: Array
    spread_LD: Array
    core_DD: Array


@lru_cache(maxsize=16)
def _fitted_grid(sigma: float, step: float, taps: int) -> _Grid:
    """A spline grid for the Gaussian of 256 levels: B (`spread_LD`) and M with B M B' = G.

    M is the least-squares fit for given taps, and the taps of each level the fit for a given M, in turns, from
    B-splines of degree `taps` - 1 on; at the end the diagonal is made exact.
    """
    place_L = np.arange(LEVELS) / step
    base_L = np.floor(place_L + 0.5 * (taps % 2)).astype(np.int64)
    # Node base + j stands j - 1 steps after the level's place on the grid, rounded (quadratic) or cut off (cubic).
    taps_LT = _b_spline(np.abs((place_L - base_L)[:, None] - np.arange(taps) + 1.0), taps)
    nodes_LT = base_L[:, None] + np.arange(taps)
    target_LL = _gaussian(LEVELS, sigma)
    for _ in range(FITS):
        spread_LD, core_DD = _grid_core(nodes_LT, taps_LT, target_LL)
        seen_LTL = (core_DD @ spread_LD.T)[nodes_LT]
        normal_LTT = seen_LTL @ seen_LTL.transpose(0, 2, 1)
        inverse_LTT = np.linalg.pinv(normal_LTT, rcond=1e-13, hermitian=True)  # a node of narrow kernels may be unused
        taps_LT = (inverse_LTT @ (seen_LTL @ target_LL[:, :, None]))[:, :, 0]
    spread_LD, core_DD = _grid_core(nodes_LT, taps_LT, target_LL)
    size_L1 = np.sqrt(np.einsum("ld,de,le->l", spread_LD, core_DD, spread_LD))[:, None]
    return _Grid(base_L, taps_LT / size_L1, spread_LD / size_L1, core_DD)


def _b_spline(distance: Array, taps: int) -> Array:
    """Quadratic (3 taps) or cubic (4 taps) B-spline at a distance in nodes."""
    if taps == 3:
        return np.where(distance < 0.5, 0.75 - distance**2, 0.5 * (1.5 - distance).clip(min=0.0) ** 2)
    inner = (4.0 - 6.0 * distance**2 + 3.0 * distance**3) / 6.0
    return np.where(distance < 1.0, inner, (2.0 - distance).clip(min=0.0) ** 3 / 6.0)


def _grid_core(nodes_LT: NDArray[np.int64], taps_LT: Array, target_LL: Array) -> tuple[Array, Array]:
    """B, and the symmetric M with the smallest |B M B' - target|."""
    spread_LD = np.zeros((len(taps_LT), int(nodes_LT.max()) + 1))
    np.put_along_axis(spread_LD, nodes_LT, taps_LT, axis=1)
    inverse_DL = np.linalg.pinv(spread_LD)
    return spread_LD, inverse_DL @ target_LL @ inverse_DL.T


def _gaussian(size: int, sigma: float) -> Array:
    grid = np.arange(size, dtype=np.float64)
    return np.exp(-np.square(grid[:, None] - grid) / (2.0 * sigma**2))
