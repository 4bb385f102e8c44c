"""Count and sum of one histogram bin in one 64-bit word, so that sums do not depend on the order of the pixels.

word = (number of pixels << shift) + sum of round(S * 2^fraction). Integers add exactly: any order, any number of
threads and any split of the pixels give the same bits, and one addition per pixel fills both sums. With P pixels in a
window all of them may fall into one bin, so the count takes c = bits(P) and the sum c + fraction + 1 of the 63 bits
that are not the sign: shift = fraction + c + 1. The bit more lets a sum be negative by rounding; to read a word, half
of the count's unit is added before the shift.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MIN_FRACTION", "Packing", "packing_for"]

MAX_FRACTION = 22  # so that float32 can round S * 2^fraction by adding 1.5 * 2^23
MIN_FRACTION = 10  # below it a pixel's rounding (2^-11) could show in a window of few colors


class Packing(NamedTuple):
    """Where the count begins and how many bits of S are kept."""

    shift: int
    fraction: int


def packing_for(pixels: int) -> Packing | None:
    """The finest packing that cannot overflow with this many pixels; None beyond 2^26 - 1 of them."""
    count = max(1, pixels.bit_length())
    fraction = min(MAX_FRACTION, 62 - 2 * count)
    return Packing(fraction + count + 1, fraction) if fraction >= MIN_FRACTION else None
