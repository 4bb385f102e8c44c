"""How Triton kernels are started: one place, so that a test can compile every launch for a GPU that is not there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["launch", "why_not"]


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Run `kernel` on `grid` with positional runtime arguments and keyword compile-time constants."""
    run(kernel, grid, *arguments, warps=warps, **constants)


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int, **constants: Any) -> None:
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(next(part for part in arguments if isinstance(part, torch.Tensor))):
        kernel[grid](*arguments, **constants, num_warps=warps)


run: Callable[..., None] = _run  # :mod:`colocam_dist.kernels.compiling` puts a compiler here


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton kernels cannot run on tensors like these; None if they can.

    On a CPU they run under Triton's interpreter, which has to be switched on (``TRITON_INTERPRET=1``) before the first
    import of a kernel. It is thousands of times slower than a GPU and meant for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if dtype != torch.float32:
        return f"they compute in float32, and fg is {dtype}"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return None if torch.version.hip or capability >= (7, 0) else f"compute capability {capability} is below 7.0"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"they need a CUDA device (or TRITON_INTERPRET=1 on a CPU), and fg is on {device}"
