"""Archived CAMs brought to the pixels of an augmented frame.

Shape suffixes: B frames, h and w the archived size, S the side after resizing, X the side of the crop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_cams"]


def crop_cams(cams_Bhw: Tensor, crops_B3: Tensor, *, resize: int, crop: int) -> Tensor:
    """Resize each CAM as its frame was resized, then take the same crop and flip.

    The public code does this when it loads a CAM: bilinear (``align_corners=False``) to ``resize`` x ``resize``, the
    crop window of the frame, then its horizontal flip; values are not stretched again.

    Args:
        cams_Bhw: float (16 or 32 bit) ``[B, h, w]`` in [0, 1].
        crops_B3: integer ``[B, 3]`` of top, left (pixels of the resized frame, both in ``[0, resize - crop]``) and
            flip (0 or 1).
        resize: side of the resized frame in pixels.
        crop: side of the crop in pixels.

    Returns:
        float32 ``[B, crop, crop]`` in [0, 1].

    Raises:
        ValueError: wrong shapes, or a crop larger than the resized frame.
        IndexError: a window that leaves the frame on the right or at the bottom (CPU; CUDA asserts on the device).
    """
    if cams_Bhw.dim() != 3 or crops_B3.shape != (cams_Bhw.shape[0], 3):
        raise ValueError(
            f"crop_cams: wanted CAMs [B, h, w] and crops [B, 3], "
            f"got {tuple(cams_Bhw.shape)} and {tuple(crops_B3.shape)}"
        )
    if not 1 <= crop <= resize:
        raise ValueError(f"crop_cams: wanted 1 <= crop <= resize, got crop {crop} and resize {resize}")
    full_BSS = F.interpolate(cams_Bhw.float()[:, None], size=(resize, resize), mode="bilinear", align_corners=False)[
        :, 0
    ]
    top_B1, left_B1, flip_B1 = crops_B3.long().split(1, dim=1)
    along_X = torch.arange(crop, device=cams_Bhw.device)
    rows_BX = top_B1 + along_X
    cols_BX = left_B1 + torch.where(flip_B1 != 0, crop - 1 - along_X, along_X)
    frame_B = torch.arange(cams_Bhw.shape[0], device=cams_Bhw.device)
    return full_BSS[frame_B[:, None, None], rows_BX[:, :, None], cols_BX[:, None, :]]
