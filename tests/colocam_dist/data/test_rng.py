from __future__ import annotations

import itertools

from colocam_dist.data.rng import generator


def test_same_key_gives_same_numbers_whatever_was_drawn_before() -> None:
    first = generator(3, 1, 7, "crop").random(5)
    generator(3, 1, 8, "crop").random(100)
    assert (generator(3, 1, 7, "crop").random(5) == first).all()


def test_every_part_of_the_key_counts() -> None:
    keys = itertools.product((0, 1, 12, -1, 2**40), (0, 1, 23), (0, 1, 3, 23), ("crop", "window"))
    drawn = [generator(*key).bit_generator.random_raw() for key in keys]
    assert len(set(drawn)) == len(drawn)


def test_neighboring_keys_are_not_correlated() -> None:
    uniform = [generator(0, 0, item, "crop").random() for item in range(2000)]
    mean = sum(uniform) / 2000
    lag = sum((a - 0.5) * (b - 0.5) for a, b in itertools.pairwise(uniform)) / 1999
    assert abs(mean - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    assert abs(lag) < 4 / 12 / 2000**0.5


def test_bits_are_the_same_on_every_machine() -> None:
    # NumPy promises the bits of Philox; were they or the key's hash to change, saved runs could not be continued.
    assert generator(0, 0, 0, "order").bit_generator.random_raw(2).tolist() == [
        1235096666649342042,
        2963655108800698522,
    ]
