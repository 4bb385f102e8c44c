"""What lies where: the manifest of one split and the byte offsets of its frames, read and checked once.

Shapes: F frames and S shots of the split, k boxes of one frame. A frame id counts the frames of the whole split, a shot
id its shots; both follow the order of the shards in the manifest, and the frames of a shot are neighbors.
"""

from __future__ import annotations

import json
import logging
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import DataError

__all__ = [
    "INDEX_DTYPES",
    "MANIFEST_VERSION",
    "Shot",
    "ShotIndex",
    "check_same_classes",
    "index_name",
    "manifest_name",
    "read_index_tables",
    "read_manifest",
]

_log = logging.getLogger(__name__)

MANIFEST_VERSION = 1

INDEX_DTYPES: dict[str, str] = {
    "frame_offset": "i8",
    "frame_size": "i4",
    "frame_crc32": "u4",
    "frame_width": "i4",
    "frame_height": "i4",
    "frame_name": "U",
    "shot_key": "U",
    "shot_class": "U",
    "shot_video": "U",
    "shot_first": "i8",
    "shot_count": "i4",
    "box_frame": "i8",
    "box_xyxy": "f4",
}
"""The arrays of an index file and their NumPy types; offsets, firsts and box frames count within the shard."""


def manifest_name(split: str) -> str:
    """File name of a split's manifest."""
    return f"{split}.manifest.json"


def index_name(shard: str) -> str:
    """File name of the index beside a shard: ``train-000000.tar`` has ``train-000000.idx.npz``."""
    return f"{shard.removesuffix('.tar')}.idx.npz"


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
class ShotIndex:
    """Shots and frames of one split; picklable, about 60 bytes a frame. Made by :meth:`open`.

    Attributes:
        root: folder of the dataset.
        split: "train", "val" or "test".
        classes: names of all classes of the dataset, sorted; a label is a position in it.
        shots: all shots of the split.
        n_frames: number of frames of the split.
        fingerprint: sha256 (hex) over split, classes and the contents of the shards in use. Equal fingerprints mean
            equal frame ids with equal bytes.
        shard_paths: the shards in use.
        skipped_shards: names of shards that ``missing="skip"`` left out.
        frame_shard: int32 [F], position in ``shard_paths``.
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

    root: Path
    split: str
    classes: tuple[str, ...]
    shots: tuple[Shot, ...]
    n_frames: int
    fingerprint: str
    shard_paths: tuple[Path, ...]
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
    def open(cls, root: Path, split: str, *, missing: Literal["error", "skip"] = "error") -> ShotIndex:
        """Read the manifest and the index files of a split and check them against the shards on disk.

        A shard is unusable if its file is absent or has another size than the manifest says, or if its index file is
        absent or does not fit. The contents of the shards are not read: that is what ``shards.verify`` does.

        Args:
            root: folder of the dataset.
            split: "train", "val" or "test".
            missing: what to do about unusable shards: "error", or "skip" them with a warning.

        Raises:
            DataError: no readable manifest; unusable shards (one error lists them all); no shard left.
        """
        if missing not in ("error", "skip"):
            raise ValueError(f"missing must be 'error' or 'skip', not {missing!r}")
        root = Path(root)
        manifest = read_manifest(root, split)
        usable: list[tuple[dict[str, Any], dict[str, NDArray[Any]]]] = []
        unusable: dict[str, str] = {}
        for entry in manifest["shards"]:
            tables = _read_shard_tables(root, entry, set(manifest["classes"]))
            if isinstance(tables, str):
                unusable[entry["name"]] = tables
            else:
                usable.append((entry, tables))
        listing = "".join(f"\n    {name}: {why}" for name, why in unusable.items())
        if unusable and (missing == "error" or not usable):
            raise DataError(
                f"{len(unusable)} of {len(manifest['shards'])} shards of split '{split}' cannot be used",
                where=root,
                got=listing,
                fix="copy or build the shards again" + (", or set data.missing to skip" if usable else ""),
            )
        if unusable:
            _log.warning(
                "split '%s' goes on without %d of %d shards:%s", split, len(unusable), len(manifest["shards"]), listing
            )
        return cls(root=root, split=split, skipped_shards=tuple(unusable), **_join(root, manifest, usable))

    def boxes(self, frame: int) -> NDArray[np.float32]:
        """Ground-truth boxes of a frame: float32 [k, 4], x0 y0 x1 y1 in pixels of the stored frame; k may be 0."""
        first, last = np.searchsorted(self.box_frame, (frame, frame + 1))
        return self.box_xyxy[first:last]

    def labelled_frames(self) -> NDArray[np.int64]:
        """Ids of the frames that have at least one box, ascending."""
        return np.unique(self.box_frame)


def check_same_classes(train: ShotIndex, other: ShotIndex) -> None:
    """Check that a model trained on ``train`` can be judged on ``other``.

    Raises:
        DataError: the two number the classes differently, or ``other`` shows a class of which ``train`` has no shot.
    """
    if train.classes != other.classes:
        raise DataError(
            f"splits '{train.split}' and '{other.split}' have different class lists, so their labels differ",
            where=f"{train.root} and {other.root}",
            got=", ".join(other.classes),
            wanted=", ".join(train.classes),
            fix="build both splits from one input",
        )
    seen = {shot.cls for shot in train.shots}
    unseen = sorted({shot.cls for shot in other.shots} - seen)
    if unseen:
        raise DataError(
            f"split '{other.split}' has shots of classes that split '{train.split}' has no shot of",
            where=other.root,
            got=", ".join(unseen),
            wanted=", ".join(sorted(seen)),
            fix="add training shots of these classes, or remove the classes and build the shards again",
        )


def read_manifest(root: Path, split: str) -> dict[str, Any]:
    """Read and check the manifest of a split, not what it lists.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".

    Returns:
        The manifest as JSON gives it: version, split, classes, shards (name, bytes, sha256, shots, frames), settings,
        source.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    path = root / manifest_name(split)
    if not path.is_file():
        found = sorted(p.name.removesuffix(manifest_name("")) for p in root.glob("*" + manifest_name("")))
        raise DataError(
            f"there are no finished shards of split '{split}'",
            where=path,
            got=f"finished splits: {', '.join(found)}" if found else "no manifest at all",
            fix="check the folder and the split's name, or build the shards: python -m shards.build --help",
        )
    try:
        manifest = json.loads(path.read_bytes())
        version = manifest["version"]
        if version == MANIFEST_VERSION:
            _check_entries(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "the manifest is damaged", where=path, got=f"{type(error).__name__}: {error}", fix="build the shards again"
        ) from error
    if version != MANIFEST_VERSION or manifest["split"] != split:
        raise DataError(
            "the manifest is of another kind",
            where=path,
            got=f"version {version}, split {manifest.get('split')!r}",
            wanted=f"version {MANIFEST_VERSION}, split {split!r}",
            fix="build the shards again with this release",
        )
    return manifest


def read_index_tables(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of one index file, as they are stored.

    Raises:
        ValueError: the file cannot be read, or lacks an array.
    """
    try:
        # NumPy leaves a damaged file open if it opens it itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {key: stored[key] for key in INDEX_DTYPES}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error


def _check_entries(manifest: dict[str, Any]) -> None:
    if not (isinstance(manifest["split"], str) and isinstance(manifest["classes"], list) and manifest["shards"]):
        raise ValueError("it lists no shards")
    for entry in manifest["shards"]:
        absent = {"name", "bytes", "sha256", "shots", "frames"} - entry.keys()
        if absent:
            raise ValueError(f"a shard is listed without {', '.join(sorted(absent))}")


def _read_shard_tables(root: Path, entry: dict[str, Any], classes: set[str]) -> dict[str, NDArray[Any]] | str:
    """Arrays of a shard's index file, or why the shard cannot be used."""
    path = root / entry["name"]
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{'truncated' if size < entry['bytes'] else 'too long'}: {size} of {entry['bytes']} bytes"
    index = root / index_name(entry["name"])
    if not index.is_file():
        return f"its index {index.name} is missing"
    try:
        tables = read_index_tables(index)
    except ValueError as error:
        return f"its index {index.name} is damaged: {error}"
    if not _fits(tables, entry, classes):
        return f"its index {index.name} does not fit the manifest"
    return tables


def _fits(tables: dict[str, NDArray[Any]], entry: dict[str, Any], classes: set[str]) -> bool:
    """Whether the arrays agree with each other and with the manifest, so that reading them cannot go out of bounds."""
    frames, shots, boxes = entry["frames"], entry["shots"], len(tables["box_frame"])
    lengths = {"frame": frames, "shot": shots, "box": boxes}
    for key, kind in INDEX_DTYPES.items():
        shape = (boxes, 4) if key == "box_xyxy" else (lengths[key.partition("_")[0]],)
        if tables[key].shape != shape or not (tables[key].dtype == kind or tables[key].dtype.kind == kind):
            return False
    counts = tables["shot_count"].astype(np.int64)
    box_frame = tables["box_frame"]
    return bool(
        np.all(counts >= 1)
        and counts.sum() == frames
        and np.array_equal(tables["shot_first"], np.cumsum(counts) - counts)
        and np.all(tables["frame_offset"] >= 0)
        and np.all(tables["frame_offset"] + tables["frame_size"] <= entry["bytes"])
        and np.all(np.diff(box_frame) >= 0)
        and (boxes == 0 or (box_frame[0] >= 0 and box_frame[-1] < frames))
        and classes.issuperset(tables["shot_class"].tolist())
    )


def _join(
    root: Path, manifest: dict[str, Any], shards: list[tuple[dict[str, Any], dict[str, NDArray[Any]]]]
) -> dict[str, Any]:
    """The fields of a ShotIndex that follow from the usable shards: shard-local numbers become global ones."""
    labels = {name: label for label, name in enumerate(manifest["classes"])}
    shots: list[Shot] = []
    first_frames = [0]
    for shard, (entry, tables) in enumerate(shards):
        columns = [tables[f"shot_{name}"].tolist() for name in ("key", "class", "video", "first", "count")]
        for key, cls, video, first, count in zip(*columns, strict=True):
            shots.append(Shot(len(shots), key, cls, labels[cls], video, first_frames[-1] + first, count, shard))
        first_frames.append(first_frames[-1] + entry["frames"])
    joined: dict[str, Any] = {
        key: np.concatenate([tables[key] for _, tables in shards])
        for key in INDEX_DTYPES
        if not key.startswith("shot_")
    }
    joined["box_frame"] = joined["box_frame"] + np.repeat(
        np.array(first_frames[:-1], np.int64), [len(tables["box_frame"]) for _, tables in shards]
    )
    defining = [manifest["split"], list(manifest["classes"]), [entry["sha256"] for entry, _ in shards]]
    return {
        **joined,
        "classes": tuple(manifest["classes"]),
        "shots": tuple(shots),
        "n_frames": first_frames[-1],
        "fingerprint": sha256(json.dumps(defining).encode()).hexdigest(),
        "shard_paths": tuple(root / entry["name"] for entry, _ in shards),
        "frame_shard": np.repeat(np.arange(len(shards), dtype=np.int32), np.diff(first_frames)),
        "frame_shot": np.repeat(np.arange(len(shots), dtype=np.int32), [shot.n_frames for shot in shots]),
    }
