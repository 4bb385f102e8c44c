from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from colocam_dist.cams import build_cam_method
from colocam_dist.cams.maps import min_max
from colocam_dist.errors import ConfigError


def test_is_the_published_formula(pooled: Any, assert_maps: Any) -> None:
    """Zhou et al.: M(x, y) = sum over k of w_ck f_k(x, y). Its mean is the logit without bias."""
    weight_KC = pooled.classifier.head.weight.double().numpy()
    labels = iter(pooled.labels.tolist())

    def formula(A: np.ndarray, _: np.ndarray) -> np.ndarray:
        label, cam = next(labels), np.zeros(A.shape[1:])
        for k in range(len(A)):
            cam += weight_KC[label, k] * A[k]
        assert cam.min() < 0, "a ReLU would go unnoticed"
        return cam

    assert_maps(build_cam_method("cam")(pooled.classifier, pooled.images, pooled.labels).maps_Bhw, pooled, formula)


def test_equals_layercam_where_no_weight_is_negative(pooled: Any) -> None:
    pooled.classifier.head.weight.data.abs_()
    cam, layercam = (
        build_cam_method(name)(pooled.classifier, pooled.images, pooled.labels).maps_Bhw for name in ("cam", "layercam")
    )
    torch.testing.assert_close(cam, layercam, rtol=0, atol=1e-6)


def test_gradcam_is_its_positive_part(pooled: Any) -> None:
    features = pooled.classifier(pooled.images).features[-1]
    weights = pooled.classifier.head.weight[pooled.labels]
    raw = torch.einsum("bchw,bc->bhw", features, weights)
    gradcam = build_cam_method("gradcam")(pooled.classifier, pooled.images, pooled.labels).maps_Bhw
    torch.testing.assert_close(gradcam, min_max(raw.relu()), rtol=0, atol=1e-6)


def test_other_heads_are_refused(curved: Any) -> None:
    with pytest.raises(ConfigError, match="use gradcam"):
        build_cam_method("cam")(curved.classifier, curved.images, curved.labels)
