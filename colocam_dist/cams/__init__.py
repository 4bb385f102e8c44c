"""Class activation maps (CAMs): how they are computed, archived and brought to the pixels of an augmented frame.

One method a file. All but Smooth Grad-CAM++ are formulas of the last features and of the gradients of the class score
with respect to them.
"""

from __future__ import annotations

from colocam_dist.cams.align import crop_cams
from colocam_dist.cams.archive import ArchiveWriter, CamArchive, CamIdentity
from colocam_dist.cams.cam import cam
from colocam_dist.cams.gradcam import gradcam
from colocam_dist.cams.gradcam_pp import gradcam_pp
from colocam_dist.cams.layercam import layercam
from colocam_dist.cams.method import CamMethod, CamOutput, Formula, OnePassCam
from colocam_dist.cams.smoothgradcam_pp import SmoothGradCamPP
from colocam_dist.cams.xgradcam import xgradcam
from colocam_dist.errors import ConfigError

__all__ = [
    "CAM_METHODS",
    "ArchiveWriter",
    "CamArchive",
    "CamIdentity",
    "CamMethod",
    "CamOutput",
    "OnePassCam",
    "SmoothGradCamPP",
    "build_cam_method",
    "crop_cams",
]

_FORMULAS: dict[str, Formula] = {
    "cam": cam,
    "gradcam": gradcam,
    "gradcam++": gradcam_pp,
    "xgradcam": xgradcam,
    "layercam": layercam,
}
_SMOOTH = "smoothgradcam++"
CAM_METHODS = (*_FORMULAS, _SMOOTH)


def build_cam_method(name: str, smooth: SmoothGradCamPP | None = None) -> CamMethod:
    """A CAM method by name.

    Args:
        name: one of ``CAM_METHODS``.
        smooth: Smooth Grad-CAM++ as it is wanted; None for its defaults.

    Raises:
        ConfigError: unknown name.
    """
    if name == _SMOOTH:
        return smooth or SmoothGradCamPP()
    if name not in _FORMULAS:
        raise ConfigError("unknown CAM method", where="cams.method", got=name, wanted=", ".join(CAM_METHODS))
    return OnePassCam(name, _FORMULAS[name])
