"""Tables for the source frames-csv from two common layouts: ``python -m shards.frame_tables LAYOUT --root DIR ...``.

davis: ``JPEGImages/<resolution>/<sequence>/NNNNN.jpg`` and masks ``Annotations/<resolution>/<sequence>/NNNNN.png``. A
box is the extent of a mask (all objects together). Sequences have no classes, so a CSV ``sequence,class,split`` says
which to take, and as what.

imagenet-vid: ``Data/VID/<train|val>/.../<snippet>/NNNNNN.JPEG``, and ``Annotations/VID/`` with the same folders and
.xml. The class of a snippet is that of its objects; snippets that show several classes, or none, are left out and
counted. A CSV ``synset,class``, if given, names the classes to take. There are no public boxes of the test set: of the
val snippets of a class, in sorted order, every second one is for testing. Each snippet is a video of one shot.

The tables frames.csv and boxes.csv are written to --output (default: the root) and list pictures below the root.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from colocam_dist.console import run_console
from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.errors import DataError
from shards.files import replaced
from shards.sources.base import SPLITS, Box, natural_key, raise_problems
from shards.sources.tables import read_rows

__all__ = ["Picture", "davis", "imagenet_vid", "main", "write_tables"]

_log = logging.getLogger(__name__)
_XML_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class Picture:
    """A row of frames.csv with its rows of boxes.csv; the path is below the root."""

    split: str
    path: str
    cls: str
    video: str
    shot: str
    boxes: tuple[Box, ...]


def davis(root: Path, classes: Path, resolution: str = "480p") -> Iterator[Picture]:
    """Pictures of the sequences that a table takes.

    Args:
        root: folder with JPEGImages/ and Annotations/.
        classes: CSV with sequence, class and split.
        resolution: folder below those two.

    Raises:
        DataError: another layout, or (one error for all) sequences, pictures or masks that are missing.
    """
    _need(root / "JPEGImages" / resolution, "davis")
    problems: list[str] = []
    for row in read_rows(classes, ("sequence", "class", "split")):
        folder = root / "JPEGImages" / resolution / row["sequence"]
        if row["split"] not in SPLITS:
            problems.append(f"{row.where}: split '{row['split']}' is none of {', '.join(SPLITS)}")
        elif not folder.is_dir():
            problems.append(f"{row.where}: no sequence {folder}")
        else:
            for name in sorted((path.name for path in folder.iterdir()), key=natural_key):
                mask = root / "Annotations" / resolution / row["sequence"] / f"{Path(name).stem}.png"
                box = _extent(mask, problems) if row["split"] != "train" or mask.is_file() else ()
                path = (folder / name).relative_to(root).as_posix()
                yield Picture(row["split"], path, row["class"], row["sequence"], "0000", box)
    raise_problems(
        problems, what="the sequences are not whole", where=root, fix="correct the table, or unpack DAVIS again"
    )


def imagenet_vid(root: Path, classes: Path | None = None) -> Iterator[Picture]:
    """Pictures of the snippets that show one class.

    Args:
        root: folder with Data/VID and Annotations/VID.
        classes: CSV with synset and class; None takes all, named by their synsets.

    Raises:
        DataError: another layout, or annotations that cannot be read (all are named).
    """
    _need(root / "Data" / "VID", "imagenet-vid")
    names = (
        None if classes is None else {row["synset"]: row["class"] for row in read_rows(classes, ("synset", "class"))}
    )
    problems: list[str] = []
    left_out = Counter[str]()
    evaluated = Counter[str]()
    for part in ("train", "val"):
        for folder in _snippets(root / "Data" / "VID" / part):
            notes = root / "Annotations" / "VID" / folder.relative_to(root / "Data" / "VID")
            boxes = {path.stem: _objects(path, problems) for path in sorted(notes.glob("*.xml"))}
            shown = {synset for objects in boxes.values() for synset, _ in objects}
            cls = shown.pop() if len(shown) == 1 else None
            if cls is None or (names is not None and cls not in names):
                left_out["several classes" if shown else "no class that is wanted"] += 1
                continue
            cls = cls if names is None else names[cls]
            split = "train" if part == "train" else ("val", "test")[evaluated[cls] % 2]
            evaluated[cls] += part == "val"
            for picture in sorted(folder.glob("*.JPEG"), key=lambda path: path.name):
                of_frame = tuple(box for _, box in boxes.get(picture.stem, []))
                path = picture.relative_to(root).as_posix()
                yield Picture(split, path, cls, folder.name, "0000", of_frame)
    raise_problems(problems, what="annotations cannot be read", where=root, fix="unpack them again")
    for why, count in left_out.items():
        _log.warning("%d snippets are left out: %s", count, why)


def write_tables(root: Path, pictures: Iterator[Picture], output: Path) -> tuple[int, int]:
    """Write frames.csv and boxes.csv; returns the number of their rows.

    Raises:
        DataError: no pictures, or some that are not JPEGs (all are named).
    """
    frames, boxes = io.StringIO(), io.StringIO()
    to_frames, to_boxes = csv.writer(frames), csv.writer(boxes)
    to_frames.writerow(["split", "path", "class", "width", "height", "video", "shot"])
    to_boxes.writerow(["split", "path", "x0", "y0", "x1", "y1"])
    counts, problems = [0, 0], []
    for picture in pictures:
        try:
            with (root / picture.path).open("rb") as stream:
                header = read_jpeg_header(stream)
        except (OSError, ValueError) as error:
            problems.append(f"{picture.path}: {error}")
            continue
        row = [picture.split, picture.path, picture.cls, header.width, header.height, picture.video, picture.shot]
        to_frames.writerow(row)
        to_boxes.writerows([picture.split, picture.path, *box] for box in picture.boxes)
        counts = [counts[0] + 1, counts[1] + len(picture.boxes)]
    raise_problems(problems, what="pictures cannot be read", where=root, fix="replace them; nothing was written")
    if not counts[0]:
        raise DataError("there are no pictures", where=root, fix="check the layout and the table of classes")
    output.mkdir(parents=True, exist_ok=True)
    for name, table in (("boxes.csv", boxes), ("frames.csv", frames)):
        with replaced(output / name) as file:
            file.write(table.getvalue().encode())
    return counts[0], counts[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, write the tables, say what to do with them."""
    parser = argparse.ArgumentParser(
        prog="python -m shards.frame_tables", description="Tables for --source frames-csv."
    )
    parser.add_argument("layout", choices=("davis", "imagenet-vid"))
    parser.add_argument("--root", required=True, type=Path, metavar="DIR", help="folder of the raw data")
    parser.add_argument(
        "--classes", type=Path, metavar="CSV", help="davis: sequence,class,split; imagenet-vid: synset,class"
    )
    parser.add_argument("--resolution", default="480p", help="davis: folder below JPEGImages (default 480p)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the tables go (default: the root)")
    options = parser.parse_args(arguments)
    if options.layout == "davis" and options.classes is None:
        raise DataError("DAVIS has no classes", where="--classes", wanted="a CSV with sequence,class,split")
    output = options.output or options.root
    made = (
        davis(options.root, options.classes, options.resolution)
        if options.layout == "davis"
        else imagenet_vid(options.root, options.classes)
    )
    frames, boxes = write_tables(options.root, made, output)
    print(f"{frames} frames and {boxes} boxes are listed in {output}; build the shards with:")
    print(f"python -m shards.build --source frames-csv --input {output} --pictures {options.root} --output DIR")
    return 0


def _need(folder: Path, layout: str) -> None:
    if not folder.is_dir():
        raise DataError(f"this is not the layout {layout}", where=folder, got="no such folder", fix="check --root")


def _snippets(folder: Path) -> list[Path]:
    """Folders that hold pictures, sorted."""
    return sorted({path.parent for path in folder.rglob("*.JPEG")}, key=lambda path: natural_key(path.as_posix()))


def _extent(mask: Path, problems: list[str]) -> tuple[Box, ...]:
    """The box around everything in a mask; none if it is empty."""
    image = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) if mask.is_file() else None
    if image is None:
        problems.append(f"{mask}: {'not a picture' if mask.is_file() else 'missing'}")
        return ()
    ys, xs = np.nonzero(image.reshape(*image.shape[:2], -1).any(2))
    return ((float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)),) if len(xs) else ()


def _objects(path: Path, problems: list[str]) -> list[tuple[str, Box]]:
    """Synsets and boxes of a frame; inclusive corners become exclusive ones."""
    try:
        if path.stat().st_size > _XML_LIMIT:
            raise ValueError(f"larger than {_XML_LIMIT} bytes")
        found = []
        for thing in ElementTree.parse(path).getroot().iter("object"):
            corners = [float(thing.findtext(f"bndbox/{name}", "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
            synset = thing.findtext("name", "")
            if not synset or not np.isfinite(corners).all():
                raise ValueError("an object without a name or a box")
            found.append((synset, (corners[0], corners[1], corners[2] + 1, corners[3] + 1)))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        problems.append(f"{path}: {error}")
        return []
    return found


if __name__ == "__main__":
    run_console(main)
