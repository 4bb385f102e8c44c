"""The shots of a split as columns, so that millions of them take little memory and time, and one by one as objects.

Shapes: S shots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shot", "Shots"]


@dataclass(frozen=True)
class Shot:
    """A run of frames of one video without a cut; the unit that carries a class tag.

    Attributes:
        id: shot id within the split.
        key: "class/video/shot", the original names.
        cls: class name.
        label: position of the class in ``ShotIndex.classes``.
        video: name of the video, unique within its class only.
        first_frame: frame id of its first frame.
        n_frames: number of frames, >= 1.
        shard: position of its shard in ``ShotIndex.shard_paths``.
    """

    id: int
    key: str
    cls: str
    label: int
    video: str
    first_frame: int
    n_frames: int
    shard: int


@dataclass(frozen=True, eq=False)
class Shots(Sequence[Shot]):
    """All shots of a split; picklable.

    Attributes:
        classes: class names; a label is a position among them.
        key: UTF-8 bytes [S].
        video: UTF-8 bytes [S].
        label: int32 [S].
        first_frame: int64 [S].
        n_frames: int32 [S].
        shard: int32 [S].
        source: int16 [S], the data set that a shot comes from, if several were joined.
    """

    classes: tuple[str, ...]
    key: NDArray[np.bytes_]
    video: NDArray[np.bytes_]
    label: NDArray[np.int32]
    first_frame: NDArray[np.int64]
    n_frames: NDArray[np.int32]
    shard: NDArray[np.int32]
    source: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, item: int) -> Shot: ...

    @overload
    def __getitem__(self, item: slice) -> list[Shot]: ...

    def __getitem__(self, item: int | slice) -> Shot | list[Shot]:
        if isinstance(item, slice):
            return [self._shot(number) for number in range(*item.indices(len(self)))]
        number = int(item) + (len(self) if item < 0 else 0)
        if not 0 <= number < len(self):
            raise IndexError(f"no shot {item} among {len(self)}")
        return self._shot(number)

    def __iter__(self) -> Iterator[Shot]:
        return (self._shot(number) for number in range(len(self)))

    def _shot(self, number: int) -> Shot:
        label = int(self.label[number])
        return Shot(
            id=number,
            key=self.key[number].decode(),
            cls=self.classes[label],
            label=label,
            video=self.video[number].decode(),
            first_frame=int(self.first_frame[number]),
            n_frames=int(self.n_frames[number]),
            shard=int(self.shard[number]),
        )
