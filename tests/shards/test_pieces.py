"""Shards that nobody of good will has written, and shards that were changed on the way."""

from __future__ import annotations

import io
import json
import tarfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.pieces import read_shard
from shards.tables import Tables
from shards.writer import member_header, piece_key

FACTS = {"cls": "cat", "video": "v", "shot": "s", "start": 0, "frames": ["a"], "sizes": [[5, 7]], "boxes": {}}
NAME = piece_key("cat", "v", "s", 0)


def shard(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for header, content in members:
            tar.addfile(header, io.BytesIO(content))
    return path


def member(name: str, content: bytes, **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    header = member_header(name, len(content))
    for key, value in changes.items():
        setattr(header, key, value)
    return header, content


def facts(**changes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(f"{NAME}.json", json.dumps({**FACTS, **changes}).encode())


def read(path: Path) -> Tables:
    tables = Tables()
    deque(read_shard(path, tables), maxlen=0)
    return tables


PICTURE = member(f"{NAME}.0000.jpg", b"bytes of a picture")


def test_a_sound_shard(tmp_path: Path) -> None:
    tables = read(shard(tmp_path / "a.tar", facts(boxes={"0": [[1, 2, 3.5, 4]]}), PICTURE))
    arrays = tables.arrays()
    assert (tables.n_shots, tables.n_frames, arrays["shot_key"].tolist()) == (1, 1, ["cat/v/s"])
    assert arrays["box_xyxy"].tolist() == [[1, 2, 3.5, 4]]
    content = (tmp_path / "a.tar").read_bytes()
    (offset,), (size,) = arrays["frame_offset"], arrays["frame_size"]
    assert content[offset : offset + size] == PICTURE[1]


@pytest.mark.parametrize(
    "odd",
    [
        member(f"{NAME}.0000.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(f"{NAME}.0000.jpg", b"", type=tarfile.LNKTYPE, linkname=f"{NAME}.json"),
        member(f"{NAME}.0000.jpg", b"", type=tarfile.CHRTYPE),
        member(f"{NAME}.0000.jpg", b"", type=tarfile.DIRTYPE),
        member("../../outside.jpg", b"x"),
        member("/tmp/outside.jpg", b"x"),
        member(f"{NAME}.0000.jpg", b"x", mode=0o4755),
        member(f"{NAME}.0000.jpg", b"x", mtime=1),
        member(f"{NAME}.0000.jpg", b"x", uname="root"),
        member(f"{NAME}.0001.jpg", b"x"),
    ],
    ids=lambda odd: f"{odd[0].name[-12:]}-{odd[0].type.decode()}-{odd[0].mode:o}-{odd[0].mtime}",
)
def test_members_that_are_not_ours_are_refused_and_nothing_is_written(
    odd: tuple[tarfile.TarInfo, bytes], tmp_path: Path
) -> None:
    path = shard(tmp_path / "a.tar", facts(), odd)
    with pytest.raises(ValueError, match=r"not one of this format|where cat__v__s__0000\.0000\.jpg has to be"):
        read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]


def test_extension_records_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        header = member_header("x" * 300, 0)
        header.pax_headers = {"path": "../../outside"}
        tar.addfile(header)
    with pytest.raises(ValueError, match="header at byte 0"):
        read(tmp_path / "a.tar")


def test_a_size_that_would_fill_the_memory(tmp_path: Path) -> None:
    header = member_header(f"{NAME}.json", 0o77777777777)
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 10240)
    with pytest.raises(ValueError, match="header at byte 0"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        json.dumps({**FACTS, "frames": [7]}).encode(),
        json.dumps({**FACTS, "frames": ["a"] * 65, "sizes": [[1, 1]] * 65}).encode(),
        json.dumps({**FACTS, "sizes": [[5, 7], [5, 7]]}).encode(),
        json.dumps({**FACTS, "sizes": [[5]]}).encode(),
        json.dumps({**FACTS, "sizes": [[5, -7]]}).encode(),
        json.dumps({**FACTS, "boxes": {"0": [[1, 2, 3]]}}).encode(),
        json.dumps({**FACTS, "boxes": {"0": "1234"}}).encode(),
        json.dumps({**FACTS, "boxes": [1]}).encode(),
        json.dumps({**FACTS, "cls": None}).encode(),
    ],
    ids=range(14),
)
def test_facts_that_are_none(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the description of a piece"):
        read(shard(tmp_path / "a.tar", member(f"{NAME}.json", content), PICTURE))


def test_pieces_out_of_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="describes dog__v__s__0000"):
        read(shard(tmp_path / "a.tar", facts(cls="dog"), PICTURE))
    late = member(f"{piece_key('cat', 'v', 's', 1)}.json", json.dumps({**FACTS, "start": 1}).encode())
    with pytest.raises(ValueError, match="does not continue its shot"):
        read(shard(tmp_path / "b.tar", late, member(f"{piece_key('cat', 'v', 's', 1)}.0001.jpg", b"x")))
    with pytest.raises(ValueError, match="its end where"):
        read(shard(tmp_path / "c.tar", facts()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:700], "cut off inside of member"),
        (lambda data: data[:-512], "its end"),
        (lambda data: data + b"\0" * 512, "its end"),
        (lambda data: data[:-1] + b"\1", "its end"),
        (lambda data: b"", "cut off at byte 0"),
    ],
)
def test_bytes_that_are_missing_or_too_many(change: Callable[[bytes], bytes], text: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", facts(), member(f"{NAME}.0000.jpg", b"y" * 12_000))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=text):
        read(path)


def test_every_single_flipped_byte_outside_of_contents_is_noticed(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", facts(), PICTURE)
    data = path.read_bytes()
    offsets = read(path).arrays()["frame_offset"]
    inside = set(range(int(offsets[0]), int(offsets[0]) + len(PICTURE[1]))) | set(range(512, 512 + len(facts()[1])))
    for position in (
        np.random.default_rng(0).choice(sorted(set(range(len(data))) - inside), 300, replace=False).tolist()
    ):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x20]) + data[position + 1 :])
        with pytest.raises(
            ValueError, match=r"the header at byte \d+ is not|there are bytes between|its end at byte|cut off at byte"
        ):
            read(path)
