"""Grad-CAM++ (Chattopadhyay et al. 2018).

The method differentiates ``Y = exp(score)``. Behind a piecewise linear rest of the network the derivatives of Y are
``exp(score)`` times the powers of the gradient g of the score, so that ``exp(score)`` cancels in
``alpha = g^2 / (2 g^2 + S g^3)``, S = sum of the feature map, and scales the whole map elsewhere. Like all public
implementations we take the powers for any head.
"""

from __future__ import annotations

from torch import Tensor

from colocam_dist.cams.maps import reciprocal, weighted_sum

__all__ = ["gradcam_pp"]


def gradcam_pp(features_BChw: Tensor, gradients_BChw: Tensor) -> Tensor:
    """``relu(sum_k w_k A_k)``, ``w_k`` = mean over positions of ``alpha relu(g)``.

    ``g^2`` is divided out of alpha: behind pooling g is about 1e-5, and any constant that guards ``g^2`` against a
    division by zero would change the map. Where g is positive, ``alpha relu(g) = g / (2 + S g)``; elsewhere it is 0.
    The paper's sum over positions is a mean here, which is the same map once it is stretched.

    Args:
        features_BChw: float ``[B, C, h, w]``, never negative (then ``2 + S g >= 2``).
        gradients_BChw: ``[B, C, h, w]``, or ``[B, C, 1, 1]`` where it is constant over positions.

    Returns:
        ``[B, h, w]``, never negative.
    """
    positive_BChw = gradients_BChw.relu()
    total_BC11 = features_BChw.sum((2, 3), keepdim=True)
    weights_BChw = positive_BChw * reciprocal(2.0 + total_BC11 * positive_BChw)
    return weighted_sum(features_BChw, weights_BChw.mean((2, 3), keepdim=True)).relu()
