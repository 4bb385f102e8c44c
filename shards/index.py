"""Make missing or damaged index files again: ``python -m shards.index DIR``.

An index holds nothing that is not in its tar: offsets, sizes, checksums and the facts of the pieces. A tar is read only
if it has the sha256 of the manifest. Exit code 0 = all indexes are whole (again); 2 = a tar is missing or damaged.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from colocam_dist.console import run_console
from colocam_dist.data.index_files import read_manifest
from colocam_dist.data.manifest import index_name, manifest_name, seal_manifest
from colocam_dist.data.storage import LocalFolder
from colocam_dist.errors import DataError
from colocam_dist.files import sha256_of
from shards.arguments import add_workers, local_dataset
from shards.files import replaced
from shards.pieces import read_shard
from shards.pool import run_jobs
from shards.sources.base import SPLITS
from shards.tables import Tables

__all__ = ["main", "rebuild_indexes"]


@dataclass(frozen=True)
class _Job:
    """A shard whose index has to be made again."""

    folder: Path
    entry: dict[str, Any]


def rebuild_indexes(folder: Path, *, workers: int = 1) -> list[str]:
    """Make the index files of all splits whole; returns the names of those that were written.

    Raises:
        DataError: no manifest; or a shard whose index is needed is missing, damaged or unreadable (all are named, the
            others are done).
    """
    splits = [split for split in SPLITS if (folder / manifest_name(split)).is_file()]
    if not splits:
        raise DataError("there are no finished shards", where=folder, fix="build them: python -m shards.build --help")
    written: list[str] = []
    for split in splits:
        manifest = read_manifest(LocalFolder(folder), split)
        jobs = [_Job(folder, entry) for entry in manifest["shards"] if not _whole(folder, entry)]
        made = run_jobs(_rebuild, jobs, workers=workers, title=f"index {split}", unit="shard") if jobs else []
        changed = False
        for job, data in zip(jobs, made, strict=True):
            facts = {"index_bytes": len(data), "index_sha256": sha256(data).hexdigest()}
            changed |= any(job.entry[name] != value for name, value in facts.items())
            job.entry.update(facts)
        if changed:  # another release of NumPy may lay out the same arrays otherwise
            with replaced(folder / manifest_name(split)) as stream:
                stream.write(seal_manifest(manifest))
        for job, data in zip(jobs, made, strict=True):
            name = index_name(job.entry["name"])
            with replaced(folder / name) as stream:
                stream.write(data)
            written.append(name)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, rebuild, say what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m shards.index", description="Make missing or damaged indexes again."
    )
    parser.add_argument("folder", help="folder of the dataset")
    add_workers(parser)
    options = parser.parse_args(arguments)
    written = rebuild_indexes(local_dataset(options.folder), workers=options.workers)
    print(f"{len(written)} index files were written{': ' if written else ''}{', '.join(written)}")
    return 0


def _whole(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / index_name(entry["name"])
    return path.is_file() and path.stat().st_size == entry["index_bytes"] and sha256_of(path) == entry["index_sha256"]


def _rebuild(job: _Job) -> bytes:
    path = job.folder / job.entry["name"]
    if not path.is_file() or sha256_of(path) != job.entry["sha256"]:
        raise DataError(
            "an index cannot be made from this shard",
            where=path,
            got="another sha256 than the manifest's" if path.is_file() else "no such file",
            fix="copy or build the shard again",
        )
    tables = Tables()
    try:
        deque(read_shard(path, tables), maxlen=0)
    except ValueError as error:
        raise DataError("a shard is not a tar of pieces", where=path, got=error, fix="build it again") from error
    return tables.npz()


if __name__ == "__main__":
    run_console(main)
