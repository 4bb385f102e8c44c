"""LayerCAM of a classifier with a pooled linear head, in closed form.

Shape suffixes: B frames, C channels, K classes, h and w the size of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["layercam", "min_max"]

# A map whose range is below this share of its maximum differs from a constant only by float32 rounding of the sum over
# channels; stretching it to [0, 1] would turn that rounding into a picture.
FLAT = 1e-5


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


@torch.no_grad()
def layercam(features_BChw: Tensor, head_weight_KC: Tensor, labels_B: Tensor, *, normalize: bool = True) -> Tensor:
    """LayerCAM of each frame for its own label, without a backward pass.

    LayerCAM is ``relu(sum_k relu(dz_c/dA_k) A_k)``. With global average pooling and a linear head the gradient of the
    logit z_c is the constant ``w_ck / (h w)``, so one weighted sum over channels gives the map of the autograd
    definition (Jiang et al. 2021, used for the pseudo-labels of CoLo-CAM section 3.1). Computed in float32 also under
    autocast.

    Args:
        features_BChw: float ``[B, C, h, w]``, the features that the head pools.
        head_weight_KC: float ``[K, C]``, weight of the linear head.
        labels_B: integer ``[B]``, the class of each frame, in [0, K).
        normalize: stretch each map to [0, 1] by its minimum and maximum (a flat map becomes all zero).

    Returns:
        float32 ``[B, h, w]``; without ``normalize`` the raw values >= 0.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if features_BChw.dim() != 4 or labels_B.shape != features_BChw.shape[:1]:
        raise ValueError(
            f"layercam: wanted features [B, C, h, w] and labels [B], got {tuple(features_BChw.shape)} "
            f"and {tuple(labels_B.shape)}"
        )
    if head_weight_KC.dim() != 2 or head_weight_KC.shape[1] != features_BChw.shape[1]:
        raise ValueError(
            f"layercam: wanted a head weight [K, {features_BChw.shape[1]}] for features of {features_BChw.shape[1]} "
            f"channels, got {tuple(head_weight_KC.shape)}"
        )
    with torch.autocast(features_BChw.device.type, enabled=False):
        area = features_BChw.shape[2] * features_BChw.shape[3]
        weight_BC = head_weight_KC.float()[labels_B].relu() / area
        cams_Bhw = torch.einsum("bchw,bc->bhw", features_BChw.float(), weight_BC).relu()
        return min_max(cams_Bhw) if normalize else cams_Bhw
