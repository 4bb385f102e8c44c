from __future__ import annotations

from typing import Any

import numpy as np

from colocam_dist.cams import build_cam_method


def formula(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Selvaraju et al., Eq. 1 and 2."""
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        alpha = G[k].sum() / G[k].size
        cam += alpha * A[k]
    return np.maximum(cam, 0.0)


def test_is_the_published_formula(frames: Any, assert_maps: Any) -> None:
    method = build_cam_method("gradcam")
    assert_maps(method(frames.classifier, frames.images, frames.labels).maps_Bhw, frames, formula)
