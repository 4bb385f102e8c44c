from __future__ import annotations

from typing import Any

import numpy as np
import torch

from colocam_dist.cams import build_cam_method
from colocam_dist.cams.maps import min_max


def formula(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Jiang et al.: every position of every channel is weighted by its own positive gradient."""
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        for i in range(A.shape[1]):
            for j in range(A.shape[2]):
                cam[i, j] += max(G[k, i, j], 0.0) * A[k, i, j]
    return np.maximum(cam, 0.0)


def test_is_the_published_formula(frames: Any, assert_maps: Any) -> None:
    method = build_cam_method("layercam")
    assert_maps(method(frames.classifier, frames.images, frames.labels).maps_Bhw, frames, formula)


def test_closed_form_behind_global_pooling(pooled: Any) -> None:
    """Reference facts 1.2: minmax(sum over k of relu(w_ck) A_k)."""
    features = pooled.classifier(pooled.images).features[-1]
    want = min_max(torch.einsum("bchw,bc->bhw", features, pooled.classifier.head.weight[pooled.labels].relu()))
    found = build_cam_method("layercam")(pooled.classifier, pooled.images, pooled.labels).maps_Bhw
    torch.testing.assert_close(found, want, rtol=0, atol=1e-6)
