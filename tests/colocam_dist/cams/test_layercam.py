from __future__ import annotations

import pytest
import torch
from torch import nn

from colocam_dist.cams import CAM_METHODS, layercam
from colocam_dist.cams.layercam import min_max


def autograd_layercam(features: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """The definition: gradients of each frame's own logit, obtained by a backward pass."""
    features = features.detach().requires_grad_()
    logits = head(features.mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)
    return (gradient.relu() * features).sum(1).relu().detach()


@pytest.fixture
def net() -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 19, 3), nn.ReLU())
    head = nn.Linear(19, 5)
    labels = torch.tensor([4, 0, 0, 2, 3])
    return backbone(torch.randn(5, 3, 27, 21)).detach(), head, labels


def test_equals_autograd_per_frame_label(net):
    features, head, labels = net
    truth = autograd_layercam(features, head, labels)
    raw = layercam(features, head.weight, labels, normalize=False)
    assert raw.shape == (5, 11, 8)
    torch.testing.assert_close(raw, truth, rtol=0, atol=1e-7)
    low, high = truth.amin((1, 2), keepdim=True), truth.amax((1, 2), keepdim=True)
    stretched = layercam(features, head.weight, labels)
    assert (stretched - (truth - low) / (high - low)).abs().max() <= 1e-5
    assert stretched.amin((1, 2)).eq(0).all()
    assert stretched.amax((1, 2)).eq(1).all()


def test_batch_equals_single_frames_and_labels_matter(net):
    features, head, labels = net
    batch = layercam(features, head.weight, labels)
    for frame in range(5):
        one = layercam(features[frame : frame + 1], head.weight, labels[frame : frame + 1])
        torch.testing.assert_close(batch[frame], one[0], rtol=0, atol=1e-6)
    other = layercam(features, head.weight, (labels + 1) % 5)
    assert (batch - other).abs().amax((1, 2)).min() > 1e-2


def test_flat_map_becomes_zero(net):
    _, head, labels = net
    constant = torch.rand(5, 19, 1, 1).expand(5, 19, 11, 8).contiguous()
    assert layercam(constant, head.weight, labels).eq(0).all()
    assert layercam(torch.zeros(5, 19, 11, 8), head.weight, labels).eq(0).all()
    assert min_max(torch.full((1, 3, 3), -2.5)).eq(0).all()


def test_weak_but_real_structure_is_not_flat():
    cam = torch.full((1, 4, 4), 1.0)
    cam[0, 1, 2] = 1.01
    assert min_max(cam)[0, 1, 2] == 1
    assert min_max(cam).sum() == 1


def test_float32_under_autocast(net):
    features, head, labels = net
    truth = layercam(features, head.weight, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layercam(features, head.weight, labels)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, truth)


def test_wrong_shapes_are_named(net):
    features, head, labels = net
    with pytest.raises(ValueError, match=r"labels \[B\]"):
        layercam(features, head.weight, labels[:-1])
    with pytest.raises(ValueError, match=r"head weight \[K, 19\]"):
        layercam(features, head.weight[:, :-1], labels)


def test_registry():
    assert CAM_METHODS["layercam"] is layercam
