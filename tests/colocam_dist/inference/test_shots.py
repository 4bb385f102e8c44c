"""Whole shots: which frames a rank takes, and that all of a shot's maps come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from colocam_dist.inference.score import Scorer
from colocam_dist.inference.shots import each_shot, frames_of_shots, numbers_of_frames, part_of_rank

OnRanks = Callable[[int, Callable[[Any], Any]], list[Any]]


@pytest.fixture
def scorer(make_scorer: Callable[..., Scorer], on_ranks: OnRanks) -> Scorer:
    return on_ranks(1, make_scorer)[0]


def test_shots_with_a_labeled_frame_are_taken_whole(scorer: Scorer) -> None:
    index = scorer.index
    keys = [shot.key for shot in index.shots]
    assert [key.split("/", 1)[0] for key in keys] == ["bird"] * 3 + ["cat"] * 2
    found = frames_of_shots(index, scorer.frames)
    assert [keys[shot] for shot in dict.fromkeys(index.frame_shot[found].tolist())] == [*keys[:3], keys[4]]
    assert len(found) == 7 + 1 + 5 + 4
    assert len(scorer.frames) == 5 + 1 + 3 + 4


def test_numbers_are_those_of_the_video_also_when_frames_are_left_out(scorer: Scorer) -> None:
    numbers = numbers_of_frames(scorer.index, scorer.frames)
    assert numbers.tolist() == [0, 1, 3, 5, 6, 0, 0, 1, 3, 0, 7, 14, 21]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_ranks_take_whole_shots_and_together_all_frames_once(scorer: Scorer, world: int) -> None:
    frames = frames_of_shots(scorer.index, scorer.frames)
    parts = [part_of_rank(scorer.index, frames, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), frames)
    shots = [set(scorer.index.frame_shot[part].tolist()) for part in parts]
    assert sum(len(some) for some in shots) == 4
    if world == 2:
        assert [len(part) for part in parts] == [8, 9]


def test_maps_of_a_shot_come_together_whatever_the_batches(scorer: Scorer, colors: Any) -> None:
    frames = frames_of_shots(scorer.index, scorer.frames)
    shots = list(each_shot(scorer, colors, colors, frames, cut=0.01))
    assert [len(shot.frames_T) for shot in shots] == [7, 1, 5, 4]
    assert np.array_equal(np.concatenate([shot.frames_T for shot in shots]), frames)
    assert shots[3].timeline.numbers_T.tolist() == [0, 7, 14, 21]
    assert shots[0].maps_THW.shape == (7, 37, 37)
    assert shots[0].predicted_T.dtype == np.int64
    assert not torch.is_grad_enabled() or not colors.training


def test_a_request_to_stop_ends_it(scorer: Scorer, colors: Any) -> None:
    scorer.workers.progress.stop_reason = lambda: "TERM"
    assert list(each_shot(scorer, colors, colors, scorer.frames)) == []
