"""What was really read, for the run's receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from colocam_dist.data.batch import WindowBatch

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["Receipt"]


class Receipt:
    """Counts over the batches that were given out by one rank since the stream was made.

    Args:
        index: tells the shard of a frame.
    """

    def __init__(self, index: ShotIndex) -> None:
        self._index = index
        self._read = self._replaced = self._skipped_shots = 0
        self._per_shard = np.zeros(len(index.shard_paths), np.int64)

    def add(self, batch: WindowBatch) -> None:
        """Count one batch."""
        self._read += batch.read
        self._replaced += batch.replaced
        self._skipped_shots += batch.skipped_shots
        frames = batch.frame_ids_WN[batch.mask_WN].numpy()
        self._per_shard += np.bincount(self._index.frame_shard[frames], minlength=len(self._per_shard))

    def as_dict(self) -> dict[str, Any]:
        """Counts for a JSON file.

        "frames_promised" (different frames that the windows asked for) is the sum of "frames_read" and
        "frames_replaced"; "shots_skipped" had no undamaged frame and are in none of the other counts; "shards" gives
        the frames read from each shard and sums up to "frames_read".
        """
        return {
            "frames_promised": self._read + self._replaced,
            "frames_read": self._read,
            "frames_replaced": self._replaced,
            "shots_skipped": self._skipped_shots,
            "shards": {
                path.name: int(count) for path, count in zip(self._index.shard_paths, self._per_shard, strict=True)
            },
        }
