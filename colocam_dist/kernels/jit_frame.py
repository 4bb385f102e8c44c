"""The Triton kernels of the affinity by color and position. Who calls them: :mod:`triton_frame`.

A grid holds ``[frames, nodes³, E]`` floats: E = 2 MODES, first those of t, then those of ones. The corner of a pixel is
the first of its 3 x 3 x 3 nodes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from colocam_dist.kernels.jit_pixels import colors


@triton.jit
def _corner(base, red, green, blue, NODES: tl.constexpr):
    return (tl.load(base + red) * NODES + tl.load(base + green)) * NODES + tl.load(base + blue)


@triton.jit
def splat(
    frames, fg, weights, row, step, base, taps, modes, grid, pixels,
    NODES: tl.constexpr, MODES: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the modes of each pixel, times w t and w, to its 27 nodes. Grid: blocks of pixels, frames.

    Neighbors often share their corner: the pixels of a block are added corner by corner, each by one matrix product and
    27 rows of additions.
    """
    frame = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    red, green, blue = colors(frames, frame, pixel, inside, pixels)
    fg_P = tl.load(fg + frame * pixels + pixel, mask=inside, other=0.0)
    weight_P = inside.to(tl.float32)
    if WEIGHTED:
        weight_P = tl.load(weights + frame * row + pixel.to(tl.int64) * step, mask=inside, other=0.0)
    t_P = tl.where(weight_P > 0.0, 1.0 - 2.0 * fg_P, 0.0) * weight_P
    column = tl.arange(0, 2 * MODES)
    mode_PE = tl.load(
        modes + pixel[:, None] * MODES + (column % MODES)[None, :], mask=inside[:, None], other=0.0
    ) * tl.where(column[None, :] < MODES, t_P[:, None], weight_P[:, None])
    node = tl.arange(0, 32)
    tap_r, tap_g, tap_b = tl.minimum(node // 9, 2), (node // 3) % 3, node % 3
    share = tl.load(taps + red[None, :] * 3 + tap_r[:, None])
    share *= tl.load(taps + green[None, :] * 3 + tap_g[:, None])
    share *= tl.load(taps + blue[None, :] * 3 + tap_b[:, None])
    offset = (tap_r * NODES + tap_g) * NODES + tap_b
    corner = _corner(base, red, green, blue, NODES)
    nobody: tl.constexpr = 1 << 30
    waiting = tl.where(weight_P > 0.0, corner, nobody)
    first = tl.min(waiting, 0)
    while first < nobody:
        chosen = waiting == first
        # TF32 three times over: as good as float32 here, and on tensor cores.
        sums = tl.dot(tl.where(chosen[None, :], share, 0.0), mode_PE, input_precision="tf32x3")
        place = (frame * NODES * NODES * NODES + first + offset)[:, None] * (2 * MODES) + column[None, :]
        tl.atomic_add(grid + place, sums, mask=(node < 27)[:, None] & (column >= 0)[None, :], sem="relaxed")
        waiting = tl.where(chosen, nobody, waiting)
        first = tl.min(waiting, 0)


@triton.jit
def couple(core, inputs, outputs, COLUMNS: tl.constexpr, NODES: tl.constexpr, PADDED: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """outputs[x] = M inputs[x] for matrices [NODES, COLUMNS]. Grid: x, blocks of columns."""
    matrix = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    node = tl.arange(0, PADDED)
    known = node < NODES
    left = tl.load(core + node[:, None] * NODES + node[None, :], mask=known[:, None] & known[None, :], other=0.0)
    place = matrix * NODES * COLUMNS + node[:, None] * COLUMNS + column[None, :]
    there = known[:, None] & (column < COLUMNS)[None, :]
    right = tl.load(inputs + place, mask=there, other=0.0)
    tl.store(outputs + place, tl.dot(left, right, input_precision="ieee"), mask=there)


@triton.jit
def forms(grid, coupled, partial, nodes, MODES: tl.constexpr, BLOCK: tl.constexpr):
    """Sums over nodes of grid times coupled, of t and of ones: float64 ``[frames, blocks, 2]``.

    Grid: blocks of nodes, frames.
    """
    block, frame = tl.program_id(0), tl.program_id(1).to(tl.int64)
    node = block * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, 2 * MODES)
    place = (frame * nodes + node)[:, None] * (2 * MODES) + column[None, :]
    there = (node < nodes)[:, None] & (column >= 0)[None, :]
    product = tl.load(grid + place, mask=there, other=0.0) * tl.load(coupled + place, mask=there, other=0.0)
    by_column = tl.sum(product.to(tl.float64), 0)
    out = partial + (frame * tl.num_programs(0) + block) * 2
    tl.store(out, tl.sum(tl.where(column < MODES, by_column, 0.0), 0))
    tl.store(out + 1, tl.sum(tl.where(column < MODES, 0.0, by_column), 0))


@triton.jit
def slice_grid(
    frames, base, taps, modes, coupled, product, pixels, NODES: tl.constexpr, MODES: tl.constexpr, BLOCK: tl.constexpr
):
    """Sum over modes of mode times the coupled grid at each pixel. Grid: blocks of pixels, frames."""
    frame = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    red, green, blue = colors(frames, frame, pixel, inside, pixels)
    mode = tl.arange(0, MODES)
    corner = frame * NODES * NODES * NODES + _corner(base, red, green, blue, NODES)
    total = tl.zeros([BLOCK, MODES], dtype=tl.float32)
    for tap_r in tl.static_range(3):
        share_r = tl.load(taps + red * 3 + tap_r)
        for tap_g in tl.static_range(3):
            share_rg = share_r * tl.load(taps + green * 3 + tap_g)
            for tap_b in tl.static_range(3):
                share = share_rg * tl.load(taps + blue * 3 + tap_b)
                node = corner + (tap_r * NODES + tap_g) * NODES + tap_b
                total += share[:, None] * tl.load(coupled + node[:, None] * (2 * MODES) + mode[None, :])
    mode_PK = tl.load(modes + pixel[:, None] * MODES + mode[None, :], mask=inside[:, None], other=0.0)
    tl.store(product + frame * pixels + pixel, tl.sum(total * mode_PK, 1), mask=inside)
