"""Frame affinity against dense float64 truth and published fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import FRAME_BACKENDS, frame_affinity
from colocam_dist.kernels.gaussian import color_grid, spatial_modes

PeakGrowth = Callable[[Callable[[], object]], float]


def value_total_gradient(fg: Tensor, frames: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    fg = fg.detach().clone().requires_grad_()
    value, total = frame_affinity(fg, frames, **options)
    (gradient,) = torch.autograd.grad(value.sum(), fg)
    return value.detach(), total, gradient


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize(("backend", "error"), [("exact", 2e-6), ("grid", 3e-3)])
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


def test_strong_noise_does_not_spoil_the_grid(soft: Tensor, dense: Any) -> None:
    noise = torch.randint(0, 256, (1, 3, 31, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    ours = value_total_gradient(soft[:1], noise, backend="grid")
    truth = dense(soft[:1], noise, 15.0, 100.0)
    assert relative(ours[0][0], truth[0]) < 1e-3
    assert relative(ours[1][0], truth[1]) < 1e-3
    assert relative(ours[2].flatten(), truth[2]) < 3e-3


@pytest.mark.shared
@pytest.mark.parametrize("clip", ["car", "dog"])
def test_the_error_on_a_real_frame_is_the_stated_one(clip: str, shared: Path) -> None:
    path = min((shared / "data" / "clips" / clip).rglob("*.jpg"))
    image = cv2.resize(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), (96, 80), interpolation=cv2.INTER_AREA)
    frames = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    rows, cols = torch.linspace(-1, 1, 80)[:, None], torch.linspace(-1, 1, 96)
    fg = torch.sigmoid(5 * (0.4 - rows.square() - cols.square()))[None]
    ours, truth = (value_total_gradient(fg, frames, backend=backend) for backend in ("grid", "exact"))
    assert relative(ours[0], truth[0]) < 5e-4
    assert relative(ours[1], truth[1]) < 5e-4
    assert relative(ours[2], truth[2]) < 2.5e-3


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


@pytest.mark.parametrize("backend", FRAME_BACKENDS)
def test_gradcheck_with_a_mask_and_an_upstream_gradient(backend: str, natural: Tensor, soft: Tensor) -> None:
    fg = soft[:, 3:5, 5:8].double().clone().requires_grad_()
    frames = natural[:, :, 3:5, 5:8]
    mask = torch.tensor([True, False, True])

    def scaled(fg: Tensor) -> Tensor:
        value, _ = frame_affinity(fg, frames, 30.0, backend=backend, mask=mask)
        return (value * torch.tensor([0.7, 2.0, -1.3], dtype=torch.float64)).sum().sin()

    assert torch.autograd.gradcheck(scaled, (fg,), eps=1e-6, atol=1e-5)


def test_the_grid_form_is_consistent_with_its_own_gradient(natural: Tensor, soft: Tensor) -> None:
    fg = soft[:1].double()
    direction = torch.randn(fg.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, _, gradient = value_total_gradient(fg, natural[:1], backend="grid")
    step = 1e-4
    ahead, behind = (frame_affinity(fg + sign * step * direction, natural[:1], backend="grid")[0] for sign in (1, -1))
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_modes_in_groups_give_the_same_as_all_at_once(
    natural: Tensor, soft: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = value_total_gradient(soft, natural, backend="grid")
    monkeypatch.setattr("colocam_dist.kernels.frame_torch.GRID_ENTRIES", 4 * 29**3)
    parts = value_total_gradient(soft, natural, backend="grid")
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 15.0, 90.0, 400.0])
def test_the_color_grid_is_close_in_every_entry(sigma: float) -> None:
    base_L, taps_L3, core_DD = color_grid(sigma, torch.float64, torch.device("cpu"))
    spread_LD = torch.zeros(256, len(core_DD), dtype=torch.float64)
    spread_LD.scatter_(1, base_L.long()[:, None] + torch.arange(3), taps_L3)
    levels = torch.arange(256, dtype=torch.float64)
    missing = spread_LD @ core_DD @ spread_LD.T - torch.exp(-((levels[:, None] - levels) ** 2) / (2 * sigma**2))
    assert missing.abs().max() < 5e-3
    assert missing.diagonal().abs().max() < 1e-12


@pytest.mark.parametrize(("sigma", "tolerance"), [(100.0, 1e-3), (12.0, 1e-3), (40.0, 1e-5)])
def test_the_spatial_modes_keep_their_tolerance(sigma: float, tolerance: float) -> None:
    modes_PK = spatial_modes(17, 29, sigma, tolerance, torch.float64, torch.device("cpu"))
    place = torch.cartesian_prod(torch.arange(17.0), torch.arange(29.0)).double()
    truth = torch.exp(-((place[:, None] - place) ** 2).sum(2) / (2 * sigma**2))
    assert (modes_PK @ modes_PK.T - truth).abs().max() <= 1.0001 * tolerance
    assert (modes_PK[:, :-1] @ modes_PK[:, :-1].T - truth).abs().max() > tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_computed_in_float32(dtype: torch.dtype, natural: Tensor, soft: Tensor) -> None:
    half = soft[:1].to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _, gradient = value_total_gradient(half, natural[:1], backend="grid")
    exact = value_total_gradient(half.float(), natural[:1], backend="grid")
    assert value.dtype == torch.float32
    assert torch.equal(value, exact[0])
    assert torch.equal(gradient, exact[2].to(dtype))


def test_a_large_frame_needs_no_memory_of_the_square_of_its_pixels(peak_growth: PeakGrowth) -> None:
    frames = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fg = torch.rand(1, 256, 256)
    grown = peak_growth(lambda: value_total_gradient(fg, frames, backend="grid"))
    assert grown < 400, f"{grown:.0f} MiB; the matrix would have {4 * fg.numel() ** 2 / 2**20:.0f} MiB"


@pytest.mark.parametrize("backend", FRAME_BACKENDS)
def test_masked_frames_give_zero_and_touch_nothing(backend: str, natural: Tensor, soft: Tensor) -> None:
    mask = torch.tensor([[True, False, True]])
    ours = value_total_gradient(soft[None], natural[None], backend=backend, mask=mask)
    alone = value_total_gradient(soft, natural, backend=backend)
    assert ours[0].shape == (1, 3)
    assert torch.equal(ours[0][mask], alone[0][mask[0]])
    assert ours[0][0, 1] == ours[1][0, 1] == ours[2][0, 1].abs().max() == 0


@pytest.mark.parametrize("backend", FRAME_BACKENDS)
def test_one_color_leaves_the_spatial_kernel(backend: str) -> None:
    fg = torch.rand(1, 23, 37, generator=torch.Generator().manual_seed(2))
    gray = torch.full((1, 3, 23, 37), 128, dtype=torch.uint8)
    _, total, _ = value_total_gradient(fg, gray, backend=backend, sigma_xy=20.0)
    rows, cols = (torch.arange(side, dtype=torch.float64) for side in (23, 37))
    sums = [torch.exp(-((axis[:, None] - axis) ** 2) / (2 * 20.0**2)).sum() for axis in (rows, cols)]
    assert float(total) == pytest.approx(float(sums[0] * sums[1]), rel=1e-3)


@pytest.mark.parametrize(
    "change", [{"sigma_xy": -1.0}, {"sigma_rgb": float("inf")}, {"tolerance": 0.0}, {"backend": "histogram"}]
)
def test_wrong_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frame_affinity"):
        frame_affinity(torch.rand(1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), **change)


def test_inference_computes_no_gradient(natural: Tensor, soft: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_total_gradient(soft, natural, backend="grid")

    def refuse(*_: Any) -> Tensor:
        raise AssertionError("the slice is only for gradients")

    monkeypatch.setattr("colocam_dist.kernels.frame_torch._slice", refuse)
    value, total = frame_affinity(soft, natural, backend="grid")
    assert torch.equal(value, expected[0])
    assert torch.equal(total, expected[1])


def test_weights_of_pixels_scale_map_and_background(natural: Tensor, soft: Tensor, dense: Any) -> None:
    weights = torch.rand(soft.shape, generator=torch.Generator().manual_seed(7))
    weights[0, 4:9] = 0
    fg = soft.masked_fill(weights == 0, float("nan"))
    exact, grid = (value_total_gradient(fg, natural, backend=name, mask=weights) for name in ("exact", "grid"))
    for one, other in zip(grid, exact, strict=True):
        assert relative(one, other) < 3e-3
    half = value_total_gradient(soft[:1], natural[:1], backend="exact", mask=torch.full((1,), 0.5))
    truth = dense(soft[:1], natural[:1], 15.0, 100.0)
    assert relative(half[0][0], truth[0] / 4) < 1e-6
    assert relative(half[2].flatten(), truth[2] / 4) < 1e-6
