from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.base import Inputs
from shards.sources.youtube_objects import CLASSES, Counts, YoutubeObjectsOptions
from shards.sources.youtube_objects_v1 import PUBLISHED, read_youtube_objects_v1, validation_videos

AS_IT_IS = PictureRule(0, 0, 95)
BOX = [[3.5, 4.0, 30.0, 40.0]]


def read(root: Path, **options: Any) -> Inputs:
    return read_youtube_objects_v1(root, AS_IT_IS, YoutubeObjectsOptions(**{"allow_partial": True, **options}))


def shots(inputs: Inputs, split: str) -> dict[str, list[str]]:
    """Frame names by "class/video/shot"."""
    return {
        f"{unit.cls}/{unit.video}/{unit.shot}": [file.path.name for file in unit.files]  # type: ignore[attr-defined]
        for unit in inputs.units
        if unit.split == split
    }


def boxes(inputs: Inputs, shot: str) -> dict[str, list[tuple[float, ...]]]:
    (unit,) = (unit for unit in inputs.units if f"{unit.cls}/{unit.video}/{unit.shot}" == shot)
    return {file.path.name: list(file.boxes) for file in unit.files}  # type: ignore[attr-defined]


@pytest.fixture
def raw(raw_v1: Any) -> Any:
    """A tree with a validation and a test video of every class, and training videos of some."""
    for cls in CLASSES:
        raw_v1.video("train", cls, "0001")
        raw_v1.shot(cls, "0001", "001", 3, {2: BOX})
        raw_v1.video("test", cls, "0009")
        raw_v1.shot(cls, "0009", "001", 2, {1: BOX})
    raw_v1.video("train", "bird", "0002")
    raw_v1.shot("bird", "0002", "001", 4)
    raw_v1.shot("bird", "0002", "010", 2)
    raw_v1.shot("bird", "0002", "002", 0)  # some shots of the release are empty
    return raw_v1


def test_splits_and_frames(raw: Any) -> None:
    inputs = read(raw.save())
    assert shots(inputs, "train") == {
        "bird/0002/001": [f"frame{number:04d}.jpg" for number in (1, 2, 3, 4)],
        "bird/0002/010": ["frame0001.jpg", "frame0002.jpg"],
    }
    assert shots(inputs, "val") == {f"{cls}/0001/001": ["frame0002.jpg"] for cls in CLASSES}
    assert shots(inputs, "test") == {f"{cls}/0009/001": ["frame0001.jpg"] for cls in CLASSES}
    assert boxes(inputs, "cow/0009/001") == {"frame0001.jpg": [(3.5, 4.0, 30.0, 40.0)]}
    assert inputs.classes == CLASSES
    assert inputs.settings["source"] == "youtube-objects-v1"


def test_the_repaired_frame_is_named_if_it_is_damaged(raw: Any) -> None:
    raw.video("test", "boat", "0006")
    (raw.shot("boat", "0006", "026", 1, {1: BOX}) / "frame0001.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"026/frame0001\.jpg: not a JPEG picture"):
        read(raw.save())


def test_all_frames_of_evaluated_shots(raw: Any) -> None:
    raw.shot("car", "0009", "002", 4)  # no labeled frame: not evaluated
    inputs = read(raw.save(), evaluation_frames="all")
    assert shots(inputs, "val")["car/0001/001"] == ["frame0001.jpg", "frame0002.jpg", "frame0003.jpg"]
    assert boxes(inputs, "car/0001/001")["frame0001.jpg"] == []
    assert "car/0009/002" not in shots(inputs, "test")


def test_validation_videos_are_the_first_of_a_seeded_shuffle(raw: Any) -> None:
    labeled = [f"{number:04d}" for number in range(10, 19)]
    for video in labeled:
        raw.video("train", "dog", video)
        raw.shot("dog", video, "003", 1, {1: BOX})
    inputs = read(raw.save())
    random.seed(6)  # dog is class number 6; the global generator, as an independent way
    videos = sorted(["0001", *labeled])
    for _ in range(1000):
        random.shuffle(videos)
    found = {key.split("/")[1] for key in shots(inputs, "val") if key.startswith("dog/")}
    assert found == set(videos[:5])
    assert {key.split("/")[1] for key in shots(inputs, "train") if key.startswith("dog/")} == set(videos[5:])
    # Four videos have 24 orders: that of another seed, or of another way to sort, would be another one.
    generator = random.Random(3)
    four = ["a", "b", "c", "d"]
    for _ in range(1000):
        generator.shuffle(four)
    assert validation_videos(["c", "a", "d", "b"], 3) == four
    assert validation_videos(["c", "a", "d", "b"], 4) != four


def test_the_two_repairs_and_negative_corners(raw: Any) -> None:
    raw.video("test", "horse", "0004")
    raw.shot("horse", "0004", "055", 20, {20: [[50.0, 5.0, 10.0, 40.0]]})
    raw.video("test", "boat", "0006")
    raw.shot("boat", "0006", "026", 1, {1: [[-3.0, 5.0, 90.0, 40.0], [1.0, 2.0, 30.0, 41.0]]})
    inputs = read(raw.save())
    assert boxes(inputs, "horse/0004/055") == {"frame0020.jpg": [(10.0, 5.0, 50.0, 40.0)]}
    assert boxes(inputs, "boat/0006/026") == {"frame0001.jpg": [(0.0, 5.0, 60.0, 40.0), (1.0, 2.0, 30.0, 41.0)]}
    assert inputs.receipt["clipped_boxes"] == 0


def test_other_inverted_boxes_are_errors(raw: Any) -> None:
    raw.video("test", "horse", "0004")
    raw.shot("horse", "0004", "056", 20, {20: [[50.0, 5.0, 10.0, 40.0]]})
    with pytest.raises(DataError, match=r"frame0020.jpg: box .* is empty or inverted"):
        read(raw.save())


def test_counts_that_differ_are_an_error_with_a_table(raw: Any) -> None:
    root = raw.save()
    with pytest.raises(DataError) as caught:
        read(root, allow_partial=False)
    for line in (
        "train ids: found 2, published 2768: differs",
        "val videos: found 10, published 50: differs",
        "test ids of train: found 1, published 16: differs",
        "--allow-partial",
    ):
        assert line in str(caught.value)
    inputs = read(root)
    assert any("counts differ" in warning for warning in inputs.warnings)
    assert "train boxes: found 0, published 0" in inputs.receipt["counts"]


def test_counts_that_agree_pass(raw: Any) -> None:
    evaluated = Counts(10, 10, 10, 10, (1,) * 10)
    expected = {"train": Counts(2, 1, 2, 0, (0, 2, *[0] * 8)), "val": evaluated, "test": evaluated}
    inputs = read_youtube_objects_v1(raw.save(), AS_IT_IS, YoutubeObjectsOptions(), expected)
    assert inputs.warnings == ()
    assert not any(row.endswith("differs") for row in inputs.receipt["counts"])


def test_published_counts_are_consistent() -> None:
    for counts in PUBLISHED.values():
        assert sum(counts.per_class) == counts.ids


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "Ranges").mkdir(), r"both releases in one folder"),
        (lambda root: shutil.rmtree(root), "no such folder"),
        (
            lambda root: [shutil.rmtree(root / cls / "data") for cls in CLASSES],
            r"got: class folders without data/\n  wanted: .*/<class>/data/<video>/shots/<shot>/frameNNNN\.jpg",
        ),
        (lambda root: shutil.rmtree(root / "cow"), r"1 of the ten class folders(.|\n)*cow"),
        (lambda root: (root / "cow/sets/test.txt").unlink(), r"cow/sets/test.txt: No such file"),
        (lambda root: (root / "cow/sets/test.txt").write_text("0009\nx7\n"), "'x7' is not the number of a video"),
        (
            lambda root: (root / "cow/sets/test.txt").write_text("0009\n0001\n"),
            "video 0001 is in train.txt and in test",
        ),
        (lambda root: (root / "cow/sets/train.txt").write_text("0001\n0077\n"), r"0077/shots: No such file"),
        (lambda root: (root / "cow/sets/train.txt").write_text("0001\n0001\n"), r"video 0001 is listed 2 times"),
        (lambda root: (root / "cow/data/0009/shots/001/frame0001.jpg").unlink(), "has boxes but no picture"),
        (
            lambda root: (root / "cow/data/0009/shots/001/frame0001.jpg_sticks.mat").write_bytes(b"MATLAB 5.0" * 30),
            "MATLAB file is damaged",
        ),
    ],
)
def test_wrong_trees(raw: Any, change: Any, text: str) -> None:
    root = raw.save()
    change(root)
    with pytest.raises(DataError, match=text):
        read(root, allow_partial=False)


def test_a_tree_of_the_other_release_is_recognized(raw_v2: Any) -> None:
    raw_v2.shot("cat", 1, 3, 1)
    with pytest.raises(DataError, match=r"not the raw tree of YouTube-Objects v1.0(.|\n)*as YouTube-Objects v2.2"):
        read(raw_v2.save())


def test_an_empty_split_names_the_files_that_would_fill_it(raw: Any) -> None:
    root = raw.save()
    for cls in CLASSES:
        (root / cls / "sets/test.txt").write_text("")
    with pytest.raises(DataError, match=rf"split test of (.|\n)*wanted: {root}/<class>/sets/test\.txt and box files"):
        read(root)


def test_partial_trees(raw: Any) -> None:
    root = raw.save()
    shutil.rmtree(root / "cow")
    (root / "car/sets/train.txt").write_text("0001\n0077\n")
    inputs = read(root)
    assert "class cow" in inputs.receipt["left_out"]
    assert any("0077" in what for what in inputs.receipt["left_out"])
    assert inputs.classes == CLASSES


def folds(folder: Path, inputs: Inputs) -> Path:
    """Fold files that say what these inputs have."""
    folder.mkdir()
    (folder / "class_id.yaml").write_text("".join(f"{name}: {label}\n" for label, name in enumerate(CLASSES)))
    for split in ("train", "val", "test"):
        (folder / split).mkdir()
        ids, labels, places = [], [], []
        for key, frames in shots(inputs, split).items():
            cls, video, shot = key.split("/")
            place = f"{cls}/data/{video}/shots/{shot}"
            for name in [place] if split == "train" else [f"{place}/{frame}" for frame in frames]:
                ids.append(name)
                labels.append(f"{name},{CLASSES.index(cls)}")
                of_frame = [] if split == "train" else boxes(inputs, key)[name.rpartition("/")[2]]
                places += [f"{name},{','.join(map(str, box))}" for box in of_frame]
        (folder / split / "image_ids.txt").write_text("\n".join(ids) + "\n")
        (folder / split / "class_labels.txt").write_text("\n".join(labels) + "\n")
        (folder / split / "localization.txt").write_text("".join(f"{place}\n" for place in places))
    return folder


def test_folds_give_the_same_as_the_rules(raw: Any, tmp_path: Path) -> None:
    root = raw.save()
    by_rules = read(root)
    files = folds(tmp_path / "folds", by_rules)
    for cls in CLASSES:  # with folds, neither is needed
        shutil.rmtree(root / cls / "sets")
    inputs = read(root, folds=files)
    assert {unit.fingerprint for unit in inputs.units} == {unit.fingerprint for unit in by_rules.units}
    assert sum("is not the published list" in warning for warning in inputs.warnings) == 3
    assert len(inputs.receipt["train_ids_sha256"]) == 16


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("test/image_ids.txt", lambda text: text + text.splitlines()[0] + "\n", "stands there twice"),
        ("test/image_ids.txt", lambda text: "cat/video-0001/shot-000001/00000001.jpg\n" + text, "not an id of this"),
        ("test/class_labels.txt", lambda text: text.replace(",3", ",4"), "has label 4"),
        ("val/localization.txt", lambda text: "x,1,2,3,4\n" + text, "'x' is not in image_ids.txt"),
        ("val/localization.txt", lambda text: text.replace("3.5", "nan"), "not four numbers"),
        ("val/localization.txt", lambda text: text.partition("\n")[2], "has no box"),
        ("val/localization.txt", lambda text: text.replace(",30.0", ""), "wanted: 5 columns"),
        ("class_id.yaml", lambda text: text + "a: [", "not YAML in UTF-8"),
        ("class_id.yaml", lambda text: text.replace("cat: 4", "cat: 7"), "number the classes otherwise"),
    ],
)
def test_folds_that_make_no_sense(raw: Any, tmp_path: Path, file: str, change: Any, text: str) -> None:
    root = raw.save()
    files = folds(tmp_path / "folds", read(root))
    (files / file).write_text(change((files / file).read_text()))
    with pytest.raises(DataError, match=text):
        read(root, folds=files)


def test_folds_that_are_not_there(raw: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fold files are not here(.|\n)*class_id.yaml"):
        read(raw.save(), folds=tmp_path / "absent")


def test_from_the_tree_to_shards(raw: Any, tmp_path: Path) -> None:
    build_dataset(read(raw.save()), tmp_path / "out", BuildOptions(AS_IT_IS))
    index = ShotIndex.open(tmp_path / "out", "val")
    assert index.classes == CLASSES
    assert [shot.key for shot in index.shots] == [f"{cls}/0001/001" for cls in CLASSES]
    np.testing.assert_allclose(index.boxes(4), BOX)
    assert ShotIndex.open(tmp_path / "out", "train").n_frames == 6
