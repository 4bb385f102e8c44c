from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.sources.containers import codec_name, truncation


def video(folder: Path, suffix: str) -> Path:
    path = folder / f"a{suffix}"
    codec = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}[suffix]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(12):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi", ".mkv", ".webm"])
def test_cut_off_files_are_known_by_their_sizes(tmp_path: Path, suffix: str) -> None:
    path = video(tmp_path, suffix)
    data = path.read_bytes()
    assert truncation(path) is None
    for part in (0.95, 0.5, 0.1):
        path.write_bytes(data[: int(len(data) * part)])
        found = truncation(path)
        assert found is not None
        assert found.startswith("it is cut off")


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".mp4", "mp4v"), (".mov", "mp4v"), (".avi", "MJPG"), (".mkv", "MPEG4/ISO/ASP"), (".webm", "VP8")],
)
def test_the_codec_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    assert codec_name(video(tmp_path, suffix)) == name
    (tmp_path / "text").write_text("no video")
    assert codec_name(tmp_path / "text") is None


def test_trailing_bytes_are_no_damage(tmp_path: Path) -> None:
    path = video(tmp_path, ".avi")
    path.write_bytes(path.read_bytes() + b"tail")
    assert truncation(path) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\3mdat", "it is damaged: a box of 3 bytes at byte 16"),
        (b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08mdat", "it is cut off: it has no index (moov)"),
        (b"\0\0\0\x08moov\0\0\0\0mdat" + b"x" * 99, None),
        (b"\0\0\0\x08moov\0\0\0\1mdat" + (60).to_bytes(8, "big") + b"x" * 44, None),
        (
            b"\0\0\0\x08moov\0\0\0\1mdat" + (1 << 62).to_bytes(8, "big") + b"x" * 44,
            f"it is cut off: 68 of {(1 << 62) + 8} bytes are there",
        ),
        (b"RIFF\0\0\0\0AVI LIST", "it was never finished: its size is 0"),
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\xff" + b"x" * 9, None),  # a segment of unknown size (live)
        (b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x8a" + b"x" * 9, "it is cut off: 20 of 21 bytes are there"),
        (b"\x1a\x45\xdf\xa3\xff", None),
        (b"FLV\1 something else", None),
        (b"", None),
    ],
)
def test_odd_sizes(tmp_path: Path, data: bytes, found: str | None) -> None:
    (tmp_path / "a").write_bytes(data)
    assert truncation(tmp_path / "a") == found
