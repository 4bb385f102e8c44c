"""Grad-CAM (Selvaraju et al. 2017), Eq. 1 and 2."""

from __future__ import annotations

from torch import Tensor

from colocam_dist.cams.maps import weighted_sum

__all__ = ["gradcam"]


def gradcam(features_BChw: Tensor, gradients_BChw: Tensor) -> Tensor:
    """``relu(sum_k a_k A_k)`` with ``a_k`` the mean over positions of the gradient.

    Args:
        features_BChw: float ``[B, C, h, w]``.
        gradients_BChw: ``[B, C, h, w]``, or ``[B, C, 1, 1]`` where it is constant over positions.

    Returns:
        ``[B, h, w]``, never negative.
    """
    return weighted_sum(features_BChw, gradients_BChw.mean((2, 3), keepdim=True)).relu()
