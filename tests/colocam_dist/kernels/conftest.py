"""Dense float64 affinities to compare with, and frames that are hard for shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

Dense = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it gives, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dense() -> Dense:
    """(fg [n,H,W], frames [n,3,H,W], sigma_rgb, sigma_xy or None) -> value, total, gradient in float64."""

    def compute(
        fg: Tensor, frames: Tensor, sigma_rgb: float = 15.0, sigma_xy: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        colors = frames.permute(0, 2, 3, 1).reshape(-1, 3).double() / sigma_rgb
        if sigma_xy is not None:
            height, width = fg.shape[1:]
            place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double() / sigma_xy
            colors = torch.cat([colors, place.repeat(len(fg), 1)], 1)
        affinity = torch.exp(-0.5 * torch.cdist(colors, colors, compute_mode="donot_use_mm_for_euclid_dist").square())
        fg = fg.double().flatten()
        return 2 * fg @ affinity @ (1 - fg), affinity.sum(), (2 * affinity @ (1 - 2 * fg))

    return compute


@pytest.fixture
def peak_growth() -> Callable[[Callable[[], object]], float]:
    """MiB by which the peak memory of a fresh run of `work` exceeds what was in use before; Linux only."""

    def measure(work: Callable[[], object]) -> float:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("peak memory is read from /proc")
        # Resets the peak to what is in use now: an earlier test's peak must not hide this one's.
        Path("/proc/self/clear_refs").write_text("5")
        before = _mebibytes(status, "VmHWM")
        work()
        return _mebibytes(status, "VmHWM") - before

    return measure


def _mebibytes(status: Path, field: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(field))


@pytest.fixture
def natural() -> Tensor:
    """uint8 [3, 3, 31, 47]: smooth gradients with noise, one frame letterboxed, one nearly black."""
    generator = torch.Generator().manual_seed(3)
    rows, cols = torch.linspace(0, 1, 31)[:, None], torch.linspace(0, 1, 47)
    planes = [200 * rows + 30 * cols, 120 * (rows * cols) + 60, 90 + 100 * torch.sin(6 * cols) * rows]
    frame = torch.stack([plane.expand(31, 47) for plane in planes])
    frames = torch.stack([frame, frame.flip(2), frame * 0.05]) + 6 * torch.randn(3, 3, 31, 47, generator=generator)
    frames = frames.clamp(0, 255).to(torch.uint8)
    frames[1, :, :5] = frames[1, :, -5:] = 0
    return frames


@pytest.fixture
def soft() -> Tensor:
    """float32 [3, 31, 47] in (0, 1): a blob with noise."""
    generator = torch.Generator().manual_seed(4)
    rows, cols = torch.linspace(-1, 1, 31)[:, None], torch.linspace(-1, 1, 47)
    blob = torch.sigmoid(5 * (0.4 - rows.square() - cols.square()))
    return (blob + 0.2 * torch.rand(3, 31, 47, generator=generator)).clamp(0.01, 0.99)
