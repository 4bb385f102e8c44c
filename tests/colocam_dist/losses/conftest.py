"""Dense float64 truth for the loss terms, written from the equations with all pairs of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The examples are so small that waiting for other threads takes all the time on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Example:
    """Three windows of three frames of odd size; valid frames: 3, 2 and 1."""

    logits: Tensor
    images: Tensor
    seeds: Tensor
    mask: Tensor

    @property
    def maps(self) -> Tensor:
        return self.logits.softmax(2)

    @property
    def fg(self) -> Tensor:
        return self.maps[:, :, 1]


class Dense:
    """All-pairs affinities and the closed forms of the CRF terms, in float64."""

    @staticmethod
    def affinity(images_NCHW: Tensor, sigma_rgb: float, sigma_xy: float | None = None) -> Tensor:
        n, _, height, width = images_NCHW.shape
        features = images_NCHW.double().permute(0, 2, 3, 1).reshape(-1, 3) / sigma_rgb
        if sigma_xy is not None:
            assert n == 1
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            features = torch.cat([features, torch.stack([x, y], -1).reshape(-1, 2).double() / sigma_xy], 1)
        difference = features[:, None] - features[None]
        return torch.exp(-0.5 * difference.square().sum(2))

    @staticmethod
    def paper_value(fg: Tensor, W: Tensor) -> Tensor:
        s = fg.double().flatten()
        return s @ W @ (1 - s) + (1 - s) @ W @ s

    @staticmethod
    def published_value(fg: Tensor, W: Tensor) -> Tensor:
        s = fg.double().flatten()
        return -(s @ W @ s) - (1 - s) @ W @ (1 - s)

    @staticmethod
    def logit_gradient(fg: Tensor, W: Tensor) -> Tensor:
        """d value / d (l1 - l0), like ``fg``: 2 (W t) S (1 - S) with t = 1 - 2 S; the same for both forms."""
        s = fg.double().flatten()
        return (2 * (W @ (1 - 2 * s)) * s * (1 - s)).view(fg.shape)


@pytest.fixture
def dense() -> type[Dense]:
    return Dense


@pytest.fixture
def example() -> Example:
    generator = torch.Generator().manual_seed(11)
    logits = 2 * torch.randn(3, 3, 2, 9, 7, generator=generator)
    logits[:, :, 1] += 3.0  # mostly foreground, so that the two forms of the CRF value differ clearly
    # Colors of neighboring kernels' widths, so that affinities are neither all 0 nor all 1.
    images = torch.randint(90, 150, (3, 3, 3, 9, 7), generator=generator, dtype=torch.uint8)
    seeds = torch.tensor([-255, -255, 0, 1])[torch.randint(4, (3, 3, 9, 7), generator=generator)]
    mask = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    return Example(logits.requires_grad_(), images, seeds, mask)
