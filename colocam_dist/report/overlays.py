"""Pictures with heat, boxes and captions. All images are uint8 RGB ``[H, W, 3]``; inputs are never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOCALIZER_COLOR",
    "METHOD_COLORS",
    "TRUTH_COLOR",
    "contact_sheet",
    "draw_box",
    "draw_prediction",
    "heat",
    "label",
]

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

# After Okabe and Ito: they stay apart for all common kinds of color blindness, and on the heat.
TRUTH_COLOR: Color = (0, 190, 120)
LOCALIZER_COLOR: Color = (86, 180, 233)
METHOD_COLORS: dict[str, Color] = {
    "cam": (240, 228, 66),
    "gradcam": (213, 94, 0),
    "gradcam++": (204, 121, 167),
    "smoothgradcam++": (0, 114, 178),
    "xgradcam": (200, 200, 200),
    "layercam": (230, 159, 0),
    "localizer": LOCALIZER_COLOR,
}
DARK: Color = (16, 16, 16)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SMALLEST_TEXT = 0.32  # below this scale the letters of OpenCV's font run together


def heat(image_HWC: Image, map_HW: NDArray[np.float32]) -> Image:
    """The image under a map in [0, 1] of any size: the stronger the map, the less of the image shows through."""
    height, width = image_HWC.shape[:2]
    strength_HW = cv2.resize(np.asarray(map_HW, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    strength_HW = np.clip(strength_HW, 0.0, 1.0)
    colors_BGR = cv2.applyColorMap((strength_HW * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    alpha_HW1 = (0.15 + 0.5 * strength_HW)[..., None]
    mixed = image_HWC * (1.0 - alpha_HW1) + cv2.cvtColor(colors_BGR, cv2.COLOR_BGR2RGB) * alpha_HW1
    return np.asarray(mixed.round(), np.uint8)


def draw_box(image_HWC: Image, box_xyxy: Sequence[float] | NDArray[Any], color: Color) -> Image:
    """The image with a box (x0, y0, x1, y1 in pixels, end pixels included) in `color` on a dark outline.

    An empty box (all zero: nothing was found) is not drawn.
    """
    picture = np.ascontiguousarray(image_HWC).copy()
    x0, y0, x1, y1 = (round(float(end)) for end in box_xyxy)
    if (x0, y0, x1, y1) == (0, 0, 0, 0):
        return picture
    line = max(1, round(min(picture.shape[:2]) / 110))
    for width, shade in ((line + 2, DARK), (line, color)):
        cv2.rectangle(picture, (x0, y0), (x1, y1), shade, width, cv2.LINE_8)
    return picture


def label(image_HWC: Image, text: str, color: Color = (255, 255, 255)) -> Image:
    """The image with `text` on a dark strip at its upper left.

    Text too wide for the image is set smaller, then cut short with three dots. Characters outside ASCII, which OpenCV
    cannot draw, become ``?``.
    """
    picture = np.ascontiguousarray(image_HWC).copy()
    plain = text.encode("ascii", "replace").decode()
    room = picture.shape[1] - 8
    scale = max(0.45, min(picture.shape[:2]) / 480)
    scale = max(SMALLEST_TEXT, min(scale, scale * room / max(1, _text_size(plain, scale)[0])))
    shown, kept = plain, len(plain)
    while kept and _text_size(shown, scale)[0] > room:
        kept -= 1
        shown = plain[:kept].rstrip() + "..."
    width, height, below = _text_size(shown, scale)
    strip = picture[: height + below + 6, : width + 8]
    strip[:] = (strip * 0.25).astype(np.uint8)
    cv2.putText(picture, shown, (4, height + 4), FONT, scale, color, _thickness(scale), cv2.LINE_AA)
    return picture


def draw_prediction(
    image_HWC: Image, map_HW: NDArray[np.float32], boxes_k4: Sequence[Sequence[float]], text: str
) -> Image:
    """Heat, boxes (pixels of the image, the first one on top) and caption of one predicted frame."""
    picture = heat(image_HWC, map_HW)
    for box_4 in reversed(boxes_k4):
        picture = draw_box(picture, box_4, LOCALIZER_COLOR)
    return label(picture, text)


def contact_sheet(pictures: Sequence[Image], columns: int, gap: int = 4) -> Image:
    """Pictures of any sizes in rows of `columns`, each centered in a cell as large as the largest; white between them.

    Raises:
        ValueError: no pictures, or fewer than one column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"contact_sheet: wanted pictures and columns, got {len(pictures)} and {columns}")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    cell_height, cell_width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    sheet = np.full((rows * (cell_height + gap) - gap, columns * (cell_width + gap) - gap, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top = place // columns * (cell_height + gap) + (cell_height - height) // 2
        left = place % columns * (cell_width + gap) + (cell_width - width) // 2
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _thickness(scale: float) -> int:
    return max(1, round(1.4 * scale))


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Width, height above the base line, and height below it, in pixels."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, _thickness(scale))
    return width, height, below
