"""The kernel over all pairs, under Triton's interpreter or on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import color_affinity, frame_affinity
from colocam_dist.kernels.inputs import map_and_ones

triton_exact = pytest.importorskip("colocam_dist.kernels.triton_exact")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def truth(fg: Tensor, frames: Tensor, weights: Tensor, sigma_xy: float | None) -> tuple[Tensor, Tensor]:
    """W (w t) and W w of one window in float64."""
    features = frames.permute(0, 2, 3, 1).reshape(-1, 3).double() / 15.0
    if sigma_xy is not None:
        height, width = fg.shape[1:]
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double() / sigma_xy
        features = torch.cat([features, place.repeat(len(fg), 1)], 1)
    squares = (features[:, None] - features).square().sum(2)
    affinity = torch.exp(-0.5 * squares)
    weights = weights.double().flatten()
    t = torch.where(weights > 0, 1 - 2 * fg.double().flatten(), 0.0)
    return affinity @ (weights * t), affinity @ weights


@pytest.mark.parametrize("sigma_xy", [None, 9.0])
def test_products_of_two_windows(sigma_xy: float | None, natural: Tensor, soft: Tensor) -> None:
    frames = torch.stack([natural[:2, :, :13, :17], natural[1:, :, 10:23, 20:37]])
    frames[1, 0, :, 3:6, ::2] = 255
    fg = torch.stack([soft[:2, :13, :17], soft[1:, 10:23, 20:37]])
    weights = torch.rand(fg.shape, generator=torch.Generator().manual_seed(0))
    weights[0, 1, :4] = 0
    fg[0, 1, :4] = float("nan")
    for given in (weights, weights > 0):
        maps = map_and_ones(fg.to(DEVICE), given.to(DEVICE))
        ours = triton_exact.exact_product(frames.to(DEVICE), *maps, 15.0, sigma_xy)
        for window in range(2):
            for one, other in zip(ours, truth(fg[window], frames[window], given[window], sigma_xy), strict=True):
                assert float((one[window].cpu().double().flatten() - other).norm() / other.norm()) < 1e-6


def test_the_operators_take_it(natural: Tensor, soft: Tensor) -> None:
    fg, frames = soft[:2, :12, :12].to(DEVICE), natural[:2, :, :12, :12].to(DEVICE)
    for operator in (color_affinity, frame_affinity):
        results = []
        for backend in ("triton:exact", "torch:exact"):
            leaf = fg.clone().requires_grad_()
            value, total = operator(leaf, frames, backend=backend)
            results.append([value.detach(), total, *torch.autograd.grad(value.sum(), leaf)])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, rtol=2e-6, atol=1e-4)


def test_frames_that_float16_does_not_hold_are_refused() -> None:
    fg = torch.zeros(1, 1, 1, 1025, device=DEVICE)
    frames = torch.zeros(1, 1, 3, 1, 1025, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match="at most 1024 x 1024, got 1 x 1025"):
        triton_exact.exact_product(frames, fg, fg, 15.0, 100.0)
    with pytest.raises(ValueError, match="the kernel holds 1024"):
        frame_affinity(fg[0], frames[0], backend="triton:exact")
