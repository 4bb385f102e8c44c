"""Votes by color: the operator against a loop, and frames in which color does, or does not, tell the object."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import color_votes
from benchmarks.color_votes import BOTH, MAPS, SIDE, TRUE_BOXES, TRUE_VOTES, VOTES, Frames

CROP = 2 * SIDE


def test_votes_are_those_of_a_loop_over_pixels() -> None:
    random = torch.Generator().manual_seed(3)
    colors = 60 * torch.rand(3, 5, 3, generator=random)
    values = torch.rand(3, 5, 2, generator=random)
    sums, weights = color_votes.shares(colors, values, 15.0)
    for first, last in ((0, 1), (0, 2), (0, 3), (1, 3)):
        found = color_votes.votes(sums[first:last], weights[first:last], values[first:last])
        for pixel in range(5):
            over, under = [0.0, 0.0], 0.0
            for frame in range(first, last):
                for other in range(5):
                    squares = [(a - b) ** 2 for a, b in zip(colors[0, pixel], colors[frame, other], strict=True)]
                    weight = math.exp(-float(sum(squares)) / (2 * 15.0**2))
                    under += weight
                    over = [sum_ + weight * float(values[frame, other, k]) for k, sum_ in enumerate(over)]
            assert found[pixel].tolist() == pytest.approx([sum_ / under for sum_ in over], rel=1e-5)


def test_a_color_that_no_other_frame_has_takes_the_plain_mean() -> None:
    colors = torch.zeros(2, 4, 3)
    colors[1] = 255.0
    values = torch.rand(2, 4, 1)
    sums, weights = color_votes.shares(colors, values, 15.0)
    assert color_votes.votes(sums[1:], weights[1:], values[1:])[:, 0].tolist() == pytest.approx(
        [float(values[1].mean())] * 4
    )


def frames_of(red_object: bool, starts: list[int]) -> tuple[Frames, Any]:
    """A shot of frames with a square at the given places, red or of the color of the grass, and a lone frame."""
    colors = torch.zeros(len(starts) + 1, SIDE, SIDE, 3)
    colors[..., 1] = 200.0
    boxes = torch.zeros(len(starts) + 1, SIDE, SIDE)
    for frame, start in enumerate([*starts, 0]):
        boxes[frame, start : start + 8, start : start + 8] = 1.0
        if red_object:
            colors[frame, start : start + 8, start : start + 8] = torch.tensor([200.0, 0.0, 0.0])
    truth = [np.array([[2 * start, 2 * start, 2 * start + 15, 2 * start + 15]]) for start in [*starts, 0]]
    shots = np.array([0] * len(starts) + [1], np.int32)
    wrong = boxes.clone()
    wrong[0] = 0.0
    wrong[0, 20:, 20:] = 0.5  # what a localizer says of the first frame
    scorer = SimpleNamespace(
        index=SimpleNamespace(
            shots=[SimpleNamespace(label=0, cls="bird", video="a"), SimpleNamespace(label=0, cls="bird", video="b")],
            frame_shot=shots,
        ),
        frames=np.arange(len(shots)),
        thresholds=np.array([0.25, 0.5, 0.65]),
        truth=truth.__getitem__,
        config=SimpleNamespace(data=SimpleNamespace(crop=CROP), evaluation=SimpleNamespace(iou=0.5)),
    )

    def flat(maps: Tensor) -> Tensor:
        return maps.flatten(1, 2)

    return Frames(flat(colors), flat(wrong), flat(boxes), shots), scorer


def test_true_boxes_of_other_frames_find_an_object_of_its_own_color_wherever_it_is() -> None:
    frames, scorer = frames_of(True, [0, 10, 20])
    found = color_votes.compare(scorer, frames, [1, 2, 3], 15.0)
    assert found[TRUE_VOTES] == [None, 100.0, 100.0]
    assert found[TRUE_BOXES] == [None, 0.0, 0.0]
    assert found[MAPS] == [75.0] * 3
    assert found[VOTES] == [75.0, 100.0, 100.0], "the other frames are right about red"
    assert found[BOTH][0] == 75.0


def test_colors_tell_nothing_where_object_and_background_share_them() -> None:
    frames, scorer = frames_of(False, [0, 0, 0])
    found = color_votes.compare(scorer, frames, [2], 15.0)
    assert found[TRUE_VOTES] == [0.0]
    assert found[TRUE_BOXES] == [100.0]
    assert found[VOTES] == [0.0]


def test_a_window_is_the_frame_and_the_nearest_of_its_shot() -> None:
    frames = Frames(torch.empty(0), torch.empty(0), torch.empty(0), np.array([0, 0, 3, 3, 3, 3, 4], np.int32))
    assert frames.window(3, 3) == [3, 2, 4]
    assert frames.window(5, 3) == [5, 4, 3]
    assert frames.window(2, 18) == [2, 3, 4, 5]
    assert frames.window(6, 4) == [6]


def test_the_program_prints_a_table_with_the_caveats(
    small_run: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--run", str(small_run), f"data.shards={tiny_shards}", "data.split=val", "data.caveats=[drawn by a test]"]
    monkeypatch.setattr("sys.argv", ["color_votes.py", "--frames", "1,3", *given])
    color_votes.main()
    printed = capsys.readouterr().out
    assert "> drawn by a test" in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["CorLoc", MAPS, BOTH, VOTES, TRUE_VOTES, TRUE_BOXES]
    assert all(0 <= float(cell) <= 100 for row in rows[1:] for cell in row[1:] if cell.strip())
    assert rows[1][1] == rows[1][2]


@pytest.mark.parametrize("wrong", ["0", "2,", "-1", "1.5", "2,0,4", "many"])
def test_numbers_of_frames_that_are_none_are_refused(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["color_votes.py", "--run", "none", f"--frames={wrong}"])
    with pytest.raises(SystemExit):
        color_votes.main()
    assert f"--frames: got '{wrong}', wanted whole numbers from 1 up" in capsys.readouterr().err
