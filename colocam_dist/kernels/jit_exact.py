"""The Triton kernel that goes through all pairs of pixels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def all_pairs(
    left_color, right_color, left_place, right_place, map_values, ones_values, map_sums, ones_sums,
    pixels, color_scale, place_scale, PLACED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of W_pq v_q over q for two v. Grid: blocks of pixels p, windows.

    Features are rows of 16 float16 integers whose product is a squared distance, exactly: every product and partial sum
    is an integer below 2^24. The scales turn distances into exponents of 2. Places are the same in all windows.
    """
    window = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, 16)
    inside = row < pixels
    start = window * pixels
    left = tl.load(left_color + (start + row)[:, None] * 16 + feature[None, :], mask=inside[:, None], other=0.0)
    if PLACED:
        here = tl.load(left_place + row[:, None] * 16 + feature[None, :], mask=inside[:, None], other=0.0)
    sum_t = tl.zeros([ROWS], dtype=tl.float32)
    sum_1 = tl.zeros([ROWS], dtype=tl.float32)
    for first in range(0, pixels, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        known = column < pixels
        right = tl.load(right_color + (start + column)[None, :] * 16 + feature[:, None], mask=known[None, :], other=0.0)
        exponent = tl.dot(left, right) * color_scale
        if PLACED:
            there = tl.load(right_place + column[None, :] * 16 + feature[:, None], mask=known[None, :], other=0.0)
            exponent += tl.dot(here, there) * place_scale
        affinity = tl.exp2(exponent)
        value_t = tl.load(map_values + start + column, mask=known, other=0.0)
        value_1 = tl.load(ones_values + start + column, mask=known, other=0.0)
        sum_t += tl.sum(affinity * value_t[None, :], 1)
        sum_1 += tl.sum(affinity * value_1[None, :], 1)
    tl.store(map_sums + start + row, sum_t, mask=inside)
    tl.store(ones_sums + start + row, sum_1, mask=inside)
