"""Overlays, videos and curves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.errors import RunError
from colocam_dist.report.curves import training_curves
from colocam_dist.report.overlays import LOCALIZER_COLOR, draw_box, draw_prediction, heat, label
from colocam_dist.report.video import VideoFile


def test_heat_hides_more_of_the_image_where_the_map_is_strong(picture: np.ndarray) -> None:
    map_HW = np.zeros((7, 9), np.float32)
    map_HW[:, 5:] = 1.0
    before = picture.copy()
    mixed = heat(picture, map_HW)
    assert mixed.shape == picture.shape
    assert mixed.dtype == np.uint8
    changed = np.abs(mixed.astype(int) - picture).mean((0, 2))
    assert changed[-10:].mean() > 2 * changed[:10].mean()
    assert np.array_equal(picture, before)


def test_a_box_is_drawn_where_it_is_and_an_empty_one_is_not(picture: np.ndarray) -> None:
    drawn = draw_box(picture, (20, 10, 60, 40), LOCALIZER_COLOR)
    assert tuple(drawn[10, 40]) == LOCALIZER_COLOR
    assert tuple(drawn[25, 20]) == LOCALIZER_COLOR
    assert np.array_equal(drawn[25, 40], picture[25, 40]), "the inside stays"
    assert np.array_equal(draw_box(picture, (0, 0, 0, 0), LOCALIZER_COLOR), picture)


def test_captions_of_any_characters_on_any_size() -> None:
    tiny = np.full((9, 11, 3), 200, np.uint8)
    assert label(tiny, "größer als 猫").shape == tiny.shape
    frame = np.zeros((120, 160, 3), np.uint8)
    assert label(frame, "cat 0.9").max() > 200
    assert draw_prediction(frame, np.ones((5, 5), np.float32), (1, 2, 30, 40), "cat").shape == frame.shape


def test_a_video_reads_back_and_replaces_the_old_one_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    given_up = VideoFile(path, 10.0)
    given_up.write(np.zeros((47, 63, 3), np.uint8))
    given_up.discard()
    assert path.read_text() == "old"
    video = VideoFile(path, 10.0)
    for shade in (0, 120, 240):
        video.write(np.full((47, 63, 3), shade, np.uint8))
    video.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    reader = cv2.VideoCapture(str(path))
    frames = [frame for good, frame in (reader.read() for _ in range(4)) if good]
    reader.release()
    assert [frame.shape for frame in frames] == [(46, 62, 3)] * 3
    assert [abs(int(frame.mean()) - shade) < 12 for frame, shade in zip(frames, (0, 120, 240), strict=True)] == [
        True
    ] * 3


def test_videos_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="video cannot be written"):
        VideoFile(tmp_path / "absent" / "x.mp4", 10.0).write(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(RunError, match="at least one frame"):
        VideoFile(tmp_path / "x.mp4", 10.0).close()
    video = VideoFile(tmp_path / "x.mp4", 10.0)
    video.write(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="wanted frames of"):
        video.write(np.zeros((10, 8, 3), np.uint8))
    video.discard()


def test_curves_survive_values_that_are_no_numbers() -> None:
    rows = [
        {"stage": "classifier", "kind": "train", "epoch": 1, "step": 1, "loss": 2.0, "accuracy": 10.0},
        {"stage": "localizer", "kind": "train", "epoch": 1, "step": 1, "loss": "nan", "fg_mean": 0.5},
        {"stage": "localizer", "kind": "train", "epoch": 1, "step": 2, "loss": 1.0, "fg_mean": 0.4},
        {"stage": "localizer", "kind": "validation", "epoch": 1, "step": 2, "corloc": 50.0, "classification": 70.0},
        {"stage": "localizer", "kind": "stage", "epoch": 1, "step": 2, "seconds": 3.0},
    ]
    curves = training_curves(rows)
    assert list(curves) == ["classifier", "localizer"]
    for png in curves.values():
        assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).std() > 5
    assert training_curves([]) == {}
