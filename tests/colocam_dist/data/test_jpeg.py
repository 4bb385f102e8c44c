from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest

from colocam_dist.data.jpeg import JpegHeader, read_jpeg_header


@pytest.mark.parametrize("size", [(53, 41), (1, 1), (300, 7)])
@pytest.mark.parametrize("progressive", [0, 1])
def test_the_header_tells_the_size(picture: Callable[..., np.ndarray], size: tuple[int, int], progressive: int) -> None:
    image = picture(1, *size)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    header = read_jpeg_header(BytesIO(jpeg))
    assert (header.width, header.height, header.orientation) == (*size, 1)


def test_orientation_turns_the_size(jpeg: Callable[..., bytes], picture: Callable[..., np.ndarray]) -> None:
    data = jpeg(picture(0, 53, 41))
    tag = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    body = b"Exif\0\0MM" + struct.pack(">HIH", 42, 8, 1) + tag + struct.pack(">I", 0)
    tagged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert read_jpeg_header(BytesIO(data)) == JpegHeader(53, 41, 1)
    assert read_jpeg_header(BytesIO(tagged)) == JpegHeader(41, 53, 6)
    broken = tagged.replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff")  # a directory beyond the block
    assert read_jpeg_header(BytesIO(broken)) == JpegHeader(53, 41, 1)


def test_every_shorter_piece_is_refused_or_tells_the_size(
    jpeg: Callable[..., bytes], picture: Callable[..., np.ndarray]
) -> None:
    data = jpeg(picture(0, 53, 41))
    enough = data.index(b"\xff\xc0") + 9
    for length in range(0, len(data), 7):
        if length >= enough:
            assert read_jpeg_header(BytesIO(data[:length])) == JpegHeader(53, 41, 1)
        else:
            with pytest.raises(ValueError, match="JPEG"):
                read_jpeg_header(BytesIO(data[:length]))


def test_a_size_of_zero_is_none(jpeg: Callable[..., bytes], picture: Callable[..., np.ndarray]) -> None:
    data = bytearray(jpeg(picture(0, 53, 41)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = b"\0\0"
    with pytest.raises(ValueError, match="without a size"):
        read_jpeg_header(BytesIO(bytes(data)))
