from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.build import main
from shards.synthetic.backgrounds import photo_files
from shards.synthetic.generate import SyntheticOptions, generate_videos
from shards.synthetic.scene import Scene, render
from shards.synthetic.sprites import KINDS, draw_sprite
from shards.verify import verify


@pytest.fixture
def photos(tmp_path: Path, picture: Any) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), picture(seed, 201, 133))
    return folder


def options(photos: Path, **changes: Any) -> SyntheticOptions:
    facts = {
        "classes": 2,
        "clips_per_class": 4,
        "frames": 3,
        "width": 64,
        "height": 48,
        "seed": 0,
        "backgrounds": photos,
        "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
    }
    return SyntheticOptions(**{**facts, **changes})


def generate(folder: Path, chosen: SyntheticOptions, *, overwrite: bool = False, workers: int = 1) -> dict[str, bytes]:
    table = generate_videos(folder, chosen, workers=workers, overwrite=overwrite)
    assert table == folder / "videos.csv"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_options_give_equal_bytes(photos: Path, tmp_path: Path) -> None:
    first = generate(tmp_path / "a", options(photos))
    assert generate(tmp_path / "b", options(photos)) == first
    assert len(first) == 8 + 3
    other = generate(tmp_path / "c", options(photos, seed=1))
    assert all(other[name] != first[name] for name in first if name.endswith("mp4"))
    assert len({first[name] for name in first if name.endswith("mp4")}) == 8


@pytest.mark.slow
def test_processes_do_not_change_the_bytes(photos: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "a", options(photos), workers=2) == generate(tmp_path / "b", options(photos))


def test_clips_that_are_there_are_kept(photos: Path, tmp_path: Path) -> None:
    first = generate(tmp_path / "a", options(photos))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.mp4")}
    generate(tmp_path / "a", options(photos))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(DataError, match="--overwrite"):
        generate(tmp_path / "a", options(photos, frames=4))
    assert generate(tmp_path / "a", options(photos, frames=4), overwrite=True).keys() == first.keys()
    assert {path.stat().st_mtime_ns for path in before}.isdisjoint(before.values())


def test_more_clips_leave_the_old_ones_as_they_are(photos: Path, tmp_path: Path) -> None:
    few = generate(tmp_path / "a", options(photos))
    many = generate(tmp_path / "b", options(photos, classes=3, clips_per_class=5))
    assert all(many[name] == few[name] for name in few if name.endswith("mp4"))


def test_tables(photos: Path, tmp_path: Path) -> None:
    generate(tmp_path / "a", options(photos))
    with (tmp_path / "a/videos.csv").open() as stream:
        videos = list(csv.DictReader(stream))
    assert {row["class"] for row in videos} == {"fish", "leaf"}
    assert [row["split"] for row in videos] == 2 * ["train", "train", "val", "test"]
    split = {row["path"]: row["split"] for row in videos}
    with (tmp_path / "a/boxes.csv").open() as stream:
        assert {split[row["path"]] for row in csv.DictReader(stream)} == {"val", "test"}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_those_of_what_is_seen(kind: str, photos: Path) -> None:
    """Draw the same clip over black and over white, unlit by the photograph: only the object looks the same in both."""
    size, found = (120, 90), []
    for value in (0, 255):
        photo = np.full((90, 120, 3), value, np.uint8)
        scene = Scene(KINDS[kind], photo, photo, 6, *size)
        found.append([render(scene, np.random.default_rng(seed)) for seed in range(6)])
    without_bar = 0
    for (dark, boxes), (bright, same_boxes) in zip(*found, strict=True):
        assert boxes == same_boxes
        for black, white, box in zip(dark, bright, boxes, strict=True):
            assert black.shape == (90, 120, 3)
            difference = np.abs(black.astype(int) - white).max(-1)
            same = difference < 0.35 * difference.max()  # a shadow leaves 0.6 of the difference
            if box is None or (same[:, :2].any() or same[:, -2:].any() or same[:2].any() or same[-2:].any()):
                continue  # cut off by the frame, or the bar is in it too
            without_bar += 1
            rows, columns = np.flatnonzero(same.any(1)), np.flatnonzero(same.any(0))
            np.testing.assert_allclose(box, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=2)
    assert without_bar >= 6


def test_the_size_of_objects_and_the_frames_without(photos: Path) -> None:
    rng = np.random.default_rng(0)
    shares, empty = [], 0
    photo = np.full((90, 120, 3), 90, np.uint8)
    for number in range(60):
        kind = list(KINDS.values())[number % len(KINDS)]
        images, boxes = render(Scene(kind, photo, photo, 8, 120, 90), rng)
        assert len(images) == len(boxes) == 8
        empty += sum(box is None for box in boxes)
        for box in boxes:
            if box is not None:
                assert 0 <= box[0] < box[2] <= 120
                assert 0 <= box[1] < box[3] <= 90
                shares.append((box[2] - box[0]) * (box[3] - box[1]) / (120 * 90))
    assert 5 <= empty <= 60
    assert 0.2 < np.median(shares) < 0.4
    assert np.quantile(shares, 0.95) < 0.65


@pytest.mark.parametrize("kind", KINDS)
def test_sprites(kind: str) -> None:
    sprite = draw_sprite(KINDS[kind], 131, np.random.default_rng(5))
    alpha = sprite[..., 3]
    assert sprite.shape == (131, 131, 4)
    assert sprite.dtype == np.float32
    assert 0 == alpha.min() < alpha.max() == 1
    assert 0.15 < alpha.mean() < 0.7
    assert not alpha[[0, -1]].any()
    assert not alpha[:, [0, -1]].any()
    assert (sprite[..., :3] <= 255 * alpha[..., None] + 1e-3).all()


def test_from_nothing_to_shards(photos: Path, tmp_path: Path) -> None:
    command = ["--source", "synthetic", "--output", str(tmp_path / "out"), "--classes", "2", "--clips-per-class", "7"]
    command += ["--frames", "5", "--size", "80x64", "--backgrounds", str(photos), "--workers", "1"]
    assert main(command) == 0
    train, test = (ShotIndex.open(tmp_path / "out", split) for split in ("train", "test"))
    assert (len(train.shots), len(test.shots)) == (10, 2)
    assert {shot.n_frames for shot in train.shots} == {5}
    assert all("Generated clips" in index.caveats[0] for index in (train, test))
    assert len(train.box_frame) == 0 < len(test.box_frame) <= 10
    assert {(int(w), int(h)) for w, h in zip(train.frame_width, train.frame_height, strict=True)} == {(80, 64)}
    assert not verify(tmp_path / "out").problems
    before = (tmp_path / "out/train-000000.tar").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "out/train-000000.tar").stat().st_mtime_ns == before


def test_without_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photographs"):
        photo_files(tmp_path)
    monkeypatch.setattr("shards.synthetic.backgrounds.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install -e "\.\[synthetic\]" -c constraints\.txt'):
        photo_files(None)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_the_photographs_of_scikit_image() -> None:
    files = photo_files(None)
    assert len(files) == 10
    assert all(cv2.imread(str(path)).shape[0] >= 300 for path in files)
