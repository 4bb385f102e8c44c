from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from colocam_dist.cams.gradients import class_gradients


def gradients(frames: Any) -> torch.Tensor:
    features = frames.classifier(frames.images).features[-1]
    return class_gradients(frames.classifier.head, features, frames.labels)


def test_equal_those_of_a_backward_pass_through_the_whole_network(frames: Any) -> None:
    found = gradients(frames)
    assert found.dtype == torch.float32
    for frame in range(4):
        _, want = frames.derivatives(frame)
        np.testing.assert_allclose(found[frame].expand(13, 7, 10).numpy(), want, rtol=1e-4, atol=1e-8)


def test_the_closed_form_is_one_number_per_channel_and_that_of_autograd(pooled: Any) -> None:
    assert gradients(pooled).shape == (4, 13, 1, 1)
    head = torch.nn.Sequential(pooled.classifier.head)  # no longer known as WGAP
    features = pooled.classifier(pooled.images).features[-1]
    derived = class_gradients(head, features, pooled.labels)
    assert derived.shape == features.shape
    torch.testing.assert_close(derived, gradients(pooled).expand_as(derived), rtol=1e-6, atol=1e-9)


def test_a_subclass_of_the_pooled_head_is_differentiated(pooled: Any) -> None:
    class Squared(type(pooled.classifier.head)):
        def forward(self, features_BChw: torch.Tensor) -> torch.Tensor:
            return super().forward(features_BChw.square())

    weight = pooled.classifier.head.weight
    pooled.classifier.head = Squared(13, 5)
    pooled.classifier.head.weight = weight
    features = pooled.classifier(pooled.images).features[-1]
    want = 2.0 * features * (weight[pooled.labels] / 70.0)[:, :, None, None]
    torch.testing.assert_close(gradients(pooled), want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_heads_of_other_types_are_differentiated_in_float32(dtype: torch.dtype, curved: Any) -> None:
    features = curved.classifier(curved.images).features[-1]
    rounded = curved.classifier.head.to(dtype)
    found = class_gradients(rounded, features.to(dtype), curved.labels)
    want = class_gradients(rounded.float(), features.to(dtype).float(), curved.labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, want)
