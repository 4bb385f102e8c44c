"""What the CAM methods share: a weighted sum over channels, and the stretch of a map to [0, 1].

Shape suffixes: B frames, C channels, h and w the size of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["min_max", "reciprocal", "weighted_sum"]

# A map whose range is below this share of its maximum differs from a constant only by float32 rounding of the sum over
# channels; stretching it to [0, 1] would turn that rounding into a picture.
FLAT = 1e-5


def weighted_sum(features_BChw: Tensor, weights_BChw: Tensor) -> Tensor:
    """Sum over channels of the features times their weights.

    Args:
        features_BChw: float ``[B, C, h, w]``.
        weights_BChw: float ``[B, C, h, w]``, or ``[B, C, 1, 1]`` for one weight per channel.

    Returns:
        ``[B, h, w]`` of the same dtype.
    """
    if weights_BChw.shape[2:] == (1, 1):  # one pass over the features, without a copy of them
        return torch.einsum("bchw,bc->bhw", features_BChw, weights_BChw[:, :, 0, 0])
    return (features_BChw * weights_BChw).sum(1)


def reciprocal(values: Tensor) -> Tensor:
    """1 / values, and 0 where a value is 0."""
    return values.reciprocal().masked_fill(values == 0, 0.0)


def min_max(cams_Bhw: Tensor) -> Tensor:
    """Stretch every map to [0, 1] by its own minimum and maximum; a flat map becomes all zero.

    Args:
        cams_Bhw: float maps ``[B, h, w]``.

    Returns:
        Maps of the same shape and dtype in [0, 1], never NaN for finite input.
    """
    low_B, high_B = cams_Bhw.amin((1, 2), keepdim=True), cams_Bhw.amax((1, 2), keepdim=True)
    range_B = high_B - low_B
    flat_B = range_B <= FLAT * torch.maximum(high_B.abs(), low_B.abs())
    return ((cams_Bhw - low_B) / range_B.masked_fill(flat_B, 1.0)).masked_fill(flat_B, 0.0)
