"""Frame affinity against dense float64 truth and published fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import frame_affinity


def value_total_gradient(fg: Tensor, frames: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    fg = fg.detach().clone().requires_grad_()
    value, total = frame_affinity(fg, frames, **options)
    (gradient,) = torch.autograd.grad(value.sum(), fg)
    return value.detach(), total, gradient


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize(("backend", "error"), [("exact", 2e-6), ("landmarks", 3e-2)])
@pytest.mark.parametrize("sigma_xy", [12.0, 100.0])
def test_each_frame_against_dense_truth(
    backend: str, error: float, sigma_xy: float, natural: Tensor, soft: Tensor, dense: Any
) -> None:
    ours = value_total_gradient(soft, natural, backend=backend, sigma_xy=sigma_xy)
    for frame in range(len(soft)):
        truth = dense(soft[frame : frame + 1], natural[frame : frame + 1], 15.0, sigma_xy)
        assert relative(ours[0][frame], truth[0]) < error
        assert relative(ours[1][frame], truth[1]) < error
        assert relative(ours[2][frame].flatten(), truth[2]) < error


def test_landmarks_are_close_on_smooth_frames(soft: Tensor, natural: Tensor, dense: Any) -> None:
    frames = torch.nn.functional.avg_pool2d(natural.float(), 5, stride=1, padding=2).to(torch.uint8)
    ours = value_total_gradient(soft[:1], frames[:1], backend="landmarks")
    truth = dense(soft[:1], frames[:1], 15.0, 100.0)
    assert relative(ours[0], truth[0]) < 1e-3
    assert relative(ours[2].flatten(), truth[2]) < 3e-3


@pytest.mark.shared
@pytest.mark.parametrize("case", ["smooth_n1", "smooth_n4", "noise_n2"])
def test_the_published_fixtures(case: str, shared: Path) -> None:
    data = np.load(shared / "fixtures" / "crf_filters.npz")
    frames = torch.from_numpy(data[f"{case}_images"])
    fg = torch.from_numpy(data[f"{case}_S"])[:, 1]
    value, total, gradient = value_total_gradient(fg, frames, backend="exact")
    assert float((value - total).mean()) == pytest.approx(float(data[f"{case}_bilateral_loss_exact"]), rel=1e-5)
    assert float(total.mean()) == pytest.approx(float(data[f"{case}_bilateral_degree_total_exact"]), rel=1e-5)
    filtered = torch.from_numpy(data[f"{case}_bilateral_AS_exact"])
    assert relative(gradient, 2 * (filtered[:, 0] - filtered[:, 1])) < 1e-5


def test_the_landmark_form_is_consistent_with_its_own_gradient(natural: Tensor, soft: Tensor) -> None:
    fg = soft[:1].double()
    direction = torch.randn(fg.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, _, gradient = value_total_gradient(fg, natural[:1], backend="landmarks")
    step = 1e-4
    ahead, behind = (
        frame_affinity(fg + sign * step * direction, natural[:1], backend="landmarks")[0] for sign in (1, -1)
    )
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_parts_of_a_large_frame_give_the_same_as_the_whole(
    natural: Tensor, soft: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = value_total_gradient(soft, natural, backend="landmarks")
    monkeypatch.setattr("colocam_dist.kernels.frame.CHUNK_ENTRIES", 5000)
    parts = value_total_gradient(soft, natural, backend="landmarks")
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["exact", "landmarks"])
def test_masked_frames_give_zero_and_touch_nothing(backend: str, natural: Tensor, soft: Tensor) -> None:
    mask = torch.tensor([[True, False, True]])
    ours = value_total_gradient(soft[None], natural[None], backend=backend, mask=mask)
    alone = value_total_gradient(soft, natural, backend=backend)
    assert ours[0].shape == (1, 3)
    assert torch.equal(ours[0][mask], alone[0][mask[0]])
    assert ours[0][0, 1] == ours[1][0, 1] == ours[2][0, 1].abs().max() == 0


@pytest.mark.parametrize("backend", ["exact", "landmarks"])
def test_one_color_leaves_the_spatial_kernel(backend: str) -> None:
    fg = torch.rand(1, 23, 37, generator=torch.Generator().manual_seed(2))
    grey = torch.full((1, 3, 23, 37), 128, dtype=torch.uint8)
    _, total, _ = value_total_gradient(fg, grey, backend=backend, sigma_xy=20.0)
    rows, cols = (torch.arange(side, dtype=torch.float64) for side in (23, 37))
    sums = [torch.exp(-((axis[:, None] - axis) ** 2) / (2 * 20.0**2)).sum() for axis in (rows, cols)]
    assert float(total) == pytest.approx(float(sums[0] * sums[1]), rel=1e-3)


@pytest.mark.parametrize("change", [{"sigma_xy": -1.0}, {"tolerance": 0.0}, {"backend": "histogram"}])
def test_wrong_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frame_affinity"):
        frame_affinity(torch.rand(1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), **change)
