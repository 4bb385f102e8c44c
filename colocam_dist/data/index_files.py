"""From the files that describe a split to the columns of a :class:`colocam_dist.data.index.ShotIndex`."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.manifest import (
    MANIFEST_LIMIT,
    MANIFEST_VERSION,
    caveats_in,
    index_limit,
    index_name,
    manifest_name,
    parse_index,
    parse_manifest,
)
from colocam_dist.data.shots import Shots
from colocam_dist.data.storage import ShardFile, Storage
from colocam_dist.errors import ColocamError, DataError

__all__ = ["Tables", "collect", "read_manifest", "read_shards", "shifted"]

Tables = dict[str, NDArray[Any]]


def read_manifest(storage: Storage, split: str) -> dict[str, Any]:
    """Read and check the manifest of a split, not what it lists.

    Args:
        storage: where the dataset lies.
        split: "train", "val" or "test".

    Returns:
        See :func:`colocam_dist.data.manifest.parse_manifest`.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    where = f"{storage.location}/{manifest_name(split)}"
    try:
        manifest = parse_manifest(storage.read(manifest_name(split), MANIFEST_LIMIT, _is_manifest))
    except FileNotFoundError:
        found = storage.splits(manifest_name(""))
        raise DataError(
            f"there are no finished shards of split '{split}'",
            where=where,
            got=f"finished splits: {', '.join(found)}" if found else "no manifest at all",
            fix="check the folder and the split's name, or build the shards: python -m shards.build --help (a split "
            "whose share of the videos rounded to none is not written: --splits gives other shares)",
        ) from None
    except ValueError as error:
        if isinstance(error, ColocamError):
            raise
        raise DataError("the manifest is damaged", where=where, got=error, fix="build the shards again") from error
    if manifest["version"] != MANIFEST_VERSION or manifest["split"] != split:
        raise DataError(
            "the manifest is of another kind",
            where=where,
            got=f"version {manifest['version']}, split {manifest['split']!r}",
            wanted=f"version {MANIFEST_VERSION}, split {split!r}",
            fix="build the shards again with this release",
        )
    return manifest


def read_shards(
    storage: Storage, manifest: dict[str, Any]
) -> tuple[list[tuple[dict[str, Any], Tables]], dict[str, str]]:
    """Entries of usable shards with the arrays of their index files, and why the others are not usable, by name."""
    entries, classes = manifest["shards"], set(manifest["classes"])
    sizes = storage.sizes(entry["name"] for entry in entries)
    usable: list[tuple[dict[str, Any], Tables]] = []
    unusable: dict[str, str] = {}
    files = storage.read_many((index_name(entry["name"]), index_limit(entry), _is(entry)) for entry in entries)
    for entry, data in zip(entries, files, strict=True):
        tables = _shard_tables(entry, sizes, data, classes)
        if isinstance(tables, str):
            unusable[entry["name"]] = tables
        else:
            usable.append((entry, tables))
    return usable, unusable


def _shard_tables(
    entry: dict[str, Any], sizes: dict[str, int | None], data: bytes | None, classes: set[str]
) -> Tables | str:
    """Arrays of a shard's index file, or why the shard cannot be used."""
    name = entry["name"]
    if name not in sizes:
        return "missing"
    size = sizes[name]
    if size is not None and size != entry["bytes"]:
        return f"{'truncated' if size < entry['bytes'] else 'too long'}: {size} of {entry['bytes']} bytes"
    index = index_name(name)
    if data is None:
        return f"its index {index} is missing"
    if not _is(entry)(data):
        return f"its index {index} is damaged: {len(data)} bytes that are not those which were written"
    try:
        return parse_index(data, entry, classes)
    except ValueError as error:
        return f"its index {index} cannot be used: {error}"


def _is(entry: dict[str, Any]) -> Callable[[bytes], bool]:
    """Whether bytes are the index file that was written for a manifest's shard."""
    return lambda data: len(data) == entry["index_bytes"] and sha256(data).hexdigest() == entry["index_sha256"]


def _is_manifest(data: bytes) -> bool:
    try:
        parse_manifest(data)
    except ValueError:
        return False
    return True


def collect(storage: Storage, manifest: dict[str, Any], shards: list[tuple[dict[str, Any], Tables]]) -> dict[str, Any]:
    """The fields of a ShotIndex that follow from the usable shards: shard-local numbers become global ones."""
    classes = tuple(manifest["classes"])
    labels = {name: label for label, name in enumerate(classes)}
    joined = {key: np.concatenate([tables[key] for _, tables in shards]) for key in shards[0][1] if key[:5] != "shot_"}
    frame_of = np.cumsum([0, *(entry["frames"] for entry, _ in shards)])
    counts = [entry["shots"] for entry, _ in shards]
    n_frames = np.concatenate([tables["shot_count"] for _, tables in shards])
    defining = [manifest["split"], list(classes), [entry["sha256"] for entry, _ in shards]]
    return {
        **joined,
        "box_frame": shifted([tables["box_frame"] for _, tables in shards], frame_of),
        "location": storage.location,
        "split": manifest["split"],
        "classes": classes,
        "caveats": caveats_in(manifest),
        "shots": Shots(
            classes=classes,
            key=_encoded([tables["shot_key"] for _, tables in shards]),
            video=_encoded([tables["shot_video"] for _, tables in shards]),
            label=np.array([labels[name] for _, tables in shards for name in tables["shot_class"].tolist()], np.int32),
            first_frame=shifted([tables["shot_first"] for _, tables in shards], frame_of),
            n_frames=n_frames,
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            source=np.zeros(len(n_frames), np.int16),
        ),
        "fingerprint": sha256(json.dumps(defining).encode()).hexdigest(),
        "shards": tuple(ShardFile(storage, entry["name"], entry["bytes"], entry["sha256"]) for entry, _ in shards),
        "frame_shard": np.repeat(np.arange(len(shards), dtype=np.int32), np.diff(frame_of)),
        "frame_shot": np.repeat(np.arange(len(n_frames), dtype=np.int32), n_frames),
    }


def shifted(columns: list[NDArray[Any]], starts: NDArray[np.int64]) -> NDArray[Any]:
    """The columns of all parts, each counted on from where its part begins; their type stays."""
    # `starts` ends with the total, which no part begins at.
    return np.concatenate(
        [column + np.array(start, column.dtype) for column, start in zip(columns, starts[:-1], strict=True)]
    )


def _encoded(columns: list[NDArray[np.str_]]) -> NDArray[np.bytes_]:
    """UTF-8 takes a quarter of the room of NumPy's four-byte characters."""
    return np.char.encode(np.concatenate(columns), "utf-8")
