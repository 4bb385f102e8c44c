from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shards.grouping import group_units
from shards.images import PictureRule
from shards.sources.base import Frame, Unit, natural_key, share_out


@dataclass(frozen=True)
class Sized(Unit):
    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        raise AssertionError("planning reads no frames")


def unit(video: str, size: int, cls: str = "cat", shot: str = "0") -> Sized:
    return Sized("train", cls, video, shot, size, "")


def test_shards_are_filled_in_sorted_order() -> None:
    units = [unit("v10", 40), unit("v2", 30), unit("v1", 50), unit("v3", 20, "ant"), unit("v4", 200), unit("v5", 1)]
    groups = group_units(units, 100)
    assert [[u.cls + u.video for u in group] for group in groups] == [
        ["antv3", "catv1", "catv2"],
        ["catv4"],
        ["catv5", "catv10"],
    ]


def test_the_order_of_the_input_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    units = [unit(f"v{i}", int(size), shot=str(i % 3)) for i, size in enumerate(rng.integers(1, 60, 50))]
    groups = group_units(units, 100)
    shuffled = [units[i] for i in rng.permutation(50)]
    assert group_units(shuffled, 100) == groups
    assert all(sum(u.estimated_bytes for u in group) <= 100 for group in groups)
    assert sorted(u.video for group in groups for u in group) == sorted(u.video for u in units)


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["frame10.jpg", "frame9.jpg", "frame009.jpg", "a", "10", "9", "²3"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "frame009.jpg", "frame9.jpg", "frame10.jpg", "²3"]


def test_shares() -> None:
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    assert [share_out(24, shares).count(split) for split in ("train", "val", "test")] == [17, 3, 4]
    assert share_out(1, shares) == ["train"]
    assert share_out(3, {"train": 0.1, "test": 0.9}) == ["train", "test", "test"]
    assert share_out(2, {"test": 1.0}) == ["test", "test"]
