from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.data.containers import codec_name, truncation


def video(folder: Path, suffix: str) -> Path:
    path = folder / f"a{suffix}"
    codec = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".webm": "VP80"}[suffix]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(12):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi", ".m4v", ".mkv", ".webm"])
def test_cut_off_files_are_known_by_their_sizes(tmp_path: Path, suffix: str) -> None:
    path = video(tmp_path, suffix)
    data = path.read_bytes()
    assert truncation(path) is None
    for part in (0.95, 0.5, 0.1):
        path.write_bytes(data[: int(len(data) * part)])
        found = truncation(path)
        assert found is not None
        assert found.startswith("it is cut off")
    path.write_bytes(data[:-1])
    assert truncation(path) == f"it is cut off: {len(data) - 1} of {len(data)} bytes are there"


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".mp4", "mp4v"), (".mov", "mp4v"), (".avi", "MJPG"), (".mkv", "MPEG4/ISO/ASP"), (".webm", "VP8")],
)
def test_the_codec_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    assert codec_name(video(tmp_path, suffix)) == name
    (tmp_path / "text").write_text("no video")
    assert codec_name(tmp_path / "text") is None


def test_the_codec_is_found_far_from_both_ends(tmp_path: Path) -> None:
    """The index of a long video lies behind megabytes of pictures, and other boxes may follow it."""
    path = video(tmp_path, ".mp4")
    data = path.read_bytes()
    first = int.from_bytes(data[:4], "big")
    filler = (3 << 19).to_bytes(4, "big") + b"free" + bytes((3 << 19) - 8)
    path.write_bytes(data[:first] + filler + data[first:] + filler)
    assert codec_name(path) == "mp4v"


def test_the_codec_of_an_avi_is_that_of_its_format(tmp_path: Path) -> None:
    """The handler in the header of the stream is a wish, and often left out."""
    path = video(tmp_path, ".avi")
    data = path.read_bytes()
    assert data.count(b"vidsMJPG") == 1
    path.write_bytes(data.replace(b"vidsMJPG", b"vids\0\0\0\0"))
    assert codec_name(path) == "MJPG"


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("tail", [b"tail", bytes(50), b"\0\1\2\3\4\5\6\7 and so on"])
def test_trailing_bytes_are_no_damage(tmp_path: Path, suffix: str, tail: bytes) -> None:
    path = video(tmp_path, suffix)
    path.write_bytes(path.read_bytes() + tail)
    assert truncation(path) is None


def test_a_long_row_of_boxes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colocam_dist.data.containers._MOST_BOXES", 5)
    (tmp_path / "a").write_bytes(b"\0\0\0\x08free" * 5 + b"\0\0\0\x08moov")
    assert truncation(tmp_path / "a") == "it is cut off: it has no index (moov)"
    (tmp_path / "a").write_bytes(b"\0\0\0\x08free" * 4 + b"\0\0\0\x08moov" + b"\0\0\0\x08free" * 9)
    assert truncation(tmp_path / "a") is None


def riff(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + (len(kind + body)).to_bytes(4, "little") + kind + body + bytes(len(body) % 2)


# An AVI above 1 GB, in small: several RIFF chunks, one of odd length.
OPEN_DML = riff(b"AVI ", b"LIST") + riff(b"AVIX", b"seven b") + riff(b"AVIX", b"even")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\3mdat", "it is damaged: the box at byte 16 is shorter than its own header"),
        (b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08mdat", "it is cut off: it has no index (moov)"),
        (b"\0\0\0\x08moov\0\0\0\0mdat" + b"x" * 99, None),
        (b"\0\0\0\x08moov\0\0\0\1mdat" + (60).to_bytes(8, "big") + b"x" * 44, None),
        (
            b"\0\0\0\x08moov\0\0\0\1mdat" + (1 << 62).to_bytes(8, "big") + b"x" * 44,
            f"it is cut off: 68 of {(1 << 62) + 8} bytes are there",
        ),
        (b"\0\0\0\x08moov\0\0\0\1mdat" + bytes(4), "it is cut off: 20 of 24 bytes are there"),
        (
            b"\0\0\0\x08moov\0\0\0\1mdat" + (15).to_bytes(8, "big"),
            "it is damaged: the box at byte 8 is shorter than its own header",
        ),
        (b"RIFF\0\0\0\0AVI LIST", "it was never finished: its size is not stated"),
        (b"RIFF\xff\xff\xff\xffAVI LIST", "it was never finished: its size is not stated"),
        (OPEN_DML, None),
        (OPEN_DML + b"idx?", None),
        (OPEN_DML[:-1], "it is cut off: 51 of 52 bytes are there"),
        (OPEN_DML[:45], "it is cut off: 45 of 52 bytes are there"),
        (OPEN_DML[:30], "it is cut off: 30 of 35 bytes are there"),
        (OPEN_DML[:35], None),  # only the padding is missing
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\xff" + b"x" * 9, None),  # a segment of unknown size (live)
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x8a" + b"x" * 9, "it is cut off: 20 of 21 bytes are there"),
        (b"\x1a\x45\xdf\xa3\xff", None),
        (
            b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe",
            f"it is cut off: 12 of {12 + (1 << 56) - 2 + 5} bytes are there",
        ),
        (b"\x1a\x45\xdf\xa3\x81xno segment here", None),
        (b"FLV\1 something else", None),
        (b"", None),
    ],
)
def test_odd_sizes(tmp_path: Path, data: bytes, found: str | None) -> None:
    (tmp_path / "a").write_bytes(data)
    assert truncation(tmp_path / "a") == found
