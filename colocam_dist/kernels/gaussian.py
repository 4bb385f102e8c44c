"""One-dimensional Gaussian matrices on integer grids, in compact forms. All are computed in float64 and cached."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["LEVELS", "color_grid", "gaussian_factor", "spatial_modes"]

LEVELS = 256  # of one uint8 color channel
NODES_PER_SIGMA = (
    1.5  # of the color grid; 1.25 doubles the error; 2 leaves a third of it at half again to twice the cost
)
FITS = 30  # turns of the fit, 0.1 s once; 10 leave a third more error, 100 a tenth less


@lru_cache(maxsize=64)
def gaussian_factor(size: int, sigma: float, tolerance: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """U ``[size, rank]`` with U U' = G, G_ij = exp(-(i - j)² / (2 sigma²)), to twice `tolerance` in every entry.

    Eigenvectors scaled by the roots of their eigenvalues, of the smallest rank that suffices: at size 256 and sigma 15
    it is 32 for 1e-6 and 47 for 1e-12. Computed in float64, cached per device.
    """
    values, vectors = torch.linalg.eigh(_gaussian(size, sigma))
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    # Entry (i, j) misses sum_k>r l_k v_ik v_jk; by Cauchy-Schwarz its largest entry stands on the diagonal.
    missing = (values * vectors.square()).flip(1).cumsum(1).flip(1).amax(0)
    rank = max(1, int((missing > tolerance).sum()))
    factor = vectors[:, :rank] * values[:rank].sqrt()
    # An exact diagonal, so that letterbox bars and frames of one color have no error.
    return (factor / factor.norm(dim=1, keepdim=True)).to(device, dtype)


@lru_cache(maxsize=64)
def spatial_modes(
    height: int, width: int, sigma: float, tolerance: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """V ``[height * width, modes]`` with V V' = the Gaussian of pixel distance, to `tolerance` in every entry.

    Products of one-dimensional eigenvectors, the strongest ones that suffice: 10 at 112 px and 22 at 224 px for sigma
    100 and 1e-3.
    """
    exact = 1e-14
    rows, cols = (gaussian_factor(side, sigma, exact, torch.float64, torch.device("cpu")) for side in (height, width))
    strength = rows.square().sum(0)[:, None] * cols.square().sum(0)
    order = strength.flatten().argsort(descending=True).tolist()
    kept: list[Tensor] = []
    missing = torch.ones(height, width, dtype=torch.float64)
    for pair in order:
        mode = rows[:, pair // strength.shape[1], None] * cols[:, pair % strength.shape[1]]
        kept.append(mode.flatten())
        missing -= mode.square()  # the diagonal of what is left, which bounds every other entry of it
        if missing.max() <= tolerance:
            break
    return torch.stack(kept, 1).to(device, dtype)


@lru_cache(maxsize=64)
def color_grid(sigma: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First node int32 ``[256]``, taps ``[256, 3]`` and core M ``[nodes, nodes]`` with B M B' = G for 256 levels.

    Row i of B holds the three taps of level i at its first node and the two after it. M is the least-squares fit for
    given taps, and the taps of each level the fit for a given M, in turns from quadratic B-splines on; at the end the
    diagonal is made exact, so that frames of one color are. Largest error of an entry at sigma 15: 3.3e-3.
    """
    step = max(1.0, sigma / NODES_PER_SIGMA)
    place_L = torch.arange(LEVELS, dtype=torch.float64) / step
    base_L = torch.floor(place_L + 0.5)
    rest_L = place_L - base_L
    taps_L3 = torch.stack([0.5 * (0.5 - rest_L) ** 2, 0.75 - rest_L**2, 0.5 * (0.5 + rest_L) ** 2], 1)
    nodes_L3 = base_L.long()[:, None] + torch.arange(3)
    target_LL = _gaussian(LEVELS, sigma)
    for _ in range(FITS):
        spread_LD, core_DD = _grid_core(nodes_L3, taps_L3, target_LL)
        seen_L3L = (core_DD @ spread_LD.T)[nodes_L3]
        taps_L3 = torch.linalg.lstsq(seen_L3L.mT, target_LL[:, :, None]).solution[:, :, 0]
    spread_LD, core_DD = _grid_core(nodes_L3, taps_L3, target_LL)
    taps_L3 = taps_L3 / (spread_LD @ core_DD @ spread_LD.T).diagonal().sqrt()[:, None]
    return base_L.int().to(device), taps_L3.to(device, dtype), core_DD.to(device, dtype)


def _grid_core(nodes_L3: Tensor, taps_L3: Tensor, target_LL: Tensor) -> tuple[Tensor, Tensor]:
    """B, and the symmetric M with the smallest |B M B' - target|."""
    spread_LD = taps_L3.new_zeros(len(taps_L3), int(nodes_L3.max()) + 1).scatter_(1, nodes_L3, taps_L3)
    inverse_DL = torch.linalg.pinv(spread_LD)
    return spread_LD, inverse_DL @ target_LL @ inverse_DL.T


def _gaussian(size: int, sigma: float) -> Tensor:
    grid = torch.arange(size, dtype=torch.float64)
    return torch.exp(-(grid[:, None] - grid).square() / (2.0 * sigma**2))
