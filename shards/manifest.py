"""The last file of a build: which shards make up a split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from colocam_dist.data.manifest import MANIFEST_VERSION, index_name, manifest_name, seal_manifest
from shards.files import replaced
from shards.writer import Shard, done_name

__all__ = ["remove_stale_shards", "shards_on_disk", "write_manifest"]


def write_manifest(
    folder: Path,
    split: str,
    *,
    classes: tuple[str, ...],
    shards: list[Shard],
    settings: dict[str, Any],
    source: dict[str, Any],
) -> None:
    """Declare a split finished.

    Args:
        folder: folder of the dataset.
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
    with replaced(folder / manifest_name(split)) as stream:
        stream.write(seal_manifest(manifest))


def shards_on_disk(folder: Path, split: str, suffix: str = ".tar") -> list[str]:
    """Names of the split's shards of which a file with this suffix is in the folder, finished or not, sorted."""
    pattern = re.compile(re.escape(split) + r"-\d{6,}" + re.escape(suffix))
    return sorted(path.name for path in folder.glob(f"{split}-*{suffix}") if pattern.fullmatch(path.name))


def remove_stale_shards(folder: Path, split: str, keep: set[str]) -> None:
    """Delete shards of the split that a build with another plan has left, so that ``<split>-*.tar`` is right."""
    for name in shards_on_disk(folder, split):
        if name not in keep:
            for file in (name, index_name(name), done_name(name)):
                (folder / file).unlink(missing_ok=True)
