"""Overlays, videos and curves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.errors import DataError, RunError
from colocam_dist.report.curves import COLORS, training_curves
from colocam_dist.report.overlays import LOCALIZER_COLOR, contact_sheet, draw_box, draw_prediction, heat, label
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


def test_a_long_caption_stays_inside_the_picture() -> None:
    frame = np.full((151, 201, 3), 200, np.uint8)
    letters_HW = label(frame, "a long class name that goes on and on " * 3).max(2) > 210
    assert letters_HW[:, 150:].any(), "uses the width"
    assert not letters_HW[:, -3:].any(), "but does not run out of the picture"
    assert not letters_HW[40:].any(), "one line"


@pytest.mark.parametrize("size", [(151, 201), (361, 641), (719, 1279)])
def test_a_prediction_has_heat_box_and_caption_on_odd_sizes(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 90, np.uint8)
    height, width = size
    box = (0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height)
    drawn = draw_prediction(frame, np.eye(5, dtype=np.float32), [box], "cat 0.93")
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    assert tuple(drawn[round(0.7 * height), round(0.25 * width)]) == LOCALIZER_COLOR
    letters_HW = (drawn[: height // 8, : width // 2] > 200).all(2)
    assert np.ptp(np.nonzero(letters_HW)[0]) >= 7, "letters of at least eight rows"


def test_all_boxes_of_a_prediction_are_drawn_the_first_on_top() -> None:
    frame = np.full((151, 201, 3), 90, np.uint8)
    flat = np.zeros((3, 3), np.float32)
    left, right = (20, 60, 90, 120), (92, 60, 150, 120)
    both, other = (draw_prediction(frame, flat, boxes, "cat") for boxes in ([left, right], [right, left]))
    for picture in (both, other):
        assert tuple(picture[90, 20]) == tuple(picture[90, 150]) == LOCALIZER_COLOR
    assert tuple(both[90, 90]) == LOCALIZER_COLOR
    assert not np.array_equal(both, other)
    assert np.array_equal(draw_prediction(frame, flat, [(0, 0, 0, 0)], "cat"), label(heat(frame, flat), "cat"))


def test_a_contact_sheet_holds_each_picture_in_reading_order() -> None:
    shades = (10, 60, 110)
    sizes = ((31, 41), (21, 41), (31, 11))
    pictures = [np.full((*size, 3), shade, np.uint8) for size, shade in zip(sizes, shades, strict=True)]
    sheet = contact_sheet(pictures, 2, gap=3)
    assert sheet.shape == (31 + 3 + 31, 41 + 3 + 41, 3)
    assert [int((sheet[..., 0] == shade).sum()) for shade in shades] == [31 * 41, 21 * 41, 31 * 11]
    assert [int(sheet[y, x, 0]) for y, x in ((15, 20), (15, 64), (49, 20), (49, 64))] == [*shades, 255]
    assert contact_sheet(pictures[:1], 5).shape == (31, 41, 3), "no empty columns"
    for given, columns in (([], 2), (pictures, 0)):
        with pytest.raises(ValueError, match="wanted pictures"):
            contact_sheet(given, columns)


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
    with pytest.raises(DataError, match="got: 8 x 10\n  wanted: 8 x 8"):
        video.write(np.zeros((10, 8, 3), np.uint8))
    video.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "written"),
    [((7, 9001), (2, 4096)), ((8192, 64), (4096, 32)), ((4097, 4097), (4096, 4096)), ((3, 4095), (2, 4094))],
)
def test_large_frames_are_scaled_to_what_the_codec_takes(
    given: tuple[int, int], written: tuple[int, int], tmp_path: Path
) -> None:
    frame = np.full((*given, 3), 40, np.uint8)
    frame[:, given[1] // 2 :] = 200
    video = VideoFile(tmp_path / "x.mp4", 10.0)
    video.write(frame)
    video.close()
    good, back = cv2.VideoCapture(str(tmp_path / "x.mp4")).read()
    assert good
    assert back.shape == (*written, 3)
    quarter = written[1] // 4
    assert [abs(int(part.mean()) - shade) < 12 for part, shade in ((back[:, :quarter], 40), (back[:, -quarter:], 200))]


@pytest.mark.parametrize("size", [(1, 8), (8, 1), (3, 9001)])
def test_frames_that_the_codec_does_not_take_are_data_to_blame(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="frames cannot be encoded as a video"):
        VideoFile(tmp_path / "x.mp4", 10.0).write(np.zeros((*size, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [0.1, 23.976, 65.537, 90.001, 119.88, 239.999])
def test_every_rate_can_be_written(rate: float, tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "x.mp4", rate)
    video.write(np.zeros((8, 8, 3), np.uint8))
    video.close()
    assert cv2.VideoCapture(str(tmp_path / "x.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-4)


def test_a_video_takes_its_name_after_what_comes_before(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    seen: list[bool] = []
    video = VideoFile(path, 10.0)
    video.write(np.zeros((8, 8, 3), np.uint8))
    video.close(lambda: seen.append(path.exists()))
    assert (seen, path.exists()) == ([False], True)


def test_a_video_that_cannot_take_its_name_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken.mp4"
    path.mkdir()
    video = VideoFile(path, 25.0)
    video.write(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(RunError, match="cannot be finished"):
        video.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.mp4"]


def ink(png: bytes, color: str) -> np.ndarray:
    """Columns of a curve picture that hold the color "#RRGGBB" in the upper three quarters (above the legend)."""
    image_BGR = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image_BGR is not None
    wanted = [int(color[place : place + 2], 16) for place in (5, 3, 1)]
    return np.flatnonzero((image_BGR[: image_BGR.shape[0] * 3 // 4] == wanted).all(2).any(0))


def test_curves_come_per_stage_and_draw_what_the_rows_hold() -> None:
    rows = [
        {"stage": "classifier", "kind": "train", "epoch": 1, "step": 1, "loss": 2.0, "accuracy": 10.0},
        {"stage": "classifier", "kind": "train", "epoch": 1, "step": 2, "loss": 1.0, "accuracy": 20.0},
        {"stage": "cams", "kind": "stage", "epoch": 1, "step": 2, "seconds": 3.0},
        {"stage": "localizer", "kind": "train", "epoch": 1, "step": 1, "loss": -7.0, "size_barrier": 0.5},
        {"stage": "localizer", "kind": "validation", "epoch": 1, "step": 2, "corloc": 50.0, "classification": 70.0},
    ]
    curves = training_curves(rows)
    assert list(curves) == ["classifier", "localizer"]
    assert len(ink(curves["classifier"], COLORS["loss"]))
    assert not len(ink(curves["classifier"], COLORS["size_barrier"]))
    assert len(ink(curves["localizer"], COLORS["size_barrier"]))
    assert len(ink(curves["localizer"], COLORS["classification"]))
    assert training_curves([]) == {}


def test_a_value_that_is_no_number_leaves_a_gap() -> None:
    def rows(middle: float | str) -> list[dict[str, object]]:
        values = [0.0, 1.0, middle, middle, 1.0, 0.0]
        return [
            {"stage": "s", "kind": "train", "epoch": 1, "step": step, "size_barrier": value}
            for step, value in enumerate(values)
        ]

    whole = ink(training_curves(rows(0.5))["s"], COLORS["size_barrier"])
    assert np.diff(whole).max() < 20
    for odd in ("nan", "inf"):
        broken = ink(training_curves(rows(odd))["s"], COLORS["size_barrier"])
        assert np.diff(broken).max() > 100
        assert broken[[0, -1]].tolist() == whole[[0, -1]].tolist()
    nothing = [{"stage": "s", "kind": "train", "epoch": 1, "step": 1, "loss": "nan"}]
    assert not len(ink(training_curves(nothing)["s"], COLORS["loss"]))
