"""A small classifier with heads of two kinds, and features and gradients of its frames by full backward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from colocam_dist.models.encoders.base import Encoder
from colocam_dist.models.localizer import Classifier

CLASSES = 5


class SmallEncoder(Encoder):
    """Two convolutions with BatchNorm; 31 x 43 pixels become 15 x 21 and 7 x 10."""

    name = "small"
    strides = (4,)
    feature_channels = (6, 13)
    decoder_channels = (8, 8)

    def __init__(self) -> None:
        super().__init__(None)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 13, 3, stride=2), nn.BatchNorm2d(13), nn.ReLU())

    def forward(self, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(images_BCHW)
        return [first, self.second(first)]

    def fast_parameters(self) -> list[nn.Parameter]:
        return []


class CurvedHead(nn.Module):
    """A head whose gradient depends on the features and on the position, and has both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(13, 9, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.out = nn.Linear(9, CLASSES)

    def forward(self, features_BChw: torch.Tensor) -> torch.Tensor:
        curved = torch.tanh(self.norm(self.mix(features_BChw)))
        rows = torch.linspace(0.2, 1.5, features_BChw.shape[2], dtype=curved.dtype, device=curved.device)[:, None]
        return self.out((curved * rows).sum((2, 3)) / 7.0)


@dataclass
class Frames:
    """A frozen classifier in eval mode, uint8 images of odd size, and a class for each."""

    classifier: Classifier
    images: torch.Tensor
    labels: torch.Tensor

    def double(self) -> Classifier:
        """An unfrozen copy in float64."""
        return copy.deepcopy(self.classifier).double().requires_grad_(True)

    def pixels(self, frame: int) -> torch.Tensor:
        """Normalized pixels [1, 3, H, W] of a frame in float64."""
        encoder = self.classifier.encoder
        mean, std = (torch.tensor(v).double()[:, None, None] for v in (encoder.pixel_mean, encoder.pixel_std))
        return (self.images[frame : frame + 1].double() - mean) / std

    def derivatives(self, frame: int, pixels: torch.Tensor | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """(A, dY/dA) of one frame, float64 [C, h, w], caught by hooks in a backward pass through the network."""
        model = self.double()
        caught: dict[str, torch.Tensor] = {}

        def forward(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            caught["A"] = output.detach()
            output.register_hook(lambda gradient: caught.__setitem__("G", gradient.detach()))

        model.encoder.second.register_forward_hook(forward)
        features = model.encoder(self.pixels(frame) if pixels is None else pixels)
        score = model.head(features[-1])[0, int(self.labels[frame])]
        score.backward()
        assert model.encoder.first[0].weight.grad is not None
        return caught["A"][0].numpy(), caught["G"][0].numpy()


def make_frames(head: str) -> Frames:
    torch.manual_seed(11)
    classifier = Classifier(SmallEncoder(), CLASSES)
    for norm in (module for module in classifier.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    classifier.head.bias.data.normal_()
    if head == "curved":
        classifier.head = CurvedHead()
        classifier.head.mix.weight.data *= 8.0
    classifier.requires_grad_(False).eval()
    images = torch.randint(0, 256, (4, 3, 31, 43), dtype=torch.uint8)
    images[1] = images[1] // 4 + torch.arange(43, dtype=torch.uint8) * 4  # frames that differ in more than noise
    images[2, :, 5:20, 9:30] = 250
    return Frames(classifier, images, torch.tensor([4, 0, 0, 2]))


@pytest.fixture(params=["wgap", "curved"])
def frames(request: pytest.FixtureRequest) -> Frames:
    """With the head of the project, and with one that has to be differentiated."""
    return make_frames(request.param)


@pytest.fixture
def pooled() -> Frames:
    """With the head of the project."""
    return make_frames("wgap")


@pytest.fixture
def curved() -> Frames:
    """With a head that has to be differentiated."""
    return make_frames("curved")


@pytest.fixture
def stretched() -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A map [h, w] stretched to [0, 1]."""

    def stretch(cam: NDArray[Any]) -> NDArray[Any]:
        assert np.ptp(cam) > 1e-3 * np.abs(cam).max(), "a flat map tests nothing"
        return (cam - cam.min()) / np.ptp(cam)

    return stretch


@pytest.fixture
def assert_maps(stretched: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[..., None]:
    """Maps [B, h, w] are those of the formula, which gets (A, dY/dA) of one frame in float64."""

    def check(
        maps: torch.Tensor, frames: Frames, formula: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    ) -> None:
        assert maps.dtype == torch.float32
        assert maps.shape == (4, 7, 10)
        for frame in range(4):
            want = stretched(formula(*frames.derivatives(frame)))
            np.testing.assert_allclose(maps[frame].numpy(), want, rtol=0, atol=2e-5)

    return check
