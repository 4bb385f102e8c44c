"""Whole-state checkpoints of a stage.

::

    checkpoints/<stage>/
      step-00000120/          DeepSpeed state of all ranks, plus complete.json (name and size of each file)

A checkpoint folder gets its final name only when every file of every rank is on disk; the newest complete one wins.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.runs.folder import write_atomically

__all__ = ["CheckpointStore"]

log = logging.getLogger(__name__)


class CheckpointStore:
    """Saves and restores a DeepSpeed engine and everything else that a stage must remember."""

    def __init__(self, folder: Path, workers: Workers, *, keep: int) -> None:
        self.folder = folder
        self.workers = workers
        self.keep = keep

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of optimizer step `step` (collective). `state` is json-able and equal on all ranks."""
        name = f"step-{step:08d}"
        temporary, final = self.folder / f".{name}.partial", self.folder / name
        if self.workers.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.workers.barrier()
        engine.save_checkpoint(str(temporary), tag="state", client_state={"colocam": state}, save_latest=False)
        self.workers.barrier()
        if self.workers.is_main:
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            for path in files:
                _fsync(path)
            sizes = {str(path.relative_to(temporary)): path.stat().st_size for path in files}
            write_atomically(temporary / "complete.json", json.dumps({"step": step, "files": sizes}, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            _fsync(self.folder)
            for old in self.complete()[self.keep :]:
                shutil.rmtree(old)
        self.workers.barrier()

    def complete(self) -> list[Path]:
        """Complete checkpoints, newest first; damaged ones are named in the log and left out."""
        found = []
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            damage = _damage(folder)
            if damage:
                log.warning("checkpoint %s is passed over: %s", folder, damage)
            else:
                found.append(folder)
        return found

    def restore(self, engine: Any) -> dict[str, Any] | None:
        """Load the newest complete checkpoint (collective); its `state`, or None when there is none.

        Raises:
            RunError: it cannot be loaded, for instance ZeRO state of another number of ranks.
        """
        newest = self.workers.from_main(str(next(iter(self.complete()), "")))
        if not newest:
            return None
        try:
            loaded, client = engine.load_checkpoint(newest, tag="state")
        except (RuntimeError, AssertionError, KeyError) as error:
            raise RunError(
                "checkpoint cannot be loaded",
                where=newest,
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                fix="resume with the same engine.zero_stage and, for ZeRO 1 and 2, the same number of ranks",
            ) from error
        if loaded is None:
            raise RunError("checkpoint is empty", where=newest)
        return dict(client["colocam"])


def _damage(folder: Path) -> str | None:
    try:
        files = json.loads((folder / "complete.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "complete.json is missing or unreadable"
    bad = [n for n, size in files.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size]
    return f"missing or cut short: {', '.join(bad)}" if bad else None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
