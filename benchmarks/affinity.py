"""Times and errors of the affinity operators: ``python benchmarks/affinity.py [--device cuda] [--frames DIR]``.

Prints a markdown table: milliseconds for value and gradient of one window (color) or one frame (color and position),
and the error of the gradient against the exact form in float64 on the same pixels. Without ``--frames`` (a folder of
pictures), smooth pictures with a little noise are generated.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from colocam_dist.kernels import color_affinity, frame_affinity

Operator = Callable[..., tuple[Tensor, Tensor]]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()
    print(header(given.device))
    print("| operator | size | n | ms, median of 5 | gradient error |\n|---|---|---|---|---|")
    for size in given.sizes:
        frames = pictures(given.frames, max(given.windows), size).to(given.device)
        fg = blob(len(frames), size).to(given.device)
        for n in given.windows:
            row("color_affinity", color_affinity, fg[:n], frames[:n])
        row("frame_affinity", frame_affinity, fg[:1], frames[:1])
    return 0


def row(name: str, operator: Operator, fg: Tensor, frames: Tensor) -> None:
    """Time one case and compare it with the exact form where that fits in a minute or so."""
    milliseconds, gradient = timed(operator, fg, frames)
    pixels = fg.numel()
    error = "not computed"
    if pixels <= 60_000:
        exact = timed(operator, fg.double(), frames, backend="exact", repeats=1)[1]
        error = f"{float((gradient.double() - exact).norm() / exact.norm()):.1e}"
    print(f"| {name} | {fg.shape[-1]} | {len(fg)} | {milliseconds:.1f} | {error} |", flush=True)


def timed(operator: Operator, fg: Tensor, frames: Tensor, repeats: int = 5, **options: str) -> tuple[float, Tensor]:
    """Median milliseconds of forward and backward after one warm-up, and the gradient."""
    times = []
    gradient = fg
    for attempt in range(repeats + (repeats > 1)):
        leaf = fg.detach().clone().requires_grad_()
        synchronize(fg.device)
        started = time.perf_counter()
        value, _ = operator(leaf, frames, **options)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        synchronize(fg.device)
        if attempt or repeats == 1:
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times), gradient


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if it is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pictures(folder: Path | None, count: int, size: int) -> Tensor:
    """uint8 [count, 3, size, size]."""
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))[:count]
        read = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    else:
        rng = np.random.default_rng(0)
        clouds = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (320, 240)) for _ in range(count)]
        read = [np.clip(cloud + rng.normal(0, 4, cloud.shape), 0, 255).astype(np.uint8) for cloud in clouds]
    square = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in read]
    return torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).contiguous()


def blob(count: int, size: int) -> Tensor:
    """float32 [count, size, size] in (0, 1): a soft disc with noise."""
    line = torch.linspace(-1, 1, size)
    disc = torch.sigmoid(6 * (0.35 - line[:, None].square() - line.square()))
    noise = torch.rand(count, size, size, generator=torch.Generator().manual_seed(0))
    return (0.8 * disc + 0.2 * noise).clamp(0.001, 0.999)


def header(device: str) -> str:
    """Where and with what this was measured."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"commit {answer.stdout.strip() or 'unknown'}, {name}, torch {torch.__version__}, {platform.platform()}\n"


if __name__ == "__main__":
    raise SystemExit(main())
