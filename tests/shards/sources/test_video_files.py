from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.sources.video_files import VideoFacts, decode, decode_timed, look_at


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames of 96 x 64 pixels at 10 frames per second: dark but for the top left quarter, frame n at 8 n."""
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for number in range(12):
        image = np.full((64, 96, 3), 8 * number, np.uint8)
        image[:32, :48] = 250
        writer.write(image)
    writer.release()
    return path


def numbers(path: Path) -> list[int]:
    """What number each decoded frame has, by its gray."""
    return [round(float(np.median(image)) / 8) for image in decode(path)]


def test_facts_and_times(video: Path) -> None:
    assert look_at(video) == VideoFacts(96, 64, 12, 10.0)
    assert [seconds for _, seconds in decode_timed(video)] == pytest.approx([number / 10 for number in range(12)])
    assert numbers(video) == list(range(12))


@pytest.mark.parametrize(("turns", "bright"), [(1, "top right"), (2, "bottom right"), (3, "bottom left")])
def test_rotated_videos_come_out_upright(video: Path, edit_mp4: Callable[..., None], turns: int, bright: str) -> None:
    edit_mp4(video, quarter_turns=turns)
    width, height = (64, 96) if turns % 2 else (96, 64)
    facts = look_at(video)
    assert isinstance(facts, VideoFacts)
    assert (facts.width, facts.height) == (width, height)
    for image in decode(video):
        assert image.shape == (height, width, 3)
        corner = image[: height // 2] if bright.startswith("top") else image[height // 2 :]
        corner = corner[:, : width // 2] if bright.endswith("left") else corner[:, width // 2 :]
        assert corner[4:-4, 4:-4].mean() > 200
        assert (image > 200).mean() < 0.4


def test_a_variable_rate_is_in_the_times(video: Path, edit_mp4: Callable[..., None]) -> None:
    durations = [0.1, 0.3, 0.1, 0.7] * 3
    edit_mp4(video, durations=durations)
    times = [seconds for _, seconds in decode_timed(video)]
    assert times == pytest.approx(np.cumsum([0, *durations[:-1]]), abs=0.002)
    assert numbers(video) == list(range(12))


def test_an_edit_list_leaves_the_order_of_decoding(video: Path, edit_mp4: Callable[..., None]) -> None:
    edit_mp4(video, start=0.45)
    shown = numbers(video)
    # Which frames an edit list leaves is up to the decoder; that they follow each other, always the same, is not.
    assert shown == list(range(shown[0], 12))
    assert numbers(video) == shown
    assert 0 < len(shown) <= 12


def test_what_cannot_be_used_is_said(tmp_path: Path, video: Path) -> None:
    assert look_at(tmp_path / "absent.mp4") == "no such file"
    (tmp_path / "empty.mp4").touch()
    assert look_at(tmp_path / "empty.mp4") == "the file is empty"
    (tmp_path / "text.mp4").write_text("no video")
    assert look_at(tmp_path / "text.mp4") == "it is not a video that can be decoded"
    data = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:-100])
    assert look_at(tmp_path / "cut.mp4") == f"it is cut off: {len(data) - 100} of {len(data)} bytes are there"


def test_a_codec_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"XYZW"))
    assert look_at(path) == "its codec XYZW cannot be decoded here"
