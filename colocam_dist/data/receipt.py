"""What an epoch promised by its plan, and what was really given out: counted apart, and held against each other.

Frames *promised* are the different frames that the plan's windows have. Each of them was *read* undamaged; or it was
damaged and *replaced* by a neighbor, masked out; or it was *skipped* because no frame of its window could be read and
another window took its place (of another shot, or of the same in a later pass), whose frames are the *substitutes*. So
promised = read + replaced + skipped.
Promised comes from the plan, read from the masks that were given out, replaced from the reader: that they add up is
checked with every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.batch import WindowBatch
from colocam_dist.errors import RunError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex
    from colocam_dist.data.order import Windows

__all__ = ["EpochReceipt", "ReceiptBook"]

_COLUMNS = ("promised", "read", "replaced", "skipped")


@dataclass
class EpochReceipt:
    """Counts of one epoch, over any number of ranks and processes.

    Attributes:
        epoch: from 0.
        windows: windows given out.
        shots_skipped: shots of which no frame could be read.
        substitutes: frames read in place of skipped ones.
        shards: frames promised, read, replaced and skipped, by name of the shard.
    """

    epoch: int
    windows: int = 0
    shots_skipped: int = 0
    substitutes: int = 0
    shards: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Sequence[EpochReceipt]) -> EpochReceipt:
        """The sum over ranks, or over the processes before and after an interruption; all of the same epoch."""
        whole = cls(parts[0].epoch)
        for part in parts:
            if part.epoch != whole.epoch:
                raise ValueError(f"receipts of epochs {whole.epoch} and {part.epoch} cannot be added")
            whole.windows += part.windows
            whole.shots_skipped += part.shots_skipped
            whole.substitutes += part.substitutes
            for name, counts in part.shards.items():
                before = whole.shards.setdefault(name, [0] * len(_COLUMNS))
                whole.shards[name] = [old + new for old, new in zip(before, counts, strict=True)]
        return whole

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> EpochReceipt:
        """The inverse of :meth:`as_dict`."""
        return cls(
            epoch=facts["epoch"],
            windows=facts["windows"],
            shots_skipped=facts["shots_skipped"],
            substitutes=facts["frames_substituted"],
            shards={name: [counts[column] for column in _COLUMNS] for name, counts in facts["shards"].items()},
        )

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file: "windows", "frames_promised", "frames_read", "frames_replaced", "frames_skipped",
        "frames_substituted", "shots_skipped", and the first four of the frames for every shard that was in use."""
        totals = np.array(list(self.shards.values()), np.int64).reshape(-1, len(_COLUMNS)).sum(0)
        return {
            "epoch": self.epoch,
            "windows": self.windows,
            **{f"frames_{name}": int(total) for name, total in zip(_COLUMNS, totals, strict=True)},
            "frames_substituted": self.substitutes,
            "shots_skipped": self.shots_skipped,
            "shards": {name: dict(zip(_COLUMNS, self.shards[name], strict=True)) for name in sorted(self.shards)},
        }


class ReceiptBook:
    """Keeps the receipt of the epoch that one rank is in.

    Args:
        index: tells the shard of a shot.
        promised: frames that each of the plan's windows has, int64 [W].
    """

    def __init__(self, index: ShotIndex, promised: Callable[[Windows], NDArray[np.int64]]) -> None:
        several = len({shard.storage.location for shard in index.shards}) > 1
        self._names = [str(shard) if several else shard.name for shard in index.shards]
        self._shard = index.shots.shard
        self._promised = promised
        self._epoch = self._windows = self._shots_skipped = self._substitutes = 0
        self._counts = np.zeros((len(self._names), len(_COLUMNS)), np.int64)
        self._before: EpochReceipt | None = None

    def begin(self, epoch: int, before: EpochReceipt | None = None) -> None:
        """Start the receipt of ``epoch``; ``before`` is what earlier processes gave out of it."""
        self._epoch, self._windows, self._shots_skipped, self._substitutes = epoch, 0, 0, 0
        self._counts[:] = 0
        self._before = before

    def add(self, batch: WindowBatch, planned: Windows) -> None:
        """Count a batch that was planned as these windows.

        Raises:
            RunError: what came is not what was promised.
        """
        promised = self._promised(planned)
        read = batch.mask_WN.sum(1).numpy()
        shots, substituted = batch.shot_ids_W.numpy(), batch.substituted_W.numpy()
        fits = len(promised) == len(read) and bool(((shots == planned.shots) | substituted).all())
        if fits:
            skipped = np.where(substituted, promised, 0)
            replaced = np.where(substituted, 0, promised - read)
            fits = int(replaced.sum()) == batch.replaced and replaced.min(initial=0) >= 0
        if not fits:
            raise RunError(
                "the data stream gave out other frames than its plan promised",
                where=f"epoch {self._epoch + 1}, shots {planned.shots.tolist()}",
                got=f"{int(read.sum())} frames read and {batch.replaced} replaced",
                wanted=f"{int(promised.sum())} frames",
                fix="this is an error of the program, not of the data: please report it",
            )
        counts = np.stack([promised, np.where(substituted, 0, read), replaced, skipped], axis=1)
        np.add.at(self._counts, self._shard[planned.shots], counts)
        self._windows += len(promised)
        self._shots_skipped += batch.skipped_shots
        self._substitutes += int(read[substituted].sum())

    def receipt(self) -> EpochReceipt:
        """The counts so far."""
        used = np.flatnonzero(self._counts.any(1)).tolist()
        now = EpochReceipt(
            self._epoch,
            self._windows,
            self._shots_skipped,
            self._substitutes,
            {self._names[shard]: self._counts[shard].tolist() for shard in used},
        )
        return now if self._before is None else EpochReceipt.merged([self._before, now])
