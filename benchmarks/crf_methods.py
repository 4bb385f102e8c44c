"""What benchmarks/crf.py compares: ours, and peers that compute, or mean to compute, the same product W t.

A method is built for one window of n frames [n, 3, H, W] uint8 and one map [n, H, W], and then called. Its ``forward``
is what a loss needs; ``both`` also gives the gradient 2 W t [n, H, W]. Peers filter a signal: that is both at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colocam_dist.kernels import color_affinity, frame_affinity

SIGMA_RGB, SIGMA_XY = 15.0, 100.0
LARGEST_DENSE = 4e9  # bytes of the matrix and two copies
LARGEST_KEOPS = 20_000  # pixels measured; beyond, the time is extrapolated with the square

__all__ = ["PEERS", "Dense", "KeOps", "Lattice", "NotHere", "Ours", "features"]


class NotHere(Exception):
    """The method cannot be measured on this case; says why."""


def features(frames: Tensor, term: str, dtype: torch.dtype) -> Tensor:
    """[P, 3] or, for the term "frame" (one frame), [P, 5]: coordinates divided by their sigmas."""
    colors = frames.permute(0, 2, 3, 1).reshape(-1, 3).to(dtype) / SIGMA_RGB
    if term == "color":
        return colors
    places = torch.cartesian_prod(*(torch.arange(side, device=frames.device) for side in frames.shape[2:]))
    return torch.cat([colors, places.to(dtype) / SIGMA_XY], 1)


class Ours:
    """One backend of our operators."""

    def __init__(self, term: str, backend: str, fg: Tensor, frames: Tensor) -> None:
        if backend.endswith("exact") and fg.numel() > 60_000 and fg.device.type == "cpu":
            raise NotHere(f"all pairs of {fg.numel()} pixels take minutes on a CPU")
        self.operator: Callable[..., Any] = color_affinity if term == "color" else frame_affinity
        self.backend, self.fg, self.frames = backend, fg, frames
        try:
            self.forward()
        except ValueError as error:
            raise NotHere(str(error)) from error

    def forward(self) -> None:
        """Value and total."""
        with torch.no_grad():
            self.operator(self.fg, self.frames, backend=self.backend)

    def both(self) -> Tensor:
        """Value, total and gradient."""
        leaf = self.fg.detach().requires_grad_()
        value, _ = self.operator(leaf, self.frames, backend=self.backend)
        return torch.autograd.grad(value.sum(), leaf)[0]


class Dense:
    """The matrix W, by torch."""

    def __init__(self, term: str, fg: Tensor, frames: Tensor) -> None:
        needed = 3 * 4 * fg.numel() ** 2
        if needed > LARGEST_DENSE:
            raise NotHere(f"needs {needed / 1e9:,.0f} GB")
        self.term, self.fg, self.frames = term, fg, frames

    def both(self) -> Tensor:
        """2 W t."""
        points = features(self.frames, self.term, torch.float32)
        affinity = torch.cdist(points, points).square_().mul_(-0.5).exp_()
        return (2.0 * affinity @ (1.0 - 2.0 * self.fg.flatten())).view_as(self.fg)

    forward = both


class KeOps:
    """A symbolic matrix, reduced without being stored. Beyond LARGEST_KEOPS pixels a part stands for the whole."""

    def __init__(self, term: str, fg: Tensor, frames: Tensor) -> None:
        try:
            from pykeops.torch import LazyTensor
        except ImportError as error:
            raise NotHere("not installed: pip install pykeops==2.3") from error
        self.lazy = LazyTensor
        chosen = torch.linspace(0, fg.numel() - 1, min(fg.numel(), LARGEST_KEOPS)).long()
        self.factor = (fg.numel() / len(chosen)) ** 2
        self.points = features(frames, term, torch.float32)[chosen].contiguous()
        self.t = (1.0 - 2.0 * fg.flatten()[chosen])[:, None].contiguous()
        self.whole = fg if len(chosen) == fg.numel() else None
        self.both()  # compiles

    def both(self) -> Tensor | None:
        """2 W t, None for a part."""
        left, right = self.lazy(self.points[:, None]), self.lazy(self.points[None])
        product = 2.0 * ((-0.5 * ((left - right) ** 2).sum(-1)).exp() @ self.t)
        return None if self.whole is None else product.view_as(self.whole)

    forward = both


class Lattice:
    """The permutohedral lattice of pydensecrf2: the algorithm of the published code's filter, on one core."""

    def __init__(self, term: str, fg: Tensor, frames: Tensor) -> None:
        try:
            import pydensecrf.densecrf as densecrf
        except ImportError as error:
            raise NotHere("not installed: pip install pydensecrf2==1.1") from error
        if fg.device.type != "cpu":
            raise NotHere("runs on a CPU only")
        self.module, self.fg = densecrf, fg
        self.points = np.ascontiguousarray(features(frames, term, torch.float32).numpy().T)
        flat = fg.flatten().clamp(1e-6, 1 - 1e-6)
        self.unary = np.ascontiguousarray(-torch.stack([1 - flat, flat]).log().numpy())
        # Its result comes out of a softmax; the weight keeps that far from saturation.
        self.weight = 4.0 / fg.numel()

    def both(self) -> Tensor:
        """2 W t, from one mean-field step: logit(Q') = logit(S) - weight * W t."""
        crf = self.module.DenseCRF(self.unary.shape[1], 2)
        crf.setUnaryEnergy(self.unary)
        crf.addPairwiseEnergy(
            self.points, compat=self.weight, kernel=self.module.DIAG_KERNEL,
            normalization=self.module.NO_NORMALIZATION,
        )  # fmt: skip
        state = crf.startInference()
        crf.stepInference(*state)
        after = torch.from_numpy(np.array(state[0])).double().clamp(1e-300)
        before = torch.from_numpy(-self.unary).double()
        moved = (after[1] / after[0]).log() - (before[1] - before[0])
        return (-2.0 * moved / self.weight).view_as(self.fg)

    forward = both


PEERS: dict[str, Callable[[str, Tensor, Tensor], Any]] = {"dense": Dense, "keops": KeOps, "pydensecrf2": Lattice}


def truth_at(points: Tensor, t: Tensor, chosen: Tensor) -> Tensor:
    """2 W t at some pixels in float64, against all pixels."""
    part = max(1, int(2e7) // len(points))
    found = []
    for some in chosen.split(part):
        distance = torch.zeros(len(some), len(points), dtype=torch.float64, device=points.device)
        for axis in range(points.shape[1]):
            distance += (points[some, axis, None] - points[None, :, axis]).square()
        found.append(2.0 * distance.mul_(-0.5).exp_() @ t)
    return torch.cat(found)


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, math.floor(share * len(values)))]
