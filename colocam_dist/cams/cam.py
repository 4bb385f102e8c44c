"""CAM (Zhou et al. 2016), "Learning Deep Features for Discriminative Localization", Eq. 2."""

from __future__ import annotations

from torch import Tensor

from colocam_dist.cams.maps import weighted_sum
from colocam_dist.errors import ConfigError

__all__ = ["cam"]


def cam(features_BChw: Tensor, gradients_BChw: Tensor) -> Tensor:
    """``sum_k w_ck A_k``, the weights of the linear layer behind global average pooling; no ReLU.

    The gradient of such a head is ``w_ck / (h w)``.

    Args:
        features_BChw: float ``[B, C, h, w]``.
        gradients_BChw: ``[B, C, 1, 1]``, constant over positions.

    Returns:
        ``[B, h, w]``, of either sign.

    Raises:
        ConfigError: the head is another one, for which CAM is not defined.
    """
    if gradients_BChw.shape[2:] != (1, 1):
        raise ConfigError(
            "CAM is defined only behind global average pooling and one linear layer",
            where="cams.method or evaluation.cams",
            got="a classifier with another head",
            wanted="the head WGAP",
            fix="use gradcam, which is the same up to its ReLU where both are defined",
        )
    area = features_BChw.shape[2] * features_BChw.shape[3]
    return weighted_sum(features_BChw, gradients_BChw * area)
