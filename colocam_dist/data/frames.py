"""Bytes of a shard to pixels: read, check, decode, resize, crop, flip.

Pixels are uint8 RGB all the way: a quarter of the traffic of float32, and the CRF terms of the loss need colors in
0..255. Shapes: H, W height and width of a frame; images are [H, W, 3] until they are cropped, then [3, crop, crop].
"""

from __future__ import annotations

import logging
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.data.storage import RemoteFolder
from colocam_dist.errors import DataError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["BadFrame", "Crop", "FrameReader", "augment", "eval_frame", "resize"]

# One frame is too little work to share among threads, and threads of OpenCV do not survive a fork.
cv2.setNumThreads(0)

_log = logging.getLogger(__name__)
_MAX_OPEN_SHARDS = 64
_FETCHERS = 2  # shards that a process fetches ahead at a time
# The orientation tag is ignored because boxes are in pixels of the frame as it is stored. The "grayscale" in the names
# of the reduced flags only holds without a color flag; OpenCV refuses its BGR flag, which the "color" names contain,
# beside RGB.
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = (
    (8, _DECODE | cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, _DECODE | cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, _DECODE | cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


class BadFrame(DataError):
    """A frame whose bytes cannot be read, do not match the index, or are not a picture."""


class FrameReader:
    """Reads single frames out of the shards by offset.

    Holds at most 64 shards open; remote ones come through the cache. May be pickled, and survives a fork: reads name
    their offset, so processes that share a descriptor do not disturb each other. It copies from the index only the
    columns that reading needs (about 45 bytes a frame), so that sending it to a worker process is cheap.

    Args:
        index: the split's index.
    """

    def __init__(self, index: ShotIndex) -> None:
        self._shards = index.shards
        self._shot_keys = index.shots.key
        self._shard = index.frame_shard
        self._offset = index.frame_offset
        self._size = index.frame_size
        self._crc32 = index.frame_crc32
        self._shot = index.frame_shot
        self._width = index.frame_width
        self._height = index.frame_height
        # Bytes take a quarter of the room of NumPy's four-byte characters.
        self._name = np.char.encode(index.frame_name, "utf-8")
        self._open: OrderedDict[int, int] = OrderedDict()
        self._fetcher: ThreadPoolExecutor | None = None
        self._fetching: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_fetcher": None, "_fetching": set()}

    def read(self, frame: int, *, short_side: int = 0) -> NDArray[np.uint8]:
        """Pixels of one frame.

        Args:
            frame: frame id within the split.
            short_side: if > 0, the side in pixels that the caller will resize to: the picture is then decoded at 1/2,
                1/4 or 1/8 of its size as long as its short side stays >= 0.9 x this (faster, and closer to an
                area-averaged picture than a full decode resized linearly). Where a side is no multiple of the factor,
                the small picture reaches up to factor - 1 px past the edge, which is below 0.5 % of the side if this is
                at least 224.

        Returns:
            uint8 RGB [H, W, 3].

        Raises:
            BadFrame: naming shard, shot and frame.
            DataError: a remote shard cannot be fetched.
        """
        data = self._bytes(frame)
        self._check_size(frame, data)
        flags = _DECODE
        if short_side > 0:
            for factor, reduced in _REDUCED:
                if min(self._width[frame], self._height[frame]) / factor >= 0.9 * short_side:
                    flags = reduced
                    break
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:  # for example an empty member
            raise self._bad(frame, f"OpenCV cannot decode it ({error.err})") from error
        if image is None:
            raise self._bad(frame, "its bytes match the index but are not a picture that OpenCV can decode")
        return image

    def fetch_soon(self, shards: Iterable[int]) -> None:
        """Begin to fetch shards that are remote and will be read soon, in the background.

        A failure is left to the read that needs the shard, which tries again and reports it.
        """
        wanted = [shard for shard in shards if isinstance(self._shards[shard].storage, RemoteFolder)]
        for shard in wanted:
            if shard not in self._open and shard not in self._fetching:
                if self._fetcher is None:
                    self._fetcher = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
                self._fetching.add(shard)
                self._fetcher.submit(self._fetch, shard)

    def _fetch(self, shard: int) -> None:
        try:
            self._shards[shard].storage.fetch(self._shards[shard])
        except (OSError, DataError) as error:
            _log.debug("a shard could not be fetched ahead: %s", error)
        finally:
            self._fetching.discard(shard)

    def close(self) -> None:
        """Close the shards that this process has open and stop fetching; the reader stays usable."""
        if self._fetcher is not None:
            self._fetcher.shutdown(wait=True, cancel_futures=True)
            self._fetcher = None
            self._fetching.clear()
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        # __init__ may have failed before the first file was opened.
        if getattr(self, "_open", None) or getattr(self, "_fetcher", None):
            self.close()

    def _bytes(self, frame: int) -> bytes:
        size = int(self._size[frame])
        try:
            data = os.pread(self._descriptor(int(self._shard[frame])), size, int(self._offset[frame]))
        except OSError as error:
            raise self._bad(frame, f"its shard cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise self._bad(frame, f"its shard was cut off: {len(data)} of {size} bytes are left")
        if zlib.crc32(data) != int(self._crc32[frame]):
            raise self._bad(frame, "its bytes have changed: crc32 is not that of the index")
        return data

    def _check_size(self, frame: int, data: bytes) -> None:
        """Refuse a picture that is larger than the index says before a decoder allocates memory for it."""
        try:
            header = read_jpeg_header(BytesIO(data))
        except ValueError as error:
            raise self._bad(frame, f"it is {error}") from error
        # The header gives the upright size, frames are taken as they are stored.
        size = (header.height, header.width) if header.orientation > 4 else (header.width, header.height)
        if size != (self._width[frame], self._height[frame]):
            raise self._bad(frame, f"it has {size[0]} x {size[1]} pixels, unlike its index")

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        descriptor = self._shards[shard].open()
        # A shard that the cache has evicted takes its room on the disk until nobody has it open.
        for other in [other for other, opened in self._open.items() if not os.fstat(opened).st_nlink]:
            os.close(self._open.pop(other))
        self._open[shard] = descriptor
        if len(self._open) > _MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def _bad(self, frame: int, why: str) -> BadFrame:
        shot = self._shot_keys[int(self._shot[frame])].decode("utf-8")
        name = self._name[frame].decode("utf-8")
        return BadFrame(
            f"a frame is damaged: {why}",
            where=f"shard {self._shards[int(self._shard[frame])]}, shot {shot}, frame {name}",
            fix="verify the shards, and write the damaged ones again from their source",
        )


@dataclass(frozen=True)
class Crop:
    """Where a crop was taken: top-left corner in pixels of the resized frame, and whether it was then mirrored."""

    top: int
    left: int
    flip: bool


def resize(image: NDArray[np.uint8], side_or_hw: int | tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a frame, not keeping its aspect ratio.

    Linear while the frame's short side shrinks by at most 2 (which it does after a reduced decode), area-averaged
    beyond, where linear interpolation would skip pixels.

    Args:
        image: uint8 [H, W, 3].
        side_or_hw: side of a square, or (height, width), in pixels.

    Returns:
        uint8 [height, width, 3]; ``image`` itself if it has this size.
    """
    height, width = (side_or_hw, side_or_hw) if isinstance(side_or_hw, int) else side_or_hw
    if image.shape[:2] == (height, width):
        return image
    factor = min(image.shape[0] / height, image.shape[1] / width)
    how = cv2.INTER_LINEAR if factor <= 2 else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=how)


def augment(
    image_HWC: NDArray[np.uint8],
    *,
    resize: int,
    crop: int,
    rng: np.random.Generator,
    flip: bool = True,
    out: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], Crop]:
    """Training transform (public code): resize to a square, take a random crop, mirror it half the time.

    Args:
        image_HWC: uint8 [H, W, 3].
        resize: side of the square in pixels.
        crop: side of the crop in pixels, <= resize.
        rng: source of the crop and the flip.
        flip: whether mirroring is allowed.
        out: uint8 [3, crop, crop] to write to.

    Returns:
        uint8 [3, crop, crop], and the crop that was taken.

    Raises:
        ValueError: crop > resize.
    """
    if crop > resize:
        raise ValueError(f"cannot take a crop of {crop} px from a frame of {resize} px")
    top, left = (int(offset) for offset in rng.integers(resize - crop + 1, size=2))
    taken = Crop(top, left, bool(rng.random() < 0.5) and flip)
    patch = _resize(image_HWC, resize)[top : top + crop, left : left + crop]
    return _to_chw(cv2.flip(patch, 1) if taken.flip else patch, out), taken


def eval_frame(image_HWC: NDArray[np.uint8], crop: int, *, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Evaluation transform (public code): the whole frame resized to a square of ``crop`` px: uint8 [3, crop, crop]."""
    return _to_chw(resize(image_HWC, crop), out)


_resize = resize  # augment has an argument of that name


def _to_chw(image_HWC: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if out is None:
        out = np.empty((3, *image_HWC.shape[:2]), np.uint8)
    # Four times faster than a transposed copy. OpenCV writes to arrays only if it finds them fit.
    planes = cv2.split(image_HWC, list(out))
    if not all(np.may_share_memory(plane, target) for plane, target in zip(planes, out, strict=True)):
        raise ValueError(f"wanted a contiguous uint8 array [3, {image_HWC.shape[0]}, {image_HWC.shape[1]}] to write to")
    return out
