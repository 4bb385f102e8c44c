"""What all Triton kernels over pixels begin with."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def colors(frames, image, pixel, inside, pixels):
    """Red, green and blue of a block of pixels of one frame, int32; 0 outside."""
    start = frames + image * 3 * pixels + pixel
    red = tl.load(start, mask=inside, other=0).to(tl.int32)
    green = tl.load(start + pixels, mask=inside, other=0).to(tl.int32)
    blue = tl.load(start + 2 * pixels, mask=inside, other=0).to(tl.int32)
    return red, green, blue
