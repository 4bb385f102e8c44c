"""The arrays of a shard's index file, collected frame by frame while a shard is written or read back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.manifest import INDEX_DTYPES
from shards.sources.base import Box

__all__ = ["Tables"]


class Tables:
    """Collects shots and their frames in the order in which they lie in the shard."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {key: [] for key in INDEX_DTYPES}

    @property
    def n_frames(self) -> int:
        """Frames added so far."""
        return len(self._columns["frame_offset"])

    @property
    def n_shots(self) -> int:
        """Shots added so far."""
        return len(self._columns["shot_key"])

    @property
    def n_boxes(self) -> int:
        """Boxes added so far."""
        return len(self._columns["box_frame"])

    def add_shot(self, cls: str, video: str, shot: str) -> None:
        """Begin a shot; the frames that follow are its own."""
        row = {"key": f"{cls}/{video}/{shot}", "class": cls, "video": video, "first": self.n_frames, "count": 0}
        for name, value in row.items():
            self._columns[f"shot_{name}"].append(value)

    def add_frame(self, name: str, offset: int, jpeg: bytes, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Add a frame of the current shot: its bytes begin at ``offset`` in the shard, ``size`` is width and height."""
        self._columns["box_frame"].extend([self.n_frames] * len(boxes))
        self._columns["box_xyxy"].extend(boxes)
        self._columns["shot_count"][-1] += 1
        values = (offset, len(jpeg), zlib.crc32(jpeg), *size, name)
        for column, value in zip(("offset", "size", "crc32", "width", "height", "name"), values, strict=True):
            self._columns[f"frame_{column}"].append(value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays, typed as an index file wants them."""
        arrays = {key: np.array(self._columns[key], kind) for key, kind in INDEX_DTYPES.items()}
        arrays["box_xyxy"] = arrays["box_xyxy"].reshape(-1, 4)
        return arrays

    def npz(self) -> bytes:
        """The content of an index file; equal tables give equal bytes under one release of NumPy."""
        stream = BytesIO()
        np.savez(stream, allow_pickle=False, **self.arrays())
        return stream.getvalue()
