"""One global batch, many ways to divide it."""

from __future__ import annotations

import pytest

from colocam_dist.config import load
from colocam_dist.errors import ConfigError
from colocam_dist.training.batches import micro_batch, stage_batch


@pytest.mark.parametrize(
    ("frames", "n", "world", "accumulation", "expected"),
    [
        (32, 4, 1, 1, (8, 8)),
        (32, 4, 2, 2, (8, 2)),
        (32, 1, 4, 1, (32, 8)),
        (32, 6, 1, 1, (5, 5)),
        (32, 18, 1, 1, (1, 1)),
    ],
)
def test_windows_per_step_and_per_micro_batch(
    frames: int, n: int, world: int, accumulation: int, expected: tuple[int, int]
) -> None:
    assert micro_batch(frames, n, world, accumulation, "localizer.global_batch") == expected


@pytest.mark.parametrize(("frames", "n", "world", "accumulation"), [(32, 4, 3, 1), (32, 4, 2, 8), (4, 4, 2, 1)])
def test_an_indivisible_batch_names_one_that_works(frames: int, n: int, world: int, accumulation: int) -> None:
    with pytest.raises(ConfigError, match="cannot be divided") as caught:
        micro_batch(frames, n, world, accumulation, "localizer.global_batch")
    assert caught.value.fix is not None
    good = int(caught.value.fix.split("=")[1].split(",")[0])
    micro_batch(good, n, world, accumulation, "localizer.global_batch")


def test_windows_are_divided_among_groups_of_ranks_that_share_them() -> None:
    config = load(None, ["data.shards=x", "engine.window_ranks=2"])  # 32 frames, windows of 4
    assert stage_batch(config, "localizer", 2) == (8, 8)
    assert stage_batch(config, "localizer", 8) == (8, 2)
    assert stage_batch(config, "classifier", 8) == (32, 4)
    assert stage_batch(config, "classifier", 1) == (32, 32)
    with pytest.raises(ConfigError, match="groups that share windows"):
        stage_batch(config, "localizer", 3)
