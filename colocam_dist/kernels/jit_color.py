"""The Triton kernels of the color affinity. Who calls them, and why in this order: :mod:`triton_color`.

A pixel's color code is red << 16 | green << 8 | blue. Bricks are 8 x 8 x 16 bins, ordered by red, green, blue; so are
the bins inside a brick. Products are in full float32 ("ieee"): TF32, the default, would leave three digits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from colocam_dist.kernels.jit_pixels import colors

BOTH = 0  # channels of a table: t, then ones
MAP = 1  # t alone
ONES = 2  # ones alone

_BINS = tl.constexpr(1 << 24)
_BRICK = tl.constexpr(1024)
_SLACK = tl.constexpr(1e-3)
_BOTH = tl.constexpr(BOTH)
_MAP = tl.constexpr(MAP)
_ONES = tl.constexpr(ONES)


@triton.jit
def _codes(frames, image, pixel, inside, pixels):
    red, green, blue = colors(frames, image, pixel, inside, pixels)
    return (red << 16) | (green << 8) | blue


@triton.jit
def _bin_of(code):
    red, green, blue = code >> 16, (code >> 8) & 255, code & 255
    brick = ((red >> 3) * 32 + (green >> 3)) * 16 + (blue >> 4)
    return brick * 1024 + ((red & 7) * 8 + (green & 7)) * 16 + (blue & 15)


@triton.jit
def mark(frames, marks, pixels, n_frames, BLOCK: tl.constexpr):
    """Set the mark of each brick that holds a pixel. Grid: blocks of pixels, frames, windows."""
    window = tl.program_id(2)
    image = (window * n_frames + tl.program_id(1)).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    brick = _bin_of(_codes(frames, image, pixel, inside, pixels)) // _BRICK
    tl.store(marks + window * (_BINS // _BRICK) + brick, 1, mask=inside)


@triton.jit
def clear(marks, bins, CHANNELS: tl.constexpr):
    """Zero the marked bricks. Grid: columns of 16 bricks, windows."""
    tile = tl.program_id(0)
    window = tl.program_id(1).to(tl.int64)
    marked = marks + window * (_BINS // _BRICK) + tile * 16
    if tl.sum(tl.load(marked + tl.arange(0, 16))) > 0:
        zero = tl.zeros([_BRICK], dtype=bins.dtype.element_ty)
        for brick in range(16):
            if tl.load(marked + brick) > 0:
                for channel in tl.static_range(CHANNELS):
                    start = bins + (window * CHANNELS + channel) * _BINS + (tile * 16 + brick) * _BRICK
                    tl.store(start + tl.arange(0, _BRICK), zero)


@triton.jit
def _map_and_weights(fg, weights, poison, window, image, pixel, inside, pixels, row, step, WEIGHTED: tl.constexpr):
    """S and w of a block of pixels, 0 where they do not count; a bad S sets the window's poison."""
    fg_P = tl.load(fg + image * pixels + pixel, mask=inside, other=0.0)
    weight_P = inside.to(tl.float32)
    if WEIGHTED:
        place = image * row + pixel.to(tl.int64) * step
        weight_P = tl.load(weights + place, mask=inside, other=0.0)
    good = (fg_P >= -_SLACK) & (fg_P <= 1.0 + _SLACK)  # false for NaN
    if tl.sum(((weight_P > 0.0) & (good == 0)).to(tl.int32)) > 0:
        tl.store(poison + window, 1)
    return tl.where(good & (weight_P > 0.0), fg_P, 0.0), weight_P


@triton.jit
def splat_words(
    frames, fg, weights, row, step, words, poison, pixels, n_frames,
    SHIFT: tl.constexpr, FRACTION: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Add count and S of each pixel to its bin's word. Grid: blocks of pixels, frames, windows."""
    window = tl.program_id(2)
    image = (window * n_frames + tl.program_id(1)).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    code = _codes(frames, image, pixel, inside, pixels)
    fg_P, weight_P = _map_and_weights(fg, weights, poison, window, image, pixel, inside, pixels, row, step, WEIGHTED)
    scale: tl.constexpr = 1 << FRACTION
    count = (weight_P > 0.0).to(tl.int64)
    # To the nearest integer, ties to even, by the last bit of a number in [2^23, 2^24]. Ties upward would be a bias
    # that all pixels share; maps that were 16 bits wide have many ties.
    whole = (fg_P * scale + 12582912.0) - 12582912.0
    word = (count << SHIFT) + whole.to(tl.int64)
    code_RQ, word_RQ = tl.reshape(code, [BLOCK // RUN, RUN]), tl.reshape(word, [BLOCK // RUN, RUN])
    code_R, sum_R = tl.min(code_RQ, 1), tl.sum(word_RQ, 1)
    same_R = code_R == tl.max(code_RQ, 1)
    start = words + window.to(tl.int64) * _BINS
    tl.atomic_add(start + _bin_of(code_R), sum_R, mask=same_R & (sum_R != 0), sem="relaxed")
    alone = (same_R == 0)[:, None] & (word_RQ != 0)
    tl.atomic_add(start + _bin_of(code_RQ), word_RQ, mask=alone, sem="relaxed")


@triton.jit
def _add(bins, channel_size, code, value, ones, mask, base, taps, NODES: tl.constexpr):
    if NODES == 0:
        place = bins + _bin_of(code)
        tl.atomic_add(place, value, mask=mask, sem="relaxed")
        tl.atomic_add(place + channel_size, ones, mask=mask, sem="relaxed")
    else:
        blue = code & 255
        place = bins + (code >> 8) * NODES + tl.load(base + blue)
        for tap in tl.static_range(4):
            share = tl.load(taps + blue * 4 + tap)
            tl.atomic_add(place + tap, share * value, mask=mask, sem="relaxed")
            tl.atomic_add(place + channel_size + tap, share * ones, mask=mask, sem="relaxed")


@triton.jit
def splat_floats(
    frames, fg, weights, row, step, bins, poison, base, taps, pixels, n_frames,
    NODES: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Add w t and w of each pixel to its bin, or with NODES > 0 to its four nodes. Grid as in :func:`splat_words`."""
    window = tl.program_id(2)
    image = (window * n_frames + tl.program_id(1)).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    code = _codes(frames, image, pixel, inside, pixels)
    fg_P, weight_P = _map_and_weights(fg, weights, poison, window, image, pixel, inside, pixels, row, step, WEIGHTED)
    value_RQ = tl.reshape(weight_P * (1.0 - 2.0 * fg_P), [BLOCK // RUN, RUN])
    ones_RQ = tl.reshape(weight_P, [BLOCK // RUN, RUN])
    code_RQ = tl.reshape(code, [BLOCK // RUN, RUN])
    code_R = tl.min(code_RQ, 1)
    same_R = code_R == tl.max(code_RQ, 1)
    size = 65536 * NODES if NODES > 0 else _BINS
    start = bins + window.to(tl.int64) * 2 * size
    _add(start, size, code_R, tl.sum(value_RQ, 1), tl.sum(ones_RQ, 1), same_R, base, taps, NODES)
    alone = (same_R == 0)[:, None] & (ones_RQ > 0.0)
    _add(start, size, code_RQ, value_RQ, ones_RQ, alone, base, taps, NODES)


@triton.jit
def rows_of_bricks(
    marks, bins, factor, table,
    SHIFT: tl.constexpr, FRACTION: tl.constexpr, CHANNELS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Bins times U along blue, for 8 x 8 (red, green) pairs. SHIFT 0: two channels of floats, else words.

    Grid: columns of 16 bricks, windows. Table: ``[windows, channels, 256, 256, RANK]``, written everywhere.
    """
    tile = tl.program_id(0)
    window = tl.program_id(1).to(tl.int64)
    pair, level, column = tl.arange(0, 64), tl.arange(0, 16), tl.arange(0, RANK)
    sum_t = tl.zeros([64, RANK], dtype=tl.float32)
    sum_1 = tl.zeros([64, RANK], dtype=tl.float32)
    marked = marks + window * (_BINS // _BRICK) + tile * 16
    if tl.sum(tl.load(marked + tl.arange(0, 16))) > 0:
        for brick in range(16):
            if tl.load(marked + brick) > 0:
                place = (tile * 16 + brick) * _BRICK + pair[:, None] * 16 + level[None, :]
                weights = tl.load(factor + (brick * 16 + level)[:, None] * RANK + column[None, :])
                if SHIFT > 0:
                    word = tl.load(bins + window * _BINS + place)
                    half: tl.constexpr = 1 << (SHIFT - 1)
                    scale: tl.constexpr = 1.0 / (1 << FRACTION)
                    count = (word + half) >> SHIFT
                    rest = word - (count << SHIFT)
                    # Subtracted as integers: as floats, a bin of many pixels with S near 1/2 would lose digits.
                    t = ((count << FRACTION) - 2 * rest).to(tl.float32) * scale
                    ones = count.to(tl.float32)
                else:
                    t = tl.load(bins + window * 2 * _BINS + place)
                    ones = tl.load(bins + (window * 2 + 1) * _BINS + place)
                if CHANNELS != _ONES:
                    sum_t = tl.dot(t, weights, sum_t, input_precision="ieee")
                if CHANNELS != _MAP:
                    sum_1 = tl.dot(ones, weights, sum_1, input_precision="ieee")
    red, green = (tile // 32) * 8 + pair // 8, (tile % 32) * 8 + pair % 8
    out = (red * 256 + green)[:, None] * RANK + column[None, :]
    if CHANNELS == _BOTH:
        tl.store(table + window * 2 * 65536 * RANK + out, sum_t)
        tl.store(table + (window * 2 + 1) * 65536 * RANK + out, sum_1)
    elif CHANNELS == _MAP:
        tl.store(table + window * 65536 * RANK + out, sum_t)
    else:
        tl.store(table + window * 65536 * RANK + out, sum_1)


@triton.jit
def rows_of_nodes(
    bins, factor, table, NODES: tl.constexpr, CHANNELS: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr
):
    """The same as :func:`rows_of_bricks` from nodes of a grid. Grid: blocks of (red, green) pairs, windows."""
    window = tl.program_id(1).to(tl.int64)
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, RANK)
    count: tl.constexpr = 2 if CHANNELS == _BOTH else 1
    first_channel: tl.constexpr = 1 if CHANNELS == _ONES else 0
    for channel in tl.static_range(count):
        total = tl.zeros([BLOCK, RANK], dtype=tl.float32)
        for first in range(0, NODES, 16):
            node = first + tl.arange(0, 16)
            known = node < NODES
            start = bins + (window * 2 + first_channel + channel) * 65536 * NODES
            values = tl.load(start + pair[:, None] * NODES + node[None, :], mask=known[None, :], other=0.0)
            weights = tl.load(factor + node[:, None] * RANK + column[None, :], mask=known[:, None], other=0.0)
            total = tl.dot(values, weights, total, input_precision="ieee")
        out = (window * count + channel) * 65536 * RANK
        tl.store(table + out + pair[:, None] * RANK + column[None, :], total)


@triton.jit
def times(
    factor, inputs, outputs, row_stride, inner_stride,
    ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """outputs[x] = factor [ROWS, INNER] @ inputs[x] [INNER, COLUMNS]. Grid: blocks of rows, of columns, x."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    matrix = tl.program_id(2).to(tl.int64)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for first in range(0, INNER, BLOCK_INNER):
        inner = first + tl.arange(0, BLOCK_INNER)
        left = tl.load(factor + row[:, None] * row_stride + inner[None, :] * inner_stride)
        right = tl.load(inputs + matrix * INNER * COLUMNS + inner[:, None] * COLUMNS + column[None, :])
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(outputs + matrix * ROWS * COLUMNS + row[:, None] * COLUMNS + column[None, :], total)


@triton.jit
def slice_rows(frames, table, blue_factor, product, pixels, n_frames, RANK: tl.constexpr, BLOCK: tl.constexpr):
    """table[red, green] . U[blue] of each pixel. Grid: blocks of pixels, frames, windows."""
    window = tl.program_id(2)
    image = (window * n_frames + tl.program_id(1)).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    code = _codes(frames, image, pixel, inside, pixels)
    column = tl.arange(0, RANK)
    row = table + window.to(tl.int64) * 65536 * RANK
    left = tl.load(row + (code >> 8)[:, None] * RANK + column[None, :])
    right = tl.load(blue_factor + (code & 255)[:, None] * RANK + column[None, :])
    tl.store(product + image * pixels + pixel, tl.sum(left * right, 1), mask=inside)


@triton.jit
def bins_of_rows(marks, table, blue_factor, bins, RANK: tl.constexpr):
    """table[red, green] . U[blue] of each bin in a marked brick. Grid: columns of 16 bricks, windows."""
    tile = tl.program_id(0)
    window = tl.program_id(1).to(tl.int64)
    pair, level, column = tl.arange(0, 64), tl.arange(0, 16), tl.arange(0, RANK)
    marked = marks + window * (_BINS // _BRICK) + tile * 16
    if tl.sum(tl.load(marked + tl.arange(0, 16))) > 0:
        red, green = (tile // 32) * 8 + pair // 8, (tile % 32) * 8 + pair % 8
        rows = tl.load(table + window * 65536 * RANK + (red * 256 + green)[:, None] * RANK + column[None, :])
        for brick in range(16):
            if tl.load(marked + brick) > 0:
                weights = tl.load(blue_factor + (brick * 16 + level)[None, :] * RANK + column[:, None])
                place = (tile * 16 + brick) * _BRICK + pair[:, None] * 16 + level[None, :]
                tl.store(bins + window * _BINS + place, tl.dot(rows, weights, input_precision="ieee"))


@triton.jit
def slice_bins(frames, bins, product, pixels, n_frames, BLOCK: tl.constexpr):
    """The bin of each pixel. Grid: blocks of pixels, frames, windows."""
    window = tl.program_id(2)
    image = (window * n_frames + tl.program_id(1)).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    code = _codes(frames, image, pixel, inside, pixels)
    values = tl.load(bins + window.to(tl.int64) * _BINS + _bin_of(code), mask=inside, other=0.0)
    tl.store(product + image * pixels + pixel, values, mask=inside)
