from __future__ import annotations

from typing import Any

import numpy as np
import torch

from colocam_dist.cams import build_cam_method
from colocam_dist.cams.xgradcam import xgradcam


def formula(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Fu et al.: the weight of a channel is the sum of its gradients, each times its share of the activation."""
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        alpha = 0.0
        for i in range(A.shape[1]):
            for j in range(A.shape[2]):
                alpha += A[k, i, j] / A[k].sum() * G[k, i, j] if A[k].sum() else 0.0
        cam += alpha * A[k]
    return np.maximum(cam, 0.0)


def test_is_the_published_formula(frames: Any, assert_maps: Any) -> None:
    method = build_cam_method("xgradcam")
    assert_maps(method(frames.classifier, frames.images, frames.labels).maps_Bhw, frames, formula)


def maps(name: str, frames: Any) -> torch.Tensor:
    return build_cam_method(name)(frames.classifier, frames.images, frames.labels).maps_Bhw


def test_is_gradcam_behind_global_pooling_and_only_there(pooled: Any, curved: Any) -> None:
    """With a gradient constant over positions, sum(g A) / sum(A) = g; channels that are zero add nothing to either."""
    torch.testing.assert_close(maps("xgradcam", pooled), maps("gradcam", pooled), rtol=0, atol=1e-5)
    assert (maps("xgradcam", curved) - maps("gradcam", curved)).abs().max() > 1e-2


def test_a_dead_channel_adds_nothing(curved: Any) -> None:
    features = torch.rand(2, 13, 7, 10)
    features[:, 4] = 0.0
    gradients = torch.randn(2, 13, 7, 10)
    alive = [k for k in range(13) if k != 4]
    found = xgradcam(features, gradients)
    assert found.isfinite().all()
    torch.testing.assert_close(found, xgradcam(features[:, alive], gradients[:, alive]), rtol=0, atol=1e-5)
