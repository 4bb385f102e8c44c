"""Boxes from maps by the published rule: threshold, contours, bounding box of the largest one.

T thresholds, H and W the map's size in pixels, k boxes.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["above_threshold", "all_boxes_over_thresholds", "box_at", "boxes_over_thresholds", "threshold_grid"]

Map = NDArray[np.float32]
Boxes = NDArray[np.int16]


@cache
def threshold_grid(count: int) -> NDArray[np.float64]:
    """`count` thresholds 0, 1/count, 2/count, ... below 1 (published: 1000 for tests, 250 for validation)."""
    grid = np.arange(count) / count
    grid.setflags(write=False)
    return grid


def boxes_over_thresholds(map_HW: Map, thresholds: NDArray[np.float64]) -> Boxes:
    """The box of the largest contour at every threshold.

    Public code: u8 = floor(255 map); u8 > int(tau * max(u8)); contours of all hierarchy levels; the one of largest
    area, the first of equals; (x, y, min(x + w, W - 1), min(y + h, H - 1)). Thresholds that leave the same pixels share
    one contour search, so there are at most 256 for any number of thresholds.

    Args:
        map_HW: float ``[H, W]`` in [0, 1].
        thresholds: tau in [0, 1), relative to the map's own maximum.

    Returns:
        int16 ``[T, 4]`` as x0, y0, x1, y1 in pixels of the map; zeros where nothing exceeds the threshold.

    Raises:
        ValueError: the map is not finite or not in [0, 1].
    """
    gray, cuts, place_T = _cuts(map_HW, thresholds)
    boxes = np.zeros((len(cuts), 4), np.int16)
    for box, cut in zip(boxes, cuts.tolist(), strict=True):
        contours = _contours(gray, cut)
        if contours:
            box[:] = _bounding_box(max(contours, key=cv2.contourArea), gray.shape)
    return boxes[place_T]


def all_boxes_over_thresholds(map_HW: Map, thresholds: NDArray[np.float64]) -> list[Boxes]:
    """The boxes of all contours at every threshold (the published code's variant "multi"), each int16 ``[k, 4]``.

    One zero box where nothing exceeds the threshold. Arguments and errors as in :func:`boxes_over_thresholds`.
    """
    gray, cuts, place_T = _cuts(map_HW, thresholds)
    found = []
    for cut in cuts.tolist():
        boxes = [_bounding_box(contour, gray.shape) for contour in _contours(gray, cut)]
        found.append(np.array(boxes or [(0, 0, 0, 0)], np.int16))
    return [found[place] for place in place_T.tolist()]


def box_at(map_HW: Map, threshold: float) -> NDArray[np.int16]:
    """The box of the largest contour at one threshold, int16 ``[4]``; see :func:`boxes_over_thresholds`."""
    return boxes_over_thresholds(map_HW, np.array([threshold]))[0]


def above_threshold(map_HW: Map, threshold: float) -> NDArray[np.bool_]:
    """The pixels that exceed one threshold, bool ``[H, W]``; see :func:`boxes_over_thresholds`."""
    gray, cuts, _ = _cuts(map_HW, np.array([threshold]))
    return gray > cuts[0]


def _cuts(
    map_HW: Map, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.intp]]:
    """The map in 0..255, the cuts that leave different pixels, and the position among them of each threshold's cut."""
    low, high = float(map_HW.min()), float(map_HW.max())
    if not (low >= 0.0 and high <= 1.0):  # also when one of them is NaN
        raise ValueError(f"boxes: wanted a finite map in [0, 1], got values from {low} to {high}")
    gray = np.asarray(map_HW * 255, np.uint8)
    cuts_T = (thresholds * int(gray.max())).astype(np.int64)
    # Cuts with no gray value between them leave the same pixels: count the values present up to each cut.
    present = np.bincount(gray.ravel(), minlength=256) > 0
    _, first, place_T = np.unique(np.cumsum(present)[cuts_T], return_index=True, return_inverse=True)
    return gray, cuts_T[first], place_T


def _contours(gray: NDArray[np.uint8], cut: int) -> list[NDArray[np.int32]]:
    binary = (gray > cut).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, np.int32) for contour in contours]


def _bounding_box(contour: NDArray[np.int32], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, min(x + width, shape[1] - 1), min(y + height, shape[0] - 1)
