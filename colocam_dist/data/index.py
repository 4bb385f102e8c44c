"""What lies where: the manifest of one split and the byte offsets of its frames, read and checked once.

Shapes: F frames and S shots of the split, k boxes of one frame. A frame id counts the frames of the whole split, a shot
id its shots; both follow the order of the shards in the manifest, and the frames of a shot are neighbors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.index_files import collect, read_manifest, read_shards, shifted
from colocam_dist.data.shots import Shot, Shots
from colocam_dist.data.storage import RemoteSettings, ShardFile, open_storage
from colocam_dist.errors import DataError

__all__ = ["Shot", "ShotIndex", "check_boxes", "check_same_classes"]

_log = logging.getLogger(__name__)

_UNSHIFTED = (
    "frame_offset",
    "frame_size",
    "frame_crc32",
    "frame_width",
    "frame_height",
    "frame_name",
    "box_xyxy",
)


@dataclass(frozen=True, eq=False)
class ShotIndex:
    """Shots and frames of one split; picklable, about 60 bytes a frame. Made by :meth:`open` or :meth:`join`.

    Attributes:
        location: folder or URL of the dataset (of the first one, if several were joined).
        split: "train", "val" or "test".
        classes: names of all classes of the dataset, sorted; a label is a position in it.
        caveats: what must be said with every figure that comes from this data.
        shots: all shots of the split.
        fingerprint: sha256 (hex) over split, classes and the contents of the shards in use. Equal fingerprints mean
            equal frame ids with equal bytes.
        shards: the shards in use.
        skipped_shards: names of shards that ``missing="skip"`` left out.
        frame_shard: int32 [F], position in ``shards``.
        frame_offset: int64 [F], where the JPEG begins in the shard, in bytes.
        frame_size: int32 [F], length of the JPEG in bytes.
        frame_crc32: uint32 [F].
        frame_width: int32 [F], pixels.
        frame_height: int32 [F], pixels.
        frame_name: str [F], original file name, or number in the video.
        frame_shot: int32 [F], shot id.
        box_frame: int64 [all boxes], frame ids, ascending.
        box_xyxy: float32 [all boxes, 4], pixels of the stored frame.
    """

    location: str
    split: str
    classes: tuple[str, ...]
    caveats: tuple[str, ...]
    shots: Shots
    fingerprint: str
    shards: tuple[ShardFile, ...]
    skipped_shards: tuple[str, ...]
    frame_shard: NDArray[np.int32]
    frame_offset: NDArray[np.int64]
    frame_size: NDArray[np.int32]
    frame_crc32: NDArray[np.uint32]
    frame_width: NDArray[np.int32]
    frame_height: NDArray[np.int32]
    frame_name: NDArray[np.str_]
    frame_shot: NDArray[np.int32]
    box_frame: NDArray[np.int64]
    box_xyxy: NDArray[np.float32]

    @classmethod
    def open(
        cls,
        location: Path | str,
        split: str,
        *,
        missing: Literal["error", "skip"] = "error",
        remote: RemoteSettings | None = None,
    ) -> ShotIndex:
        """Read the manifest and the index files of a split and check them against the shards that are there.

        A shard is unusable if its file is absent or has another size than the manifest says, or if its index file is
        absent, has another sha256, or does not fit. The contents of the shards are not read: that is what
        ``shards.verify`` does, and what the checksum of every frame is for. Remote shards stay where they are.

        Args:
            location: folder or URL of the dataset.
            split: "train", "val" or "test".
            missing: what to do about unusable shards: "error", or "skip" them with a warning.
            remote: how a URL is read; None for the defaults.

        Raises:
            ConfigError: a URL of a scheme that is not allowed.
            DataError: no readable manifest; unusable shards (one error lists them all); no shard left.
        """
        if missing not in ("error", "skip"):
            raise ValueError(f"missing must be 'error' or 'skip', not {missing!r}")
        storage = open_storage(location, remote)
        manifest = read_manifest(storage, split)
        usable, unusable = read_shards(storage, manifest)
        listing = "".join(f"\n    {name}: {why}" for name, why in unusable.items())
        if unusable and (missing == "error" or not usable):
            raise DataError(
                f"{len(unusable)} of {len(manifest['shards'])} shards of split '{split}' cannot be used",
                where=storage.location,
                got=listing,
                fix="copy or build the shards again" + (", or set data.missing to skip" if usable else ""),
            )
        if unusable:
            _log.warning(
                "split '%s' goes on without %d of %d shards:%s", split, len(unusable), len(manifest["shards"]), listing
            )
        return cls(skipped_shards=tuple(unusable), **collect(storage, manifest, usable))

    @classmethod
    def join(cls, parts: Sequence[ShotIndex]) -> ShotIndex:
        """Several data sets as one: frame and shot ids count on from part to part; ``shots.source`` tells the part.

        Classes are those of the first part, and the labels of the others follow their names.

        Raises:
            DataError: a part has a class that the first one does not have.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts[1:]:
            strange = sorted(set(part.classes) - set(first.classes))
            if strange:
                raise DataError(
                    "a data set that is mixed in has classes that the main one does not have",
                    where=f"{part.location}, split {part.split}",
                    got=", ".join(strange),
                    wanted=f"some of {', '.join(first.classes)} ({first.location})",
                    fix="rename or remove these classes and build the shards again, or take this data set as the main",
                )
        shard_of, frame_of, shot_of = (
            np.cumsum([0, *(len(column) for column in columns)])
            for columns in zip(*((part.shards, part.frame_size, part.shots) for part in parts), strict=True)
        )
        same = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _UNSHIFTED}
        return cls(
            location=first.location,
            split=first.split,
            classes=first.classes,
            caveats=tuple(dict.fromkeys(caveat for part in parts for caveat in part.caveats)),
            shots=Shots(
                classes=first.classes,
                key=np.concatenate([part.shots.key for part in parts]),
                video=np.concatenate([part.shots.video for part in parts]),
                label=np.concatenate([_relabel(part, first.classes) for part in parts]),
                first_frame=shifted([part.shots.first_frame for part in parts], frame_of),
                n_frames=np.concatenate([part.shots.n_frames for part in parts]),
                shard=shifted([part.shots.shard for part in parts], shard_of),
                source=np.repeat(np.arange(len(parts), dtype=np.int16), [len(part.shots) for part in parts]),
            ),
            fingerprint=sha256("/".join(part.fingerprint for part in parts).encode()).hexdigest(),
            shards=tuple(shard for part in parts for shard in part.shards),
            skipped_shards=tuple(name for part in parts for name in part.skipped_shards),
            frame_shard=shifted([part.frame_shard for part in parts], shard_of),
            frame_shot=shifted([part.frame_shot for part in parts], shot_of),
            box_frame=shifted([part.box_frame for part in parts], frame_of),
            **same,
        )

    @property
    def n_frames(self) -> int:
        """Number of frames of the split."""
        return len(self.frame_size)

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """Paths of the shards.

        Raises:
            DataError: they are remote.
        """
        return tuple(shard.path for shard in self.shards)

    def boxes(self, frame: int) -> NDArray[np.float32]:
        """Ground-truth boxes of a frame: float32 [k, 4], x0 y0 x1 y1 in pixels of the stored frame; k may be 0."""
        first, last = np.searchsorted(self.box_frame, (frame, frame + 1))
        return self.box_xyxy[first:last]

    def labeled_frames(self) -> NDArray[np.int64]:
        """Ids of the frames that have at least one box, ascending."""
        return np.unique(self.box_frame)


def check_boxes(index: ShotIndex) -> None:
    """Check that frames of a split can be scored.

    Raises:
        DataError: none has a box.
    """
    if not len(index.box_frame):
        raise DataError(
            f"split {index.split} has no boxes, so nothing can be scored",
            where=index.location,
            wanted=f"boxes of at least a few frames of split {index.split}; training frames need none",
            fix="build it with boxes (boxes.csv, see docs/data.md), or choose a split that has them; if it is only the "
            "split to evaluate, run.stages=[classifier,cams,localizer] trains without",
        )


def check_same_classes(train: ShotIndex, other: ShotIndex) -> None:
    """Check that a model trained on ``train`` can be judged on ``other``.

    Raises:
        DataError: the two number the classes differently, or ``other`` shows a class of which ``train`` has no shot.
    """
    if train.classes != other.classes:
        raise DataError(
            f"splits '{train.split}' and '{other.split}' have different class lists, so their labels differ",
            where=f"{train.location} and {other.location}",
            got=", ".join(other.classes),
            wanted=", ".join(train.classes),
            fix="build both splits from one input",
        )
    seen, shown = (set(np.unique(index.shots.label).tolist()) for index in (train, other))
    unseen = sorted(shown - seen)
    if unseen:
        raise DataError(
            f"split '{other.split}' has shots of classes that split '{train.split}' has no shot of",
            where=other.location,
            got=", ".join(train.classes[label] for label in unseen),
            wanted=", ".join(train.classes[label] for label in sorted(seen)),
            fix="add training shots of these classes, or remove the classes and build the shards again",
        )


def _relabel(part: ShotIndex, classes: tuple[str, ...]) -> NDArray[np.int32]:
    label_of = np.array([classes.index(name) for name in part.classes], np.int32)
    return label_of[part.shots.label]
