"""CLIP-ES's refinement of a CAM by the attention of the image tower (class-aware attention-based affinity).

Shape suffixes: B frames, N patches (h x w), L blocks of the tower.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from colocam_dist.cams.maps import min_max
from colocam_dist.evaluation.boxes import all_boxes_over_thresholds

__all__ = ["BLOCKS", "affinity", "box_mask", "refine"]

BLOCKS = 8
"""How many of the last blocks' attentions are averaged."""
BALANCINGS = 3
THRESHOLD = 0.4


def affinity(attention_BNN: Tensor) -> Tensor:
    """How much each patch takes from each other one.

    Attention is made doubly stochastic by dividing by the sums of columns, then of rows, three times (Sinkhorn); the
    mean of it and its transpose is multiplied with itself, which is one more step of a walk over similar patches.

    Args:
        attention_BNN: float ``[B, N, N]``, > 0, attention of patches (rows) to patches.

    Returns:
        Symmetric, of the same shape.
    """
    for _ in range(BALANCINGS):
        attention_BNN = attention_BNN / attention_BNN.sum(1, keepdim=True)
        attention_BNN = attention_BNN / attention_BNN.sum(2, keepdim=True)
    symmetric_BNN = (attention_BNN + attention_BNN.transpose(1, 2)) / 2
    return symmetric_BNN @ symmetric_BNN


def box_mask(cams_Bhw: Tensor) -> Tensor:
    """Patches within a box around any part of the CAM above 0.4 of its maximum.

    The boxes are those of :mod:`colocam_dist.evaluation.boxes`, and as in CLIP-ES's code their end is left out, so that
    a box that reaches the right or lower border lacks the patches there.

    Args:
        cams_Bhw: float ``[B, h, w]`` in [0, 1].

    Returns:
        bool ``[B, h, w]``, on the CAMs' device.
    """
    masks = np.zeros(tuple(cams_Bhw.shape), np.bool_)
    threshold = np.array([THRESHOLD])
    for mask_hw, cam_hw in zip(masks, cams_Bhw.float().cpu().numpy(), strict=True):
        for x0, y0, x1, y1 in all_boxes_over_thresholds(cam_hw, threshold)[0].tolist():
            mask_hw[y0:y1, x0:x1] = True
    return torch.from_numpy(masks).to(cams_Bhw.device)


def refine(cams_Bhw: Tensor, affinity_BNN: Tensor) -> Tensor:
    """Spread each CAM from the patches of its boxes to similar patches.

    Args:
        cams_Bhw: float ``[B, h, w]`` in [0, 1].
        affinity_BNN: see :func:`affinity`.

    Returns:
        float ``[B, h, w]``, stretched to [0, 1]; zero where the CAM has no box.
    """
    inside_Bhw = cams_Bhw * box_mask(cams_Bhw)
    return min_max((affinity_BNN @ inside_Bhw.flatten(1)[:, :, None]).view_as(cams_Bhw))
