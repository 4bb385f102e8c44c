"""Video files in folders class/video.mp4, or listed in a CSV with the columns path, class and, if wanted, split.

Beside the videos may lie ``boxes.csv`` with the columns path, frame, x0, y0, x1, y1 and ``cuts.csv`` with the columns
path, frame: the frame that begins a new shot. Frames are counted from 0 in the order of decoding, boxes are in pixels
of the decoded frame, paths below the folder of the table.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from colocam_dist.errors import DataError
from colocam_dist.files import VIDEO_SUFFIXES
from shards.cuts import find_cuts_by_scenedetect, scenedetect_version
from shards.images import PictureRule
from shards.sources.base import SPLITS, Box, Inputs, fingerprint_of, natural_key, raise_problems
from shards.sources.tables import fit_box
from shards.sources.video_files import VideoFacts, look_at
from shards.sources.video_tables import (
    Findings,
    Listed,
    assign_splits,
    is_folder,
    list_folder,
    list_table,
    read_boxes,
    read_cuts,
)
from shards.sources.video_unit import Cuts, VideoFile, VideoOptions

__all__ = ["read_videos"]

_log = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 0.35  # of a JPEG of quality 95, roughly


def read_videos(place: Path, rule: PictureRule, options: VideoOptions) -> Inputs:
    """List the videos of a folder or a CSV file, assign splits, open each video once and check its boxes.

    Raises:
        DataError: no videos; a table that cannot be read; or (one error for all) videos that cannot be decoded or have
            the same name, unknown splits, boxes that are inverted or outside the picture.
    """
    findings = Findings(place.parent if place.is_file() else place)
    listed = list_table(place, findings) if place.is_file() else list_folder(place)
    if not listed and not findings.problems:
        raise _no_videos(place)
    by_shares = assign_splits(listed, options.fractions, place)
    paths = {str(video.path) for video in listed}
    boxes = read_boxes(findings, paths, options.box_offset)
    cuts = read_cuts(findings, paths, options.cuts)
    detector = _detector(options.cuts, given=sum(str(video.path) in cuts for video in listed), of=len(listed))
    units, names = [], set()
    for video in listed:
        name = (video.cls, video.path.stem)
        if name in names:
            findings.problems.append(f"{video.where}: class '{video.cls}' has two videos called '{video.path.stem}'")
        names.add(name)
        rows = cuts.get(str(video.path))
        method: Cuts = "table" if options.cuts in ("auto", "table") and rows is not None else detector
        unit = _open(findings, video, rule, options, boxes.get(str(video.path), []))
        if unit:
            units.append(
                replace(unit, method=method, cuts=tuple(rows or ()), fingerprint=fingerprint_of(unit.fingerprint, rows))
            )
    raise_problems(
        findings.problems, what="videos cannot be used", where=place, fix="correct the input; nothing was written"
    )
    if not units:
        why = "".join(f"\n    {skipped['path']}: {skipped['why']}" for skipped in findings.skipped[:20])
        raise DataError("no video can be decoded", where=place, got=f"{len(listed)} videos, all damaged:{why}")
    classes = {unit.cls for unit in units}
    lost = sorted({video.cls for video in listed} - classes)
    if lost:
        raise DataError(
            "classes would be lost with the videos that cannot be used",
            where=place,
            got=", ".join(lost),
            fix="replace or remove the videos of these classes (the manifest of a build lists what is skipped)",
        )
    lacking = [*_without_videos(place, classes), *_lacking(listed, units, by_shares)]
    if options.strict:
        fix = "add videos, or change --splits: the videos of each class are shared out in sorted order"
        raise_problems(lacking, what="splits lack videos", where=place, fix=fix)
    return Inputs(
        units=tuple(units),
        classes=tuple(sorted(classes)),
        settings={
            "source": "videos",
            "cuts": _say_cuts(units),
            "every": options.every,
            "fps": options.fps,
            "box_offset": options.box_offset,
        },
        receipt={
            "kind": "videos",
            "videos": len(units),
            "skipped_videos": findings.skipped,
            "clipped_boxes": findings.clipped,
        },
        warnings=(*_warnings(findings), *lacking),
        estimate_excess=4.0,  # how well frames compress is not known before they are decoded
    )


def _no_videos(place: Path) -> DataError:
    inside = place.glob("[!.]*") if place.is_dir() else ()
    files = [path.name for path in inside if path.suffix.lower() in VIDEO_SUFFIXES]
    got, fix = None, None
    if files:
        got = f"{len(files)} videos in the folder itself, as {min(files, key=natural_key)}: one level too high"
        fix = f"move them to folders named after their classes, as {place}/class/{min(files, key=natural_key)}"
    return DataError(
        "there are no videos in folders of classes",
        where=place,
        got=got,
        wanted=f"class/video with one of {' '.join(VIDEO_SUFFIXES)}, or a CSV file with the columns path,class",
        fix=fix,
    )


def _without_videos(place: Path, classes: set[str]) -> Iterator[str]:
    """Folders beside those of the classes."""
    folders = {path.name for path in place.glob("[!.]*") if is_folder(path)} if is_folder(place) else set()
    for folder in sorted(folders - classes):
        yield f"folder {folder} is no class: none of its files ends with one of {' '.join(VIDEO_SUFFIXES)}"


def _lacking(listed: Sequence[Listed], units: Sequence[VideoFile], by_shares: dict[str, float]) -> Iterator[str]:
    """Splits that were to have a share and are empty, and classes of which no training video is left."""
    for split in SPLITS:
        if by_shares.get(split) and not any(unit.split == split for unit in units):
            most = max(Counter(video.cls for video in listed).values())
            yield (
                f"split {split} is empty: of at most {most} videos of a class, its share of {by_shares[split]:g} "
                "rounds to none, or they cannot be used"
            )
    meant = {video.cls for video in listed if video.split == "train"}
    for cls in sorted(meant - {unit.cls for unit in units if unit.split == "train"}):
        yield f"class {cls} has no training video left: those that it was to have cannot be used"


def _detector(wanted: Cuts, *, given: int, of: int) -> Cuts:
    """How the shots of videos without rows in the table are found, if ``given`` videos have some."""
    if wanted == "auto":
        version = scenedetect_version()
        found: Cuts = "scenedetect" if version else "histogram"
        why = f"it is installed ({version})" if version else "PySceneDetect is not installed"
        _log.info(
            "shots of %d videos are given by cuts.csv, those of %d are found by %s: %s", given, of - given, found, why
        )
        return found
    if wanted == "scenedetect" and scenedetect_version() is None:
        find_cuts_by_scenedetect([], 25.0)  # raises, with what to install
    return wanted


def _say_cuts(units: Sequence[VideoFile]) -> str:
    """The ways in which cuts were found, for the settings: another release of a detector may find others."""
    used = sorted({unit.method for unit in units}, key=get_args(Cuts).index)
    return "+".join(f"scenedetect {scenedetect_version()}" if name == "scenedetect" else name for name in used)


def _open(
    findings: Findings,
    video: Listed,
    rule: PictureRule,
    options: VideoOptions,
    boxes: list[tuple[str, int, Box]],
) -> VideoFile | None:
    """Decode the first frame of a video and check its boxes; None if that is not possible."""
    path = findings.root / video.path
    facts = look_at(path, timed=options.fps is not None)
    if isinstance(facts, str):
        if options.strict:
            findings.problems.append(f"{video.path}: {facts}")
        else:
            findings.skipped.append({"path": str(video.path), "why": facts})
        return None
    kept = []
    for where, number, box in boxes:
        fitted = fit_box(box, facts.width, facts.height)
        if isinstance(fitted, str):
            findings.problems.append(f"{where}: {fitted}")
        else:
            kept.append((number, fitted[0]))
            findings.clipped += fitted[1]
    stat = path.stat()
    stored = rule.size(facts.width, facts.height)
    return VideoFile(
        split=video.split,
        cls=video.cls,
        video=video.path.stem,
        shot="",
        estimated_bytes=int(_kept(facts, options) * stored[0] * stored[1] * _BYTES_PER_PIXEL),
        fingerprint=fingerprint_of(str(video.path), stat.st_size, stat.st_mtime_ns, kept),
        path=path,
        options=options,
        facts=facts,
        boxes=tuple(kept),
        method="none",
        cuts=(),
    )


def _kept(facts: VideoFacts, options: VideoOptions) -> float:
    """About how many frames of a video are kept."""
    frames = max(facts.frames, 1)
    if options.fps is not None and facts.fps > 0:
        return max(frames * min(options.fps / facts.fps, 1.0), 1.0)
    return frames / options.every


def _warnings(findings: Findings) -> Iterator[str]:
    if findings.clipped:
        yield f"{findings.clipped} boxes reached more than a pixel beyond their picture and were clipped to it"
    for video in findings.skipped:
        yield f"left out {video['path']}: {video['why']}"
