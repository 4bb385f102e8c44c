"""Pictures with heat, boxes and captions. All images are uint8 RGB ``[H, W, 3]``; inputs are never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["LAYERCAM_COLOR", "LOCALIZER_COLOR", "TRUTH_COLOR", "draw_box", "draw_prediction", "heat", "label"]

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

# Colors that stay apart for all common kinds of color blindness (Okabe and Ito).
TRUTH_COLOR: Color = (0, 190, 120)
LAYERCAM_COLOR: Color = (230, 159, 0)
LOCALIZER_COLOR: Color = (86, 180, 233)


def heat(image_HWC: Image, map_HW: NDArray[np.float32]) -> Image:
    """The image under a map in [0, 1] of any size: the stronger the map, the less of the image shows through."""
    height, width = image_HWC.shape[:2]
    strength_HW = cv2.resize(np.asarray(map_HW, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    strength_HW = np.clip(strength_HW, 0.0, 1.0)
    colors_BGR = cv2.applyColorMap((strength_HW * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    alpha_HW1 = (0.15 + 0.5 * strength_HW)[..., None]
    mixed = image_HWC * (1.0 - alpha_HW1) + cv2.cvtColor(colors_BGR, cv2.COLOR_BGR2RGB) * alpha_HW1
    return np.asarray(mixed.round(), np.uint8)


def draw_box(image_HWC: Image, box: Sequence[float] | NDArray[Any], color: Color) -> Image:
    """The image with a box (x0, y0, x1, y1 in pixels, end pixels included) in `color` on a dark outline.

    An empty box (all zero: nothing was found) is not drawn.
    """
    picture = np.ascontiguousarray(image_HWC).copy()
    x0, y0, x1, y1 = (round(float(end)) for end in box)
    if (x0, y0, x1, y1) == (0, 0, 0, 0):
        return picture
    line = max(1, round(min(picture.shape[:2]) / 110))
    for width, shade in ((line + 2, (16, 16, 16)), (line, color)):
        cv2.rectangle(picture, (x0, y0), (x1, y1), shade, width, cv2.LINE_8)
    return picture


def label(image_HWC: Image, text: str, color: Color = (255, 255, 255)) -> Image:
    """The image with `text` on a dark strip at its upper left; characters outside ASCII become ``?``."""
    picture = np.ascontiguousarray(image_HWC).copy()
    plain = text.encode("ascii", "replace").decode()
    scale = max(0.35, min(picture.shape[:2]) / 480)
    (width, height), below = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    strip = picture[: height + below + 4, : width + 8]
    strip[:] = (strip * 0.3).astype(np.uint8)
    cv2.putText(picture, plain, (4, height + 3), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
    return picture


def draw_prediction(
    image_HWC: Image, map_HW: NDArray[np.float32], box: Sequence[float] | NDArray[Any], text: str
) -> Image:
    """Heat, box and caption of one predicted frame."""
    return label(draw_box(heat(image_HWC, map_HW), box, LOCALIZER_COLOR), text)
