from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.build import main as build
from shards.frame_tables import main

Jpeg = Callable[..., bytes]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def davis(tmp_path: Path, picture: Callable[..., np.ndarray], jpeg: Jpeg) -> Path:
    """Two sequences of three frames, 61 x 45, and masks with an object at (7, 5) .. (7 + 10 + n, 25)."""
    root = tmp_path / "DAVIS"
    for number, sequence in enumerate(("bear", "bmx-trees")):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / sequence).mkdir(parents=True)
        for frame in range(3):
            name = f"480p/{sequence}/{frame:05d}"
            (root / f"JPEGImages/{name}.jpg").write_bytes(jpeg(picture(10 * number + frame, 61, 45)))
            mask = np.zeros((45, 61), np.uint8)
            mask[5:25, 7 : 17 + frame] = 255
            cv2.imwrite(str(root / f"Annotations/{name}.png"), mask)
    (root / "classes.csv").write_text("sequence,class,split\nbear,bear,train\nbmx-trees,bicycle,val\n")
    return root


def test_davis_to_shards(davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = tmp_path / "tables"
    assert main(["davis", "--root", str(davis), "--classes", str(davis / "classes.csv"), "--output", str(tables)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 frames and 6 boxes")
    assert [row["path"] for row in rows(tables / "frames.csv")][:1] == ["JPEGImages/480p/bear/00000.jpg"]
    command = re.search(r"shards\.build (.*)", said)
    assert command
    assert build([*command[1].replace("DIR", str(tmp_path / "out")).split(), "--workers", "1"]) == 0
    index = ShotIndex.open(tmp_path / "out", "val")
    assert [shot.key for shot in index.shots] == ["bicycle/bmx-trees/0000"]
    assert index.boxes(2).tolist() == [[7, 5, 19, 25]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "Annotations/480p/bmx-trees/00001.png").unlink(), r"00001.png: missing"),
        (lambda root: (root / "Annotations/480p/bear/00001.png").write_text("x"), r"00001.png: not a picture"),
        (lambda root: (root / "classes.csv").write_text("sequence,class,split\nx,y,val\n"), "no sequence"),
        (lambda root: (root / "classes.csv").write_text("sequence,class,split\nbear,y,dev\n"), "split 'dev'"),
        (lambda root: (root / "classes.csv").write_text("sequence,class,split\n"), "there are no pictures"),
        (lambda root: (root / "JPEGImages/480p/bear/00001.jpg").write_text("x"), "not a JPEG picture"),
        (lambda root: (root / "JPEGImages").rename(root / "Images"), "not the layout davis"),
    ],
)
def test_davis_that_is_not_whole(davis: Path, change: Any, text: str) -> None:
    change(davis)
    with pytest.raises(DataError, match=text):
        main(["davis", "--root", str(davis), "--classes", str(davis / "classes.csv")])
    assert not (davis / "frames.csv").exists()


def test_davis_needs_classes(davis: Path) -> None:
    with pytest.raises(DataError, match="DAVIS has no classes"):
        main(["davis", "--root", str(davis)])


NOTE = (
    "<annotation><object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    "</object>{}</annotation>"
)


@pytest.fixture
def vid(tmp_path: Path, picture: Callable[..., np.ndarray], jpeg: Jpeg) -> Path:
    root = tmp_path / "ILSVRC2015"
    snippets = {
        "train/ILSVRC2015_VID_train_0000/snippet_a": ["n1", "n1"],
        "train/ILSVRC2015_VID_train_0001/snippet_b": ["n2"],
        "train/ILSVRC2015_VID_train_0001/snippet_c": ["n1", "n2"],
        "val/snippet_d": ["n1", ""],
        "val/snippet_e": ["n1"],
        "val/snippet_f": [""],
    }
    for number, (name, synsets) in enumerate(snippets.items()):
        for kind in ("Data", "Annotations"):
            (root / kind / "VID" / name).mkdir(parents=True)
        for frame, synset in enumerate(synsets):
            path = f"VID/{name}/{frame:06d}"
            (root / f"Data/{path}.JPEG").write_bytes(jpeg(picture(10 * number + frame, 61, 45)))
            note = NOTE.format(synset, "") if synset else "<annotation></annotation>"
            (root / f"Annotations/{path}.xml").write_text(note)
    return root


def test_imagenet_vid(vid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert main(["imagenet-vid", "--root", str(vid), "--output", str(tmp_path)]) == 0
    assert "1 snippets are left out: several classes" in caplog.text
    assert "1 snippets are left out: no class that is wanted" in caplog.text
    frames = [(row["split"], row["class"], row["video"], row["path"][-11:]) for row in rows(tmp_path / "frames.csv")]
    assert frames == [
        ("train", "n1", "snippet_a", "000000.JPEG"),
        ("train", "n1", "snippet_a", "000001.JPEG"),
        ("train", "n2", "snippet_b", "000000.JPEG"),
        ("val", "n1", "snippet_d", "000000.JPEG"),
        ("val", "n1", "snippet_d", "000001.JPEG"),
        ("test", "n1", "snippet_e", "000000.JPEG"),
    ]
    boxes = rows(tmp_path / "boxes.csv")
    assert len(boxes) == 5
    assert [float(boxes[0][name]) for name in ("x0", "y0", "x1", "y1")] == [1, 2, 31, 41]


def test_imagenet_vid_with_chosen_classes(vid: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("synset,class\nn1,cat\n")
    main(["imagenet-vid", "--root", str(vid), "--classes", str(tmp_path / "c.csv"), "--output", str(tmp_path)])
    assert {row["class"] for row in rows(tmp_path / "frames.csv")} == {"cat"}


@pytest.mark.parametrize("note", ["<annotation>", NOTE.format("n1", "<object/>"), "x" * (1 << 21)])
def test_annotations_that_cannot_be_read(vid: Path, note: str) -> None:
    (vid / "Annotations/VID/val/snippet_d/000001.xml").write_text(note)
    with pytest.raises(DataError, match=r"annotations cannot be read: 1 problem(.|\n)*snippet_d/000001.xml"):
        main(["imagenet-vid", "--root", str(vid)])
