"""The data of a study: what its shards hold, noted when it begins, and what must be said with its figures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from colocam_dist.config.data import Data
from colocam_dist.data.index_files import read_manifest
from colocam_dist.data.manifest import caveats_in
from colocam_dist.data.opening import caveats_of, remote_settings
from colocam_dist.data.storage import open_storage
from colocam_dist.errors import ConfigError, DataError, RunError
from colocam_dist.files import write_atomically

__all__ = ["caveats", "check_contents", "note_contents"]

_FILE = "data.json"


def caveats(data: Data) -> list[str]:
    """Those of the validation shards and of the settings; a report can be made where the data are not."""
    try:
        manifest = read_manifest(open_storage(data.shards, remote_settings(data)), data.validation_split)
    except (DataError, ConfigError) as error:
        unknown = f"Caveats that the data may bring with them could not be read ({error.where}: {error.what})."
        return caveats_of([unknown], data)
    return caveats_of(caveats_in(manifest), data)


def note_contents(study: Path, data: Data) -> None:
    """Write down what the splits hold, for :func:`check_contents`; what is noted already stays.

    Args:
        study: its folder.
        data: settings that the runs of the study share.
    """
    known = _noted(study)
    now = {**_contents(data), **known}
    if now != known:
        write_atomically(study / _FILE, json.dumps(now, indent=1) + "\n")


def check_contents(study: Path, data: Data) -> None:
    """Raise if shards were built anew since the study has begun: its trials would have learned from different data.

    Splits that cannot be read, as one that nothing is scored on may be, are left out.

    Raises:
        RunError: a split has other contents.
    """
    known, now = _noted(study), _contents(data)
    changed = sorted(name for name in known.keys() & now.keys() if known[name] != now[name])
    if changed:
        raise RunError(
            "the shards are not those that the study has begun with",
            where=study,
            got="other contents in " + ", ".join(changed),
            fix="bring the earlier shards back, or begin a new study by another study.name",
        )


def _noted(study: Path) -> dict[str, str]:
    path = study / _FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _contents(data: Data) -> dict[str, str]:
    """A sha256 over classes and shards of each split that can be read, wherever it lies."""
    places = {
        f"split '{split}'": (data.shards, split) for split in (data.train_split, data.validation_split, data.split)
    }
    places |= {f"data.mix[{number}]": (part.shards, part.split) for number, part in enumerate(data.mix)}
    found = {}
    for name, (location, split) in places.items():
        try:
            manifest = read_manifest(open_storage(location, remote_settings(data)), split)
        except (DataError, ConfigError):
            continue
        defining = [manifest["classes"], [shard["sha256"] for shard in manifest["shards"]]]
        found[name] = hashlib.sha256(json.dumps(defining).encode()).hexdigest()
    return found
