from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest

from colocam_dist.data.jpeg import read_jpeg_header
from shards.images import PictureRule

KEEP = PictureRule(0, 0, 95)


def with_exif(jpeg: bytes, orientation: int, order: str = ">") -> bytes:
    """The JPEG with an EXIF block of two tags, the second of which is the orientation."""
    mark = b"MM" if order == ">" else b"II"
    tags = struct.pack(order + "HHIHH", 0x0100, 3, 1, 7, 0) + struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = mark + struct.pack(order + "HIH", 42, 8, 2) + tags + struct.pack(order + "I", 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def decode(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_baked_in(
    picture: Callable[..., np.ndarray], jpeg: Callable[..., bytes], orientation: int, order: str
) -> None:
    image = picture(2, 53, 41)
    upright = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, -1),
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(image),
    }[orientation]
    tagged = with_exif(jpeg(image, 98), orientation, order)
    header = read_jpeg_header(BytesIO(tagged))
    assert (header.height, header.width, header.orientation) == (*upright.shape[:2], orientation)
    stored = KEEP.keep(tagged)
    assert (stored.height, stored.width) == upright.shape[:2]
    assert read_jpeg_header(BytesIO(stored.jpeg)).orientation == 1
    assert (stored.jpeg == tagged) == (orientation == 1)
    # twice through JPEG with half the color resolution; the wrong orientation differs by more than 40
    assert np.abs(decode(stored.jpeg).astype(int) - upright).mean() < 6


def test_bytes_pass_through_unless_the_frame_is_too_large(
    picture: Callable[..., np.ndarray], jpeg: Callable[..., bytes]
) -> None:
    data = jpeg(picture(3, 96, 65))
    assert PictureRule(65, 50, 95).keep(data).jpeg == data
    stored = PictureRule(64, 50, 95).keep(data)
    assert (stored.width, stored.height) == (74, 50)
    reference = cv2.resize(picture(3, 96, 65), (74, 50), interpolation=cv2.INTER_AREA)
    assert np.abs(decode(stored.jpeg).astype(int) - reference).mean() < 4


@pytest.mark.parametrize(
    ("size", "wanted"), [((1280, 720), (569, 320)), ((720, 1280), (320, 569)), ((480, 360), (480, 360))]
)
def test_the_short_side_decides(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert PictureRule(360, 320, 95).size(*size) == wanted


def test_what_is_not_a_jpeg_is_refused(picture: Callable[..., np.ndarray], jpeg: Callable[..., bytes]) -> None:
    whole = jpeg(picture(4, 53, 41))
    png = cv2.imencode(".png", picture(4, 53, 41))[1].tobytes()
    for data, message in (
        (b"", "not a JPEG"),
        (png, "not a JPEG"),
        (whole[:2], "ends before its size"),
        (whole[:30], "ends before its size|damaged header"),
        (whole[:2] + b"\0\0" + whole[2:], "damaged header"),
        (whole[:-400], "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=message):
            KEEP.keep(data)
