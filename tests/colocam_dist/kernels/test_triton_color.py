"""The color kernels under Triton's interpreter, or on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import PreparedColors, color_affinity

pytestmark = pytest.mark.patient

triton_color = pytest.importorskip("colocam_dist.kernels.triton_color")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def large_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes by operations, not by numbers; one test keeps the blocks that a GPU gets."""
    if DEVICE == "cpu" and "gpu_blocks" not in request.keywords:
        monkeypatch.setattr(triton_color, "BLOCK_ROWS", 256)
        monkeypatch.setattr(triton_color, "BLOCK_INNER", 256)
        monkeypatch.setattr(triton_color, "BLOCK_COLUMNS", 1024)
        monkeypatch.setattr(triton_color, "ROWS", 1024)


@pytest.fixture
def window(natural: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Two windows of two frames: natural with letterbox bars, in few bricks; all black and one color, half noisy.

    The interpreter takes a millisecond for each brick that holds a color, so colors come in 48 heaps of 5 levels.
    """
    few = natural[:2] // 64 * 64 + natural[:2] % 5
    flat = torch.zeros(2, 3, 31, 47, dtype=torch.uint8)
    flat[1] = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None]
    flat[1, :, 16:] += torch.randint(0, 9, (3, 15, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return torch.stack([soft[:2], soft[1:]]).to(DEVICE), torch.stack([few, flat]).to(DEVICE)


def value_total_gradient(fg: Tensor, frames: Tensor, **options: Any) -> list[Tensor]:
    leaf = fg.detach().clone().requires_grad_()
    value, total = color_affinity(leaf, frames, **options)
    upstream = torch.tensor([0.7, -1.3], dtype=value.dtype, device=DEVICE)
    (gradient,) = torch.autograd.grad(value, leaf, upstream)
    return [value.detach().double(), total.double(), gradient.double()]


def errors(ours: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Largest relative error over the windows."""
    return [
        max(float((one[window] - other[window]).norm() / other[window].norm()) for window in range(2))
        for one, other in zip(ours, truth, strict=True)
    ]


@pytest.mark.parametrize(
    ("backend", "error"),
    [
        pytest.param("histogram", 1e-6, marks=[pytest.mark.slow, pytest.mark.gpu_blocks]),
        pytest.param("histogram_fp32", 1e-6, marks=pytest.mark.long),
        pytest.param("mixed", 5e-4, marks=pytest.mark.slow),
    ],
)
def test_value_total_and_gradient(backend: str, error: float, window: tuple[Tensor, Tensor]) -> None:
    truth = value_total_gradient(window[0].double(), window[1], backend="torch:exact")
    ours = value_total_gradient(*window, backend=f"triton:{backend}")
    assert max(errors(ours, truth)) < error


@pytest.mark.parametrize("direct", [0, 1 << 19], ids=["bins", "rows"])
def test_one_window(direct: int, window: tuple[Tensor, Tensor], dense: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_color, "DIRECT", direct)
    fg, frames = (part[0] for part in window)
    leaf = fg.clone().requires_grad_()
    value, total = color_affinity(leaf, frames, backend="triton:histogram")
    ours = value.detach(), total, torch.autograd.grad(value, leaf)[0].flatten()
    for one, other in zip(ours, dense(fg.cpu(), frames.cpu()), strict=True):
        assert float((one.cpu().double() - other).norm() / other.norm()) < 1e-6


@pytest.mark.slow
def test_bins_are_filled_for_large_windows(window: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_color, "DIRECT", 0)
    monkeypatch.setattr(triton_color, "WINDOWS", 1)
    truth = value_total_gradient(window[0].double(), window[1], backend="torch:exact")
    assert max(errors(value_total_gradient(*window, backend="triton:histogram"), truth)) < 1e-6


@pytest.mark.parametrize(
    "backend",
    [pytest.param("histogram", marks=pytest.mark.slow), pytest.param("histogram_fp32", marks=pytest.mark.long)],
)
def test_masks_and_weights(backend: str, window: tuple[Tensor, Tensor]) -> None:
    fg, frames = window
    if backend == "histogram":
        mask = torch.tensor([[True, False], [True, True]], device=DEVICE)
        fg[0, 1] = float("nan")
    else:
        mask = torch.rand(fg.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        mask[:, :, 3:9] = 0
        fg[:, :, 3:9] = float("nan")
    truth = value_total_gradient(
        fg.double(), frames, backend="torch:exact", mask=mask.double() if backend != "histogram" else mask
    )
    ours = value_total_gradient(fg, frames, backend=f"triton:{backend}", mask=mask)
    assert max(errors(ours, truth)) < 1e-6


@pytest.mark.slow
def test_prepared_colors_and_maps_that_are_not_numbers(window: tuple[Tensor, Tensor]) -> None:
    fg, frames = window
    prepared = PreparedColors(frames, backend="triton:histogram")(fg)
    fg[1, 0, 2, 3] = float("nan")
    value, total = color_affinity(fg, frames, backend="triton:histogram", validate=False)
    assert value.isnan().tolist() == [False, True]
    assert torch.equal(value[0], prepared[0][0])
    assert torch.equal(total, prepared[1])
