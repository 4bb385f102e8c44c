"""IoU with inclusive ends, and boxes moved to the square."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.evaluation.iou import iou_inclusive, scale_boxes


def test_iou_counts_end_pixels() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [20, 20, 29, 29]])
    iou = iou_inclusive(boxes, boxes[:1])
    assert iou[:, 0].tolist() == pytest.approx([1.0, 50 / 150, 0.0])


def test_iou_of_several_true_boxes_equals_counted_pixels() -> None:
    boxes = np.array([[1, 2, 6, 9], [0, 0, 0, 0]])
    truth = np.array([[3, 4, 11, 7], [0, 0, 4, 4], [8, 8, 10, 12]])

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = box.tolist()
        return {(x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)}

    counted = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in truth] for a in boxes]
    assert np.allclose(iou_inclusive(boxes, truth), counted, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("size", [224, 97, 64])
@pytest.mark.parametrize("width", [1280, 1272, 1916, 640, 480, 320, 53])
def test_whole_coordinates_are_scaled_without_rounding_errors(width: int, size: int) -> None:
    x = np.arange(width + 1)
    scaled = scale_boxes(np.stack([x, 0 * x, x, 0 * x], axis=1), width, 7, size)
    assert scaled[:, 0].tolist() == [int(one) * size // width for one in x]
    assert np.array_equal(scaled[:, 2], scaled[:, 0])


def test_both_axes_are_scaled_and_cut_towards_zero() -> None:
    assert scale_boxes(np.array([[-1.0, 10.9, 50.5, 45.0]]), 100, 90, 30).tolist() == [[0, 3, 15, 15]]
