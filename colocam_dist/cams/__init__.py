"""Class activation maps (CAMs): how they are computed, archived and brought to the pixels of an augmented frame."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from colocam_dist.cams.align import crop_cams
from colocam_dist.cams.archive import ArchiveWriter, CamArchive, CamIdentity
from colocam_dist.cams.layercam import layercam

__all__ = ["CAM_METHODS", "ArchiveWriter", "CamArchive", "CamIdentity", "CamMethod", "crop_cams", "layercam"]


class CamMethod(Protocol):
    """Maps of a batch of frames from the features, the head's weight and one label per frame.

    Shapes as in :func:`colocam_dist.cams.layercam.layercam`: ``[B, C, h, w]``, ``[K, C]``, ``[B]`` -> float32
    ``[B, h, w]``, in [0, 1] with ``normalize``.
    """

    def __call__(
        self, features_BChw: Tensor, head_weight_KC: Tensor, labels_B: Tensor, *, normalize: bool = True
    ) -> Tensor: ...


CAM_METHODS: dict[str, CamMethod] = {"layercam": layercam}
