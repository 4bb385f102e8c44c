"""Frame numbers from names, and cuts from colors."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.inference.timeline import SegmentCounter, Timeline, color_histograms, frame_numbers, make_timeline


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["00007.jpg", "00012.jpg"], [7, 12]),
        (["frame0003.jpeg", "frame0010.jpeg"], [3, 10]),
        (["v2_4", "v2_9"], [4, 9]),
        (["12", "13"], [12, 13]),
        (["b.jpg", "c.jpg"], [0, 1]),
        (["9.jpg", "b.jpg"], [0, 1]),
        (["9.jpg", "3.jpg"], [0, 1]),
        (["5.jpg", "5.png"], [0, 1]),
        ([f"{'9' * 30}.jpg", "1.jpg"], [0, 1]),
        ([], []),
    ],
)
def test_numbers_are_what_names_end_with_or_else_positions(names: list[str], numbers: list[int]) -> None:
    found = frame_numbers(names)
    assert found.dtype == np.int64
    assert found.tolist() == numbers


def test_histograms_count_colors() -> None:
    images_NCHW = np.zeros((3, 3, 7, 9), np.uint8)
    images_NCHW[1, 0] = 255  # red
    images_NCHW[2, 2, :, 4:] = 40  # partly dark blue
    histograms = color_histograms(images_NCHW)
    assert histograms.shape == (3, 512)
    assert histograms.sum(1) == pytest.approx(1.0)
    assert histograms[0, 0] == 1.0
    assert histograms[1, 7 * 64] == 1.0
    assert histograms[2, [0, 1]] == pytest.approx([2 / 5, 3 / 5])  # of the columns 0, 2, 4, 6, 8
    assert color_histograms(images_NCHW[:0]).shape == (0, 512)


def test_a_cut_lies_where_colors_have_little_in_common() -> None:
    images_NCHW = np.zeros((5, 3, 9, 9), np.uint8)
    images_NCHW[2, :, :5] = 255  # half of it changes
    images_NCHW[3:] = 255
    histograms = color_histograms(images_NCHW)
    numbers = np.array([3, 4, 5, 9, 10])
    # What neighbors have in common: 1, 4/10, 6/10, 1.
    assert make_timeline(numbers, histograms, 0.5).segments_T.tolist() == [0, 0, 1, 1, 1]
    assert make_timeline(numbers, histograms, 0.7).segments_T.tolist() == [0, 0, 1, 2, 2]
    assert make_timeline(numbers, histograms, 0.0).segments_T.tolist() == [0] * 5
    disjoint = histograms[[0, 4]]
    assert make_timeline(numbers[:2], disjoint, 0.0).segments_T.tolist() == [0, 0], "0 looks for no cuts"
    assert make_timeline(numbers).segments_T.tolist() == [0] * 5
    assert len(make_timeline(numbers)) == 5
    assert len(make_timeline(numbers[:0], histograms[:0], 0.5)) == 0


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_segments_of_frames_one_by_one_are_those_of_all_together(cut: float) -> None:
    images_NCHW = np.random.default_rng(0).integers(0, 2, (40, 3, 5, 3), np.uint8) * 255
    wanted = make_timeline(np.arange(40), color_histograms(images_NCHW), cut).segments_T.tolist()
    segments = SegmentCounter(cut)
    assert [segments.next(image_CHW) for image_CHW in images_NCHW] == wanted
    assert (len(set(wanted)) > 1) == (cut > 0)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="in the order of time"):
        make_timeline(np.array([3, 3]))
    with pytest.raises(ValueError, match="in the order of time"):
        Timeline(np.arange(2), np.array([1, 0]))
    with pytest.raises(ValueError, match="a number and a segment for each frame"):
        Timeline(np.arange(2), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="one histogram for each frame"):
        make_timeline(np.arange(2), np.zeros((3, 512), np.float32), 0.5)
