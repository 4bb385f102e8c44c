"""The official fold files of YouTube-Objects: which shots and labeled frames each split has, and their boxes."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from colocam_dist.errors import DataError
from colocam_dist.files import sha256_of
from shards.sources.base import SPLITS, Box, raise_problems
from shards.sources.youtube_objects import CLASSES, Key, Selection

__all__ = ["read_folds"]

Parse = Callable[[str, bool], tuple[Key, str] | None]
"""From an id, and whether it is a training shot, to its shot and its frame ("" for a shot); None if it is neither."""


def read_folds(folder: Path, digests: dict[str, str], parse: Parse) -> Selection:
    """Read train/, val/ and test/ below ``folder``: image_ids.txt, class_labels.txt and localization.txt of each.

    Args:
        folder: where the fold files lie, with class_id.yaml in it or above its splits.
        digests: first 16 hex digits of the sha256 of the published image_ids.txt, by split.
        parse: how ids are to be read.

    Raises:
        DataError: files that are missing; or (one error for all) ids that make no sense or stand there twice, labels
            that contradict them, boxes of unknown ids.
    """
    _check_label_map(folder)
    selection = Selection(places={split: f"{folder / split / 'image_ids.txt'} with ids" for split in SPLITS})
    problems: list[str] = []
    for split in SPLITS:
        place = folder / split
        labels = dict(_rows(place / "class_labels.txt", 2))
        seen: dict[str, tuple[Key, str]] = {}
        for (name,) in _rows(place / "image_ids.txt", 1):
            parsed = parse(name, split == "train")
            if parsed is None or parsed[0][0] not in CLASSES:
                problems.append(f"{split}/image_ids.txt: '{name}' is not an id of this release")
            elif name in seen:
                problems.append(f"{split}/image_ids.txt: '{name}' stands there twice")
            elif labels.get(name) != str(CLASSES.index(parsed[0][0])):
                problems.append(f"{split}/class_labels.txt: '{name}' has label {labels.get(name)}")
            else:
                seen[name] = parsed
        boxes = _boxes(place / "localization.txt", seen, problems) if split != "train" else {}
        for name, (key, frame) in seen.items():
            labeled = selection.shots[split].setdefault(key, {})
            if split != "train":
                labeled[frame] = boxes.get(name, [])
                if not labeled[frame]:
                    problems.append(f"{split}/localization.txt: '{name}' has no box")
        digest = sha256_of(place / "image_ids.txt")[:16]
        selection.facts[f"{split}_ids_sha256"] = digest
        if digest != digests[split]:
            selection.warnings.append(f"{place / 'image_ids.txt'} is not the published list (sha256 {digest}...)")
    raise_problems(problems, what="the fold files cannot be used", where=folder, fix="take the published fold files")
    return selection


def _check_label_map(folder: Path) -> None:
    for path in (folder / "class_id.yaml", folder.parent / "class_id.yaml"):
        if path.is_file():
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise DataError("a fold file is not YAML in UTF-8", where=path, got=error) from error
            wanted = {name: label for label, name in enumerate(CLASSES)}
            if found != wanted:
                raise DataError("the fold files number the classes otherwise", where=path, got=found, wanted=wanted)
            return
    raise DataError(
        "the fold files are not here",
        where=folder,
        wanted=f"{folder / 'class_id.yaml'}, and {', '.join(SPLITS)} with image_ids.txt and others in each",
        fix="give the folder of this release in the published folds to --folds",
    )


def _boxes(path: Path, seen: dict[str, tuple[Key, str]], problems: list[str]) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = defaultdict(list)
    for name, *corners in _rows(path, 5):
        try:
            x0, y0, x1, y1 = (float(corner) for corner in corners)
        except ValueError:
            x0 = math.nan
        if name not in seen:
            problems.append(f"{path.parent.name}/{path.name}: '{name}' is not in image_ids.txt")
        elif not all(map(math.isfinite, (x0, y0, x1, y1) if x0 == x0 else (x0,))):
            problems.append(f"{path.parent.name}/{path.name}: '{name}' has a box that is not four numbers")
        else:
            boxes[name].append((max(x0, 0.0), max(y0, 0.0), max(x1, 0.0), max(y1, 0.0)))
    return boxes


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for number, row in enumerate(csv.reader(stream), 1):
                if len(row) != columns:
                    raise DataError(
                        "a fold file is damaged",
                        where=f"{path} line {number}",
                        got=",".join(row),
                        wanted=f"{columns} columns",
                    )
                yield [cell.strip() for cell in row]
    except OSError as error:
        raise DataError("a fold file cannot be read", where=path, got=error.strerror) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("a fold file is not CSV in UTF-8", where=path, got=error) from error
