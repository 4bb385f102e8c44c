"""Manifests and indexes that nobody of good will has written."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.data.manifest import INDEX_DTYPES, parse_index, parse_manifest, seal_manifest

ENTRY: dict[str, Any] = {
    "name": "train-000000.tar",
    "bytes": 10_240,
    "sha256": "0" * 64,
    "shots": 1,
    "frames": 2,
    "index_bytes": 100,
    "index_sha256": "0" * 64,
}
MANIFEST = {"version": 2, "split": "train", "classes": ["cat"], "shards": [ENTRY], "source": {}}


def test_a_sealed_manifest_is_read_back() -> None:
    manifest = parse_manifest(seal_manifest(MANIFEST))
    assert {name: manifest[name] for name in MANIFEST} == MANIFEST
    assert parse_manifest(seal_manifest(manifest)) == manifest


def test_every_flipped_byte_is_noticed() -> None:
    data = seal_manifest(MANIFEST)
    whole = parse_manifest(data)
    for place in range(len(data)):
        for bit in (1, 32):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                found = parse_manifest(changed)
            except ValueError:
                continue
            # White space between values means nothing; another version is refused by the reader.
            assert found == whole or found["version"] != 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "../../etc/passwd"}, "not the name of a shard"),
        ({"name": "/etc/passwd.tar"}, "not the name of a shard"),
        ({"name": "a/b.tar"}, "not the name of a shard"),
        ({"name": "..tar"}, "not the name of a shard"),
        ({"name": "x" * 300 + ".tar"}, "not the name of a shard"),
        ({"name": "pipe:id.tar"}, "not the name of a shard"),
        ({"bytes": -1}, "with bytes -1"),
        ({"bytes": 1 << 70}, "with bytes"),
        ({"frames": True}, "with frames True"),
        ({"frames": "2"}, "with frames '2'"),
        ({"frames": 10**9}, "too few bytes for its frames"),
        ({"shots": 3}, "too few frames for its shots"),
        ({"sha256": None}, "with sha256 None"),
        ({"sha256": "../../etc/passwd"}, "with sha256 '../../etc/passwd'"),
        ({"sha256": "A" * 64}, "with sha256"),
        ({"index_sha256": "0" * 63}, "with index_sha256"),
    ],
)
def test_entries_that_make_no_sense(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_manifest(seal_manifest({**MANIFEST, "shards": [{**ENTRY, **change}]}))


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"7", b"[" * 100_000, b'{"version": 2}', b"\xff\xfe", b'{"version": 2, "checksum": 3}'],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_manifest(data)


def test_a_shard_listed_twice() -> None:
    with pytest.raises(ValueError, match="lists a shard twice"):
        parse_manifest(seal_manifest({**MANIFEST, "shards": [ENTRY, ENTRY]}))


@pytest.mark.parametrize("caveats", [[3], ["a", None], {"a": 1}, "a", 7])
def test_caveats_that_are_no_texts(caveats: Any) -> None:
    with pytest.raises(ValueError, match="caveats are not texts"):
        parse_manifest(seal_manifest({**MANIFEST, "source": {"caveats": caveats}}))


def tables(**changes: np.ndarray) -> dict[str, np.ndarray]:
    columns: dict[str, Any] = {
        "frame_offset": [512, 2048],
        "frame_size": [100, 200],
        "frame_crc32": [1, 2],
        "frame_width": [5, 5],
        "frame_height": [7, 7],
        "frame_name": ["a", "b"],
        "shot_key": ["cat/v/s"],
        "shot_class": ["cat"],
        "shot_video": ["v"],
        "shot_first": [0],
        "shot_count": [2],
        "box_frame": [1],
        "box_xyxy": [[0, 0, 3, 4]],
    }
    return {**{key: np.array(value, INDEX_DTYPES[key]) for key, value in columns.items()}, **changes}


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_a_sound_index() -> None:
    found = parse_index(npz(tables()), ENTRY, {"cat"})
    assert found.keys() == INDEX_DTYPES.keys()
    assert found["frame_name"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"frame_offset": np.array([512, 10_100])},
        {"frame_offset": np.array([-5, 2048])},
        {"frame_size": np.array([100, -1], np.int32)},
        {"frame_offset": np.array([512, (1 << 63) - 1])},
        {"frame_width": np.array([5, 1 << 30], np.int32)},
        {"frame_height": np.array([5, 0], np.int32)},
        {"frame_width": np.array([10_000, 5], np.int32), "frame_height": np.array([10_000, 5], np.int32)},
        {"shot_count": np.array([3], np.int32)},
        {"shot_first": np.array([1])},
        {"shot_class": np.array(["dog"])},
        {"box_frame": np.array([2])},
        {"box_frame": np.array([-1])},
        {"box_xyxy": np.array([[0, 0, np.nan, 4]], np.float32)},
        {"frame_crc32": np.array([1.0, 2.0])},
    ],
    ids=range(14),
)
def test_indexes_that_would_lead_astray(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="does not fit the manifest"):
        parse_index(npz(tables(**change)), ENTRY, {"cat"})


def test_objects_are_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("/tmp/should-never-exist"),))

    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, **{**tables(), "frame_name": np.array([Bomb(), Bomb()], object)})
    with pytest.raises(ValueError, match=r"another size or type"):
        parse_index(stream.getvalue(), ENTRY, {"cat"})


def test_an_array_that_claims_more_than_it_has() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as stored:
        for name in INDEX_DTYPES:
            stored.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match="another size or type"):
        parse_index(stream.getvalue(), ENTRY, {"cat"})


def test_an_archive_that_unpacks_to_too_much() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as stored:
        stored.writestr("frame_offset.npy", b"\0" * (8 << 20))
    assert len(stream.getvalue()) < 20_000
    with pytest.raises(ValueError, match="more than"):
        parse_index(stream.getvalue(), ENTRY, {"cat"})


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + b"\0" * 18, json.dumps(ENTRY).encode()])
def test_what_is_no_index(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_index(data, ENTRY, {"cat"})
