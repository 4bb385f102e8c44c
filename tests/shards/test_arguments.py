from __future__ import annotations

import argparse

import pytest

from shards.arguments import number, positive, say_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 kB"),
        (840, "0.8 kB"),
        (3_140_000, "3.1 MB"),
        (999_000_000, "999.0 MB"),
        (1e9, "1.0 GB"),
        (2.5e13, "25.0 TB"),
    ],
)
def test_sizes_have_a_unit_that_fits(size: float, text: str) -> None:
    assert say_bytes(size) == text


def test_numbers_out_of_range() -> None:
    assert (number(0)("0"), number(1, 64)("64"), positive("0.5")) == (0, 64, 0.5)
    for kind, text in ((number(0), "-1"), (number(1, 64), "65"), (positive, "0"), (positive, "inf")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not"):
            kind(text)
