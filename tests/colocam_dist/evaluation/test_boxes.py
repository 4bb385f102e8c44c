"""Boxes: equal to published outputs, and to a search at every single threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from colocam_dist.evaluation.boxes import all_boxes_over_thresholds, box_at, boxes_over_thresholds, threshold_grid
from colocam_dist.evaluation.iou import iou_inclusive, scale_boxes


@pytest.fixture
def published(shared: Path) -> Any:
    return np.load(shared / "fixtures" / "eval_boxes.npz")


@pytest.fixture
def published_maps(published: Any) -> Any:
    low = torch.from_numpy(published["cam_low"])[:, None]
    return torch.nn.functional.interpolate(low, size=(224, 224), mode="bilinear", align_corners=False)[:, 0].numpy()


@pytest.mark.shared
def test_boxes_and_iou_equal_the_published_code_exactly(published: Any, published_maps: Any) -> None:
    for number, map_HW in enumerate(published_maps):
        boxes = boxes_over_thresholds(map_HW, threshold_grid(1000))
        assert np.array_equal(boxes, published["boxes_largest"][number])
        raw = published["gt_boxes"][number]
        width, height = published["image_wh"][number].tolist()
        truth = scale_boxes(raw[raw[:, 0] >= 0], width, height, 224)
        assert np.array_equal(truth, published["gt_boxes_224"][number][: len(truth)])
        assert np.array_equal(iou_inclusive(boxes, truth).max(1), published["iou_largest"][number])
        every = all_boxes_over_thresholds(map_HW, threshold_grid(1000))
        best = [iou_inclusive(some, truth).max() for some in every]
        assert np.array_equal(best, published["iou_multi"][number])


def one_threshold(map_HW: np.ndarray, tau: float) -> tuple[int, ...]:
    """The published rule, word for word, for one threshold."""
    gray = (map_HW * 255).astype(np.uint8)
    binary = (gray > int(tau * gray.max())).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return 0, 0, 0, 0
    areas = [cv2.contourArea(contour) for contour in contours]
    x, y, width, height = cv2.boundingRect(contours[areas.index(max(areas))])
    return x, y, min(x + width, map_HW.shape[1] - 1), min(y + height, map_HW.shape[0] - 1)


@pytest.mark.parametrize("size", [(31, 47), (1, 1), (5, 200)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shortcut_equals_a_search_per_threshold(size: tuple[int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).random((*size, 1), dtype=np.float32)
    map_HW = cv2.blur(noise, (3, 3)).reshape(size) if seed else noise[..., 0]
    grid = threshold_grid(333)
    ours = boxes_over_thresholds(map_HW, grid)
    assert [tuple(box) for box in ours.tolist()] == [one_threshold(map_HW, tau) for tau in grid]
    assert tuple(box_at(map_HW, 0.5).tolist()) == one_threshold(map_HW, 0.5)


def test_thresholds_that_leave_the_same_pixels_share_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[int] = []
    search = cv2.findContours

    def counted(binary: np.ndarray, mode: int, method: int) -> Any:
        cuts.append(int(binary.sum()))
        return search(binary, mode, method)

    map_HW = np.zeros((13, 17), np.float32)
    map_HW[2:9, 3:12], map_HW[4:6, 5:7] = 0.25, 1.0
    expected = [one_threshold(map_HW, tau) for tau in threshold_grid(1000)]
    monkeypatch.setattr(cv2, "findContours", counted)
    ours = boxes_over_thresholds(map_HW, threshold_grid(1000))
    assert [tuple(box) for box in ours.tolist()] == expected
    assert cuts == [7 * 9, 2 * 2], "one search above 0 and one above 0.25"


def test_empty_and_flat_maps() -> None:
    grid = threshold_grid(10)
    assert not boxes_over_thresholds(np.zeros((9, 9), np.float32), grid).any()
    flat = boxes_over_thresholds(np.full((9, 9), 0.5, np.float32), grid)
    assert (flat == [0, 0, 8, 8]).all(), "every threshold lies below a flat map's own maximum"
    assert all_boxes_over_thresholds(np.zeros((9, 9), np.float32), grid)[3].tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.5])
def test_values_that_are_no_probabilities_are_refused(bad: float) -> None:
    map_HW = np.full((4, 4), 0.5, np.float32)
    map_HW[1, 1] = bad
    with pytest.raises(ValueError, match="finite map in"):
        boxes_over_thresholds(map_HW, threshold_grid(4))
