"""The kernels for color and position, interpreted or on a GPU, against the torch form of the same grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import frame_affinity

pytestmark = pytest.mark.patient

triton_frame = pytest.importorskip("colocam_dist.kernels.triton_frame")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def large_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes by operations, not by numbers; one test keeps the blocks that a GPU gets."""
    if DEVICE == "cpu" and "gpu_blocks" not in request.keywords:
        monkeypatch.setattr(triton_frame, "COLUMNS", 128)
        monkeypatch.setattr(triton_frame, "NODES_AT_ONCE", 4096)


@pytest.fixture
def three(natural: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """A natural frame, one of color noise and an all-black one."""
    frames = natural[:, :, :15, :23].clone()
    frames[1] = torch.randint(0, 256, (3, 15, 23), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    frames[2] = 0
    return soft[:, :15, :23].to(DEVICE), frames.to(DEVICE)


def value_total_gradient(fg: Tensor, frames: Tensor, **options: Any) -> list[Tensor]:
    leaf = fg.detach().clone().requires_grad_()
    value, total = frame_affinity(leaf, frames, sigma_xy=12.0, **options)
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor([0.7, -1.3, 2.0], dtype=value.dtype, device=DEVICE))
    return [value.detach(), total, gradient]


def close(ours: list[Tensor], truth: list[Tensor], error: float) -> bool:
    return all(
        float((one[frame].double() - other[frame].double()).norm()) <= error * float(other[frame].double().norm())
        for one, other in zip(ours, truth, strict=True)
        for frame in range(3)
    )


def test_equal_to_the_torch_form(three: tuple[Tensor, Tensor]) -> None:
    ours, theirs = (value_total_gradient(*three, backend=f"{name}:grid") for name in ("triton", "torch"))
    assert close(ours, theirs, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-5, pytest.param(1e-3, marks=pytest.mark.gpu_blocks)])
def test_other_numbers_of_modes(tolerance: float, three: tuple[Tensor, Tensor]) -> None:
    ours, theirs = (
        value_total_gradient(*three, backend=f"{name}:grid", tolerance=tolerance) for name in ("triton", "torch")
    )
    assert close(ours, theirs, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", ["frames", "pixels"])
def test_weights_and_frames_in_turns(
    weighted: str, three: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    fg, frames = three
    monkeypatch.setattr(triton_frame, "GRID_BYTES", 1)
    if weighted == "frames":
        mask = torch.tensor([True, False, True], device=DEVICE)
        fg[1] = float("nan")
    else:
        mask = torch.rand(fg.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        mask[:, 3:9] = 0
        fg[:, 3:9] = float("nan")
    ours, theirs = (value_total_gradient(fg, frames, backend=f"{name}:grid", mask=mask) for name in ("triton", "torch"))
    assert close(ours, theirs, 1e-5)


def test_inference_slices_nothing(three: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    run = triton_frame.launch
    monkeypatch.setattr(
        triton_frame, "launch", lambda kernel, *rest, **more: (launched.append(kernel), run(kernel, *rest, **more))
    )
    value, _ = frame_affinity(three[0][2:], three[1][2:], backend="triton:grid")
    assert value.isfinite().all()
    assert triton_frame.jit.splat in launched
    assert triton_frame.jit.slice_grid not in launched
