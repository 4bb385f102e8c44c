"""The affinity by its definition, in tiles: O(P²) time, O(P) memory. The oracle for everything faster."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact_product"]

TILE_ENTRIES = 1 << 23  # of the affinity matrix held at once


def exact_product(
    features_PD: Tensor, t_P: Tensor, valid_P: Tensor, need: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """t'Wt, 1'W1 and W t with W_pq = exp(-|f_p - f_q|² / 2).

    Computed in float64; distances are sums of squared differences, so nothing cancels.

    Args:
        features_PD: float ``[P, D]``, each axis divided by its sigma.
        t_P: float ``[P]``, 0 where not valid.
        valid_P: bool ``[P]``.
        need: whether W t is wanted.
    """
    features_PD = features_PD.double()
    pair_P2 = torch.stack([t_P.double(), valid_P.double()], 1)
    filtered_P2 = torch.empty_like(pair_P2)
    rows = max(1, TILE_ENTRIES // max(1, len(t_P)))
    for start in range(0, len(t_P), rows):
        part_TD = features_PD[start : start + rows]
        distance_TP = (part_TD[:, 0, None] - features_PD[:, 0]).square_()
        for axis in range(1, features_PD.shape[1]):
            distance_TP += (part_TD[:, axis, None] - features_PD[:, axis]).square_()
        filtered_P2[start : start + rows] = distance_TP.mul_(-0.5).exp_() @ pair_P2
    form, total = (filtered_P2 * pair_P2).sum(0)
    return form, total, filtered_P2[:, 0].to(t_P.dtype) if need else None
