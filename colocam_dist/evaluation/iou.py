"""Intersection over union as published: box ends are inclusive pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["iou_inclusive", "scale_boxes"]


def iou_inclusive(boxes: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of every box with every true box, with extents x1 - x0 + 1 (public code).

    Args:
        boxes: ``[T, 4]`` as x0, y0, x1, y1.
        truth: ``[k, 4]``.

    Returns:
        float64 ``[T, k]`` in [0, 1].
    """
    a, b = boxes[:, None].astype(np.float64), truth[None].astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    overlap = np.clip(high - low + 1.0, 0.0, None).prod(-1)
    areas = [(box[..., 2:] - box[..., :2] + 1.0).prod(-1) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap)


def scale_boxes(boxes: NDArray[Any], width: int, height: int, size: int) -> NDArray[np.int64]:
    """Boxes of a width x height frame in the coordinates of its size x size copy, truncated to integers (public code).

    Args:
        boxes: ``[k, 4]`` in pixels of the frame.
        width: of the frame, pixels.
        height: of the frame, pixels.
        size: side of the square, pixels.
    """
    # Multiplied before divided: a quotient rounded first lands just below some whole numbers (720 of 1280 pixels).
    return (boxes.astype(np.float64) * size / np.array([width, height] * 2)).astype(np.int64)
