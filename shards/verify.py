"""Read a dataset back and check all of it: ``python -m shards.verify DIR``.

Checks that every shard has the size and sha256 of its manifest, that it is a tar of the expected pieces, that its index
is exactly what the tar holds, and that every frame is a JPEG of the recorded size that can be decoded.
Exit code 0 = all is well; 1 = problems, one line each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.console import run_console
from colocam_dist.data.index_files import read_manifest
from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.data.manifest import index_limit, index_name, manifest_name, read_arrays
from colocam_dist.data.storage import LocalFolder
from colocam_dist.errors import DataError
from colocam_dist.files import sha256_of
from shards.arguments import add_workers, local_dataset
from shards.images import decodes
from shards.manifest import shards_among
from shards.pieces import read_shard
from shards.pool import run_jobs
from shards.sources.base import SPLITS
from shards.tables import Tables

__all__ = ["Problem", "Report", "main", "verify"]

_SHOWN = 5  # differences of one kind


@dataclass(frozen=True)
class Problem:
    """Something wrong: the file, the member or frame in it ("" = the file as a whole), and what."""

    file: str
    part: str
    what: str


@dataclass(frozen=True)
class Report:
    """What was read, and all that is wrong with it."""

    shards: int
    frames: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Check:
    """One shard: its folder and its entry in the manifest."""

    folder: Path
    entry: dict[str, Any]


def verify(folder: Path, *, workers: int = 1) -> Report:
    """Read all splits of a dataset folder back.

    Args:
        folder: folder of the dataset.
        workers: number of processes.

    Raises:
        DataError: the folder has no manifest at all.
    """
    splits = [split for split in SPLITS if (folder / manifest_name(split)).is_file()]
    if not splits:
        raise DataError("there are no finished shards", where=folder, fix="build them: python -m shards.build --help")
    names = [path.name for path in folder.iterdir()]
    problems: list[Problem] = []
    checks: list[_Check] = []
    for split in SPLITS:
        listed: list[dict[str, Any]] = []
        if split in splits:
            try:
                listed = read_manifest(LocalFolder(folder), split)["shards"]
            except DataError as error:
                problems.append(Problem(manifest_name(split), "", f"{error.what}: {error.got}"))
        known = {entry["name"] for entry in listed}
        problems += [
            Problem(name, "", "not in the manifest of its split")
            for name in shards_among(names, split)
            if name not in known
        ]
        checks += [_Check(folder, entry) for entry in listed]
    for found in run_jobs(_check_shard, checks, workers=workers, title="verify", unit="shard"):
        problems += found
    return Report(len(checks), sum(check.entry["frames"] for check in checks), tuple(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, verify, print a table of problems or one line that all is well."""
    parser = argparse.ArgumentParser(prog="python -m shards.verify", description="Read a dataset back and check it.")
    parser.add_argument("folder", help="folder of the dataset")
    add_workers(parser)
    options = parser.parse_args(arguments)
    report = verify(local_dataset(options.folder), workers=options.workers)
    if not report.problems:
        print(f"{report.shards} shards with {report.frames} frames are as they were written")
        return 0
    width = max(len(problem.file) for problem in report.problems)
    for problem in report.problems:
        print(f"{problem.file:{width}}  {problem.part + ': ' if problem.part else ''}{problem.what}")
    print(f"{len(report.problems)} problems in {report.shards} shards")
    return 1


def _check_shard(check: _Check) -> list[Problem]:
    return [Problem(check.entry["name"], part, what) for part, what in _problems(check)]


def _problems(check: _Check) -> Iterator[tuple[str, str]]:
    """Pairs of a part of the shard and what is wrong with it."""
    path = check.folder / check.entry["name"]
    if not path.is_file():
        yield "", "missing"
        return
    size = path.stat().st_size
    if size != check.entry["bytes"]:
        yield "", f"{size} bytes long instead of {check.entry['bytes']}"
        return
    if sha256_of(path) != check.entry["sha256"]:
        yield "", "its sha256 is not that of the manifest"
    index = path.with_name(index_name(path.name))
    stored = index.read_bytes() if index.is_file() else None
    if stored is None:
        yield "", f"its index {index.name} is missing"
    elif sha256(stored).hexdigest() != check.entry["index_sha256"]:
        yield "", f"the sha256 of its index {index.name} is not that of the manifest"
    tables = Tables()
    try:
        for picture, size in read_shard(path, tables):
            if what := _picture_problem(picture.content, size):
                yield picture.name, what
    except ValueError as error:
        yield "", f"not a tar of pieces, after {tables.n_frames} frames: {error}"
        return
    if (tables.n_shots, tables.n_frames) != (check.entry["shots"], check.entry["frames"]):
        yield "", f"{tables.n_frames} frames in {tables.n_shots} shots, unlike the manifest"
    if stored is not None:
        yield from _compare(check, stored, tables)


def _picture_problem(jpeg: bytes, size: tuple[int, int]) -> str:
    try:
        header = read_jpeg_header(BytesIO(jpeg))
    except ValueError as error:
        return str(error)
    if (header.width, header.height) != size:
        return f"{header.width} x {header.height} pixels instead of {size[0]} x {size[1]}"
    if header.orientation != 1:
        return "has an EXIF orientation"
    return "" if decodes(jpeg) else "cannot be decoded"


def _compare(check: _Check, index: bytes, tables: Tables) -> Iterator[tuple[str, str]]:
    """Differences of an index file from what the tar holds."""
    found = tables.arrays()
    try:
        expected = read_arrays(index, index_limit(check.entry))
    except ValueError as error:
        yield "", f"its index {index_name(check.entry['name'])} cannot be used: {error}"
        return
    for key, values in expected.items():
        if values.shape != found[key].shape:
            yield "", f"{key} has {len(values)} entries in the index, {len(found[key])} in the tar"
            continue
        differs = values != found[key]
        rows = np.flatnonzero(differs.any(tuple(range(1, differs.ndim))))
        for row in rows[:_SHOWN]:
            name = f"frame {found['frame_name'][row]}" if key.startswith("frame_") else f"entry {row}"
            yield f"{_shot_of(found, key, int(row))} {name}", f"{key} differs between index and tar"
        if len(rows) > _SHOWN:
            yield "", f"{key} differs in {len(rows) - _SHOWN} more places"


def _shot_of(tables: dict[str, NDArray[Any]], key: str, row: int) -> str:
    """Key of the shot to which a row of a table belongs."""
    if key.startswith("shot_"):
        return str(tables["shot_key"][row])
    frame = row if key.startswith("frame_") else int(tables["box_frame"][row])
    return str(tables["shot_key"][np.searchsorted(tables["shot_first"], frame, side="right") - 1])


if __name__ == "__main__":
    run_console(main)
