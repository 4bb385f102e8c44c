"""The manifest of a split and the index files of its shards: reading them, bounded and checked.

Both may come from anywhere, so nothing in them is trusted: sizes are limited before anything is read or allocated,
names of shards are plain file names, and arrays are plain numbers and characters (no pickle).
"""

from __future__ import annotations

import json
import re
import zipfile
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = [
    "INDEX_DTYPES",
    "MANIFEST_LIMIT",
    "MANIFEST_VERSION",
    "caveats_in",
    "index_limit",
    "index_name",
    "manifest_name",
    "parse_index",
    "parse_manifest",
    "read_arrays",
    "seal_manifest",
]

MANIFEST_VERSION = 2
MANIFEST_LIMIT = 256 << 20
"""Bytes of the largest manifest that is read; a shard takes about 400."""

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

_NUMBERS = ("bytes", "shots", "frames", "index_bytes")
_DIGESTS = ("sha256", "index_sha256")
_TEXTS = ("name", *_DIGESTS)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\.tar")
_MAX_PIXELS = 1 << 26  # of one frame: 8192 x 8192
_BYTES_PER_FRAME = 4096  # in an index file, boxes and its share of the shots' names included


def manifest_name(split: str) -> str:
    """File name of a split's manifest."""
    return f"{split}.manifest.json"


def caveats_in(manifest: dict[str, Any]) -> tuple[str, ...]:
    """What must be said with every figure that comes from this data; in a checked manifest, sentences."""
    return tuple(manifest["source"].get("caveats", ()))


def index_name(shard: str) -> str:
    """File name of the index beside a shard: ``train-000000.tar`` has ``train-000000.idx.npz``."""
    return f"{shard.removesuffix('.tar')}.idx.npz"


def index_limit(entry: dict[str, Any]) -> int:
    """Bytes that the index of a manifest's shard may have, packed and unpacked."""
    return (1 << 20) + _BYTES_PER_FRAME * int(entry["frames"])


def seal_manifest(manifest: dict[str, Any]) -> bytes:
    """A manifest as JSON with a checksum over everything else in it, by which :func:`parse_manifest` knows damage."""
    facts = {name: value for name, value in manifest.items() if name != "checksum"}
    return json.dumps({**facts, "checksum": _checksum(facts)}, indent=1).encode()


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest in these bytes, checked but for its version and split.

    Returns:
        version, split, classes, shards (name, bytes, sha256, shots, frames, index_bytes, index_sha256), settings,
        source (where the data have any, with ``caveats``), checksum. Of a manifest of another version, only the
        version and the split are certain.

    Raises:
        ValueError: not a manifest, damaged, or it names a shard that is no plain file name.
    """
    try:
        manifest = json.loads(data)
        version = manifest["version"]
        if version != MANIFEST_VERSION:
            return {"version": version, "split": manifest.get("split")}
        facts = {name: value for name, value in manifest.items() if name != "checksum"}
        if manifest["checksum"] != _checksum(facts):
            raise ValueError("its checksum is not that of its content")
        if not (isinstance(manifest["split"], str) and isinstance(manifest["classes"], list) and manifest["shards"]):
            raise ValueError("it lists no shards")
        for entry in manifest["shards"]:
            _check_entry(entry)
        names = [entry["name"] for entry in manifest["shards"]]
        if len(set(names)) < len(names):
            raise ValueError("it lists a shard twice")
        caveats = manifest["source"].get("caveats", [])
        if not (isinstance(caveats, list) and all(isinstance(caveat, str) for caveat in caveats)):
            raise ValueError("its caveats are not texts")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return manifest


def parse_index(data: bytes, entry: dict[str, Any], classes: set[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an index file, checked against each other and against the manifest's entry of its shard.

    After this, reading frames by them cannot go beyond the shard, and no frame claims more than 2^26 pixels.

    Raises:
        ValueError: the file is damaged, lacks an array, or does not fit.
    """
    tables = read_arrays(data, index_limit(entry))
    if not _fits(tables, entry, classes):
        raise ValueError("it does not fit the manifest")
    return tables


def _checksum(facts: dict[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_entry(entry: dict[str, Any]) -> None:
    absent = {*_NUMBERS, *_TEXTS} - entry.keys()
    if absent:
        raise ValueError(f"a shard is listed without {', '.join(sorted(absent))}")
    wrong = [name for name in _NUMBERS if type(entry[name]) is not int or not 0 <= entry[name] < 1 << 62]
    wrong += [name for name in _TEXTS if type(entry[name]) is not str]
    wrong += [name for name in _DIGESTS if not wrong and not _SHA256.fullmatch(entry[name])]  # they become file names
    if wrong:
        raise ValueError(f"a shard is listed with {wrong[0]} {entry[wrong[0]]!r}")
    if not _SHARD_NAME.fullmatch(entry["name"]):
        raise ValueError(f"{entry['name']!r} is not the name of a shard")
    # 512 bytes is the header of a frame's tar member: so the count bounds what is allocated for it.
    if not entry["shots"] <= entry["frames"] <= entry["bytes"] // 512:
        raise ValueError(f"shard {entry['name']} has too few bytes for its frames, or too few frames for its shots")


def read_arrays(data: bytes, limit: int) -> dict[str, NDArray[Any]]:
    """The arrays of an index file as they are stored, of at most ``limit`` bytes together.

    Raises:
        ValueError: the file is damaged, lacks an array, or holds something else than numbers and characters.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as stored:
            sizes = {info.filename: info.file_size for info in stored.infolist()}
            if sum(sizes.values()) > limit:
                raise ValueError(f"its arrays would take {sum(sizes.values())} bytes, more than {limit}")
            return {key: _read_array(stored.read(f"{key}.npy")) for key in INDEX_DTYPES}
    except KeyError as error:
        raise ValueError(f"it lacks an array ({error})") from error
    # A flipped byte in the directory of a zip file can name a compression or an encryption that there is not.
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error


def _read_array(content: bytes) -> NDArray[Any]:
    """A plain .npy; NumPy's own reader allocates whatever a header asks for before it looks at the data."""
    stream = BytesIO(content)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("an array is of another format")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    body = content[stream.tell() :]
    if dtype.kind not in "iufU" or fortran or dtype.itemsize * int(np.prod(shape, dtype=object)) != len(body):
        raise ValueError("an array has another size or type than its header says")
    return np.frombuffer(body, dtype).reshape(shape)


def _fits(tables: dict[str, NDArray[Any]], entry: dict[str, Any], classes: set[str]) -> bool:
    frames, shots, boxes = entry["frames"], entry["shots"], len(tables["box_frame"])
    lengths = {"frame": frames, "shot": shots, "box": boxes}
    for key, kind in INDEX_DTYPES.items():
        shape = (boxes, 4) if key == "box_xyxy" else (lengths[key.partition("_")[0]],)
        if tables[key].shape != shape or not (tables[key].dtype == kind or tables[key].dtype.kind == kind):
            return False
    counts = tables["shot_count"].astype(np.int64)
    box_frame = tables["box_frame"]
    width, height = (tables[f"frame_{side}"].astype(np.int64) for side in ("width", "height"))
    return bool(
        np.all(counts >= 1)
        and counts.sum() == frames
        and np.array_equal(tables["shot_first"], np.cumsum(counts) - counts)
        and np.all(tables["frame_offset"] >= 0)
        and np.all(tables["frame_size"] >= 0)
        and np.all(tables["frame_offset"] <= entry["bytes"] - tables["frame_size"])
        and np.all((width >= 1) & (height >= 1) & (width <= _MAX_PIXELS) & (height <= _MAX_PIXELS))
        and np.all(width * height <= _MAX_PIXELS)
        and np.all(np.diff(box_frame) >= 0)
        and (boxes == 0 or (box_frame[0] >= 0 and box_frame[-1] < frames))
        and np.all(np.isfinite(tables["box_xyxy"]))
        and classes.issuperset(tables["shot_class"].tolist())
    )
