"""The affinities by their definition on a GPU: all pairs of pixels, O(P²) time, O(P) memory.

|c - c'|² = |c|² - 2 c.c' + |c'|² is one product of two rows of small integers, which tensor cores compute exactly in
float16 with float32 sums when |c|² is split into two digits of base 1024. Nothing cancels.
B windows, N frames, H and W the frame's pixels, P = N * H * W, D features of a pixel.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from colocam_dist.kernels import jit_exact as jit
from colocam_dist.kernels.launch import launch

__all__ = ["MAX_SIDE", "exact_product"]

MAX_SIDE = 1024  # of a frame with positions: beyond it float16 does not hold the integers
ROWS, COLUMNS = 128, 64  # of the tile of pairs that a program holds


def exact_product(
    frames_BNCHW: Tensor, t_BNHW: Tensor, ones_BNHW: Tensor, sigma_rgb: float, sigma_xy: float | None
) -> tuple[Tensor, Tensor]:
    """W times two maps, both float32 ``[B, N, H, W]``, for each window.

    Args:
        frames_BNCHW: uint8 ``[B, N, 3, H, W]``.
        t_BNHW: the first map, float32: weights times 1 - 2 S.
        ones_BNHW: the second, float32: weights.
        sigma_rgb: width of the color kernel.
        sigma_xy: width of the spatial kernel, None: color alone. With it only pixels at the same place of their frame
            are at distance 0, so that N should be 1.

    Raises:
        ValueError: a side above :data:`MAX_SIDE` with `sigma_xy`.
    """
    windows, _, height, width = t_BNHW.shape
    if sigma_xy is not None and max(height, width) > MAX_SIDE:
        raise ValueError(
            f"exact: wanted frames of at most {MAX_SIDE} x {MAX_SIDE}, got {height} x {width}; take torch:exact"
        )
    left_BPD, right_BPD = _features(frames_BNCHW.transpose(1, 2).reshape(windows, 3, -1).int())
    left_PD, right_PD = left_BPD, right_BPD  # not read without positions
    if sigma_xy is not None:
        axes = [torch.arange(side, device=t_BNHW.device, dtype=torch.int32) for side in (height, width)]
        places_2P = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).repeat(1, t_BNHW.shape[1])
        left_PD, right_PD = (features[0] for features in _features(places_2P[None]))
    pixels = t_BNHW[0].numel()
    sums = (
        torch.empty_like(t_BNHW, memory_format=torch.contiguous_format),
        torch.empty_like(t_BNHW, memory_format=torch.contiguous_format),
    )
    launch(
        jit.all_pairs, (triton.cdiv(pixels, ROWS), windows),
        left_BPD, right_BPD, left_PD, right_PD, t_BNHW.contiguous(), ones_BNHW.contiguous(), *sums, pixels,
        _exponent(sigma_rgb), _exponent(sigma_xy or 1.0), PLACED=sigma_xy is not None, ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return sums


def _exponent(sigma: float) -> float:
    """Factor of a squared distance in the exponent of 2."""
    return -0.5 / (sigma * sigma) * math.log2(math.e)


def _features(coordinates_BXP: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose products are squared distances, float16 ``[B, P, 16]``, from 2 or 3 integer coordinates."""
    windows, count, pixels = coordinates_BXP.shape
    square_BP = coordinates_BXP.square().sum(1, dtype=torch.int32)
    left, right = (coordinates_BXP.new_zeros(windows, pixels, 16) for _ in range(2))
    left[..., :count], right[..., :count] = -2 * coordinates_BXP.mT, coordinates_BXP.mT
    for place, (one, other) in enumerate(((left, right), (right, left))):
        digit = count + 2 * place
        one[..., digit], one[..., digit + 1] = square_BP >> 10, square_BP & 1023
        other[..., digit], other[..., digit + 1] = 1024, 1
    return left.half(), right.half()
