"""The last file of a build: which shards make up a split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from colocam_dist.data.manifest import MANIFEST_VERSION, index_name, manifest_name, seal_manifest
from shards.output import Output
from shards.writer import Shard, done_name

__all__ = ["remove_stale_shards", "shards_among", "write_manifest"]


def write_manifest(
    output: Output,
    split: str,
    *,
    classes: tuple[str, ...],
    shards: list[Shard],
    settings: dict[str, Any],
    source: dict[str, Any],
) -> None:
    """Declare a split finished.

    Args:
        output: where the dataset is written.
        split: "train", "val" or "test".
        classes: all classes of the dataset, sorted.
        shards: in order.
        settings: options and versions that shaped the bytes (JSON).
        source: what was read, what was left out, what was odd (JSON).
    """
    manifest = {
        "version": MANIFEST_VERSION,
        "split": split,
        "classes": list(classes),
        "shards": [
            {
                "name": shard.name,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "shots": shard.shots,
                "frames": shard.frames,
                "index_bytes": shard.index_bytes,
                "index_sha256": shard.index_sha256,
            }
            for shard in shards
        ],
        "settings": settings,
        "source": {**source, "warnings": [warning for shard in shards for warning in shard.warnings]},
    }
    with output.publish(manifest_name(split)) as stream:
        stream.write(seal_manifest(manifest))


def shards_among(names: Iterable[str], split: str, suffix: str = ".tar") -> list[str]:
    """Of the names of files, those of the split's shards with this suffix, finished or not, sorted."""
    pattern = re.compile(re.escape(split) + r"-\d{6,}" + re.escape(suffix))
    return sorted(name for name in names if pattern.fullmatch(name))


def remove_stale_shards(output: Output, split: str, keep: set[str]) -> None:
    """Delete shards of the split that a build with another plan has left, so that ``<split>-*.tar`` is right.

    Each of their files by itself, so that what a killed build has not got to is found by the next one.
    """
    kept = {file for name in keep for file in (name, index_name(name), done_name(name))}
    names = output.names()
    for suffix in (".done", ".idx.npz", ".tar"):  # what vouches for a shard first
        for name in shards_among(names, split, suffix):
            if name not in kept:
                output.remove(name)
