"""LayerCAM (Jiang et al. 2021): the pseudo-labels of CoLo-CAM (section 3.1)."""

from __future__ import annotations

from torch import Tensor

from colocam_dist.cams.maps import weighted_sum

__all__ = ["layercam"]


def layercam(features_BChw: Tensor, gradients_BChw: Tensor) -> Tensor:
    """``relu(sum_k relu(g_k) A_k)``: every position has a weight of its own.

    Args:
        features_BChw: float ``[B, C, h, w]``.
        gradients_BChw: ``[B, C, h, w]``, or ``[B, C, 1, 1]`` where it is constant over positions.

    Returns:
        ``[B, h, w]``, never negative.
    """
    return weighted_sum(features_BChw, gradients_BChw.relu()).relu()
