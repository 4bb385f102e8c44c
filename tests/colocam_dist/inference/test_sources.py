"""Clips are found, decoded in sequence, and refused clearly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.errors import DataError
from colocam_dist.inference.sources import find_clips


def picture(path: Path, shade: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), shade, np.uint8))


def video(path: Path, frames: int, rate: float = 12.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for number in range(frames):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2] = 20 * number  # red, in OpenCV's order
        writer.write(frame)
    writer.release()


def test_a_folder_tree_gives_videos_and_picture_folders_in_name_order(tmp_path: Path) -> None:
    video(tmp_path / "b" / "one.mp4", 3)
    picture(tmp_path / "a" / "shot" / "2.png", 20)
    picture(tmp_path / "a" / "shot" / "1.png", 10)
    (tmp_path / "notes.txt").write_text("not media")
    clips = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a__shot", "b__one"]
    shades = [int(frame.mean()) for frame in clips[0].frames()]
    assert shades == [10, 20]


def test_a_video_gives_every_frame_in_order_as_rgb(tmp_path: Path) -> None:
    video(tmp_path / "clip.mp4", 7)
    (clip,) = find_clips(tmp_path / "clip.mp4")
    frames = list(clip.frames())
    reds = [int(frame[..., 0].mean()) for frame in frames]
    assert len(frames) == 7
    assert reds == sorted(reds)
    assert reds[-1] > 100
    assert frames[-1][..., 2].mean() < 40, "blue must stay dark: the order is RGB"
    assert clip.rate() == pytest.approx(12.5)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_clips(tmp_path / "nothing")
    with pytest.raises(DataError, match="no video and no picture"):
        find_clips(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match="input is no video"):
        find_clips(tmp_path / "x.txt")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="no frame can be decoded") as caught:
        list(find_clips(tmp_path / "empty.mp4")[0].frames())
    assert "empty.mp4" in str(caught.value)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_that_is_cut_off_gives_no_frame(suffix: str, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"clip{suffix}"
    video(whole, 12)
    (clip,) = find_clips(whole)
    assert len(list(clip.frames())) == 12
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    assert cv2.VideoCapture(str(path)).read()[0], "a decoder does not mind"
    with pytest.raises(DataError, match="it is cut off") as caught:
        next(find_clips(path)[0].frames())
    assert path.name in str(caught.value)


def test_a_video_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    video(tmp_path / "clip.mp4", 3)
    (clip,) = find_clips(tmp_path / "clip.mp4")
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(DataError, match=r"video cannot be read\n.*clip.mp4\n.*No such file"):
        next(clip.frames())


def test_damaged_and_differing_pictures_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "c" / "1.png", 1)
    picture(tmp_path / "c" / "2.png", 1, size=(41, 30))
    with pytest.raises(DataError, match="differ in size") as caught:
        list(find_clips(tmp_path / "c")[0].frames())
    assert "(41, 30)" in str(caught.value)
    (tmp_path / "c" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        list(find_clips(tmp_path / "c")[0].frames())
    assert "2.png" in str(caught.value)


def test_two_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    video(tmp_path / "x.mp4", 1)
    video(tmp_path / "x.avi", 1)
    with pytest.raises(DataError, match="same name"):
        find_clips(tmp_path)
