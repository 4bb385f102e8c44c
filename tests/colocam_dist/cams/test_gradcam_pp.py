from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from colocam_dist.cams import build_cam_method
from colocam_dist.cams.gradcam_pp import gradcam_pp
from colocam_dist.cams.maps import min_max


def formula(A: np.ndarray, G: np.ndarray, score: float = 0.7) -> np.ndarray:
    """Chattopadhyay et al. for Y = exp(score): alpha from the second and third derivative, weights from the first."""
    first, second, third = (np.exp(score) * G**power for power in (1, 2, 3))
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        weight = 0.0
        for i in range(A.shape[1]):
            for j in range(A.shape[2]):
                bottom = 2.0 * second[k, i, j] + A[k].sum() * third[k, i, j]
                weight += second[k, i, j] / bottom * max(first[k, i, j], 0.0) if second[k, i, j] else 0.0
        cam += weight * A[k]
    return np.maximum(cam, 0.0)


def test_is_the_published_formula(frames: Any, assert_maps: Any) -> None:
    method = build_cam_method("gradcam++")
    assert_maps(method(frames.classifier, frames.images, frames.labels).maps_Bhw, frames, formula)


def test_the_powers_are_derivatives_of_exp_of_the_score_behind_a_linear_head(pooled: Any) -> None:
    """Through three backward passes: d^p exp(s) / dA^p of a position, with the other positions held."""
    model = pooled.double()
    features = model.encoder(pooled.pixels(0))[-1].detach()
    label = int(pooled.labels[0])
    for k, i, j in ((0, 0, 0), (5, 3, 9), (12, 6, 2)):
        value = features[0, k, i, j].clone().requires_grad_()
        here = torch.zeros_like(features)
        here[0, k, i, j] = 1.0
        derivative = model.head(features * (1.0 - here) + value * here)[0, label].exp()
        want = derivative.item()
        gradient = model.head.weight[label, k].item() / 70.0
        for power in (1, 2, 3):
            (derivative,) = torch.autograd.grad(derivative, value, create_graph=True)
            assert derivative.item() == pytest.approx(want * gradient**power, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_small_gradients_lose_nothing(scale: float) -> None:
    """Gradients times s with features over s: alpha is the same, so is the map. No constant guards the division."""
    torch.manual_seed(4)
    features, gradients = torch.rand(3, 13, 7, 10), torch.randn(3, 13, 7, 10)
    want = min_max(gradcam_pp(features, gradients))
    torch.testing.assert_close(min_max(gradcam_pp(features / scale, gradients * scale)), want, rtol=0, atol=1e-5)


def test_is_neither_layercam_nor_what_is_left_without_the_denominator(pooled: Any) -> None:
    """torchcam 0.5.0 drops the denominator: its weights are sums of relu(g)^3."""
    features = pooled.classifier(pooled.images).features[-1] * 40.0  # so that the denominator is not about 2
    weights = pooled.classifier.head.weight[pooled.labels].relu()
    gradients = (weights / 70.0)[:, :, None, None]
    found = min_max(gradcam_pp(features, gradients))
    for wrong in (weights, weights**3):
        other = min_max(torch.einsum("bchw,bc->bhw", features, wrong))
        assert (found - other).abs().max() > 1e-2
