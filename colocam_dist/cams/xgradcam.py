"""XGrad-CAM (Fu et al. 2020), "Axiom-based Grad-CAM"."""

from __future__ import annotations

from torch import Tensor

from colocam_dist.cams.maps import reciprocal, weighted_sum

__all__ = ["xgradcam"]


def xgradcam(features_BChw: Tensor, gradients_BChw: Tensor) -> Tensor:
    """``relu(sum_k a_k A_k)`` with ``a_k`` the mean of the gradient weighted by the activation, ``sum(g A) / sum(A)``.

    With a gradient that is constant over positions this is Grad-CAM: ``a_k = g``. A channel whose activations sum to 0
    has no weight. The ReLU is that of the public implementations; the paper's equation has none.

    Args:
        features_BChw: float ``[B, C, h, w]``.
        gradients_BChw: ``[B, C, h, w]``, or ``[B, C, 1, 1]`` where it is constant over positions.

    Returns:
        ``[B, h, w]``, never negative.
    """
    total_BC11 = features_BChw.sum((2, 3), keepdim=True)
    share_BC11 = (features_BChw * gradients_BChw).sum((2, 3), keepdim=True)
    return weighted_sum(features_BChw, share_BC11 * reciprocal(total_BC11)).relu()
