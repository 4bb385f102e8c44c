"""Saves and restores the whole state of a stage: complete or not at all, the newest sound one wins.

A checkpoint is written into a hidden folder, sealed with the hashes of its files when all ranks are done and everything
is on the disk, and only then renamed (see :mod:`colocam_dist.training.checkpoint_files` for what lies where). If there
is too little space, or writing fails, what was there before stays as it was.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.files import sync_folder, write_atomically
from colocam_dist.training.checkpoint_files import checkpoints_in, damage_of, seal_folder

__all__ = ["CheckpointStore"]

log = logging.getLogger(__name__)

_MARGIN = 1.1  # of the size of the last checkpoint, that must be free for the next


class CheckpointStore:
    """Checkpoints of one stage; all methods are collective.

    Args:
        folder: of the stage's checkpoints.
        workers: the ranks.
        keep: how many stay, >= 1; "all" keeps every one.
        when_full: what happens when there is no space: "stop" the run with an error, or "skip" the checkpoint with a
            warning and try again at the next one.
        expected_bytes: about how large a checkpoint will be, until there is one to go by.
    """

    def __init__(
        self,
        folder: Path,
        workers: Workers,
        *,
        keep: int | Literal["all"],
        when_full: Literal["stop", "skip"] = "stop",
        expected_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.keep = keep
        self.when_full = when_full
        self._bytes = expected_bytes

    def save(self, engine: Any, step: int, state: dict[str, Any]) -> bool:
        """Write the checkpoint of optimizer step ``step``; whether it was written.

        Args:
            engine: a DeepSpeed engine.
            step: optimizer steps done.
            state: what else must be remembered, JSON-able and equal on all ranks.

        Raises:
            RunError: there is no space, or it cannot be written (with ``when_full="stop"``).
        """
        name = f"step-{step:08d}"
        temporary, final = self.folder / f".{name}.partial", self.folder / name
        problem = self.workers.from_main(self._prepare(temporary) if self.workers.is_main else None)
        if problem is None:
            problem = self._write(engine, temporary, state)
        if problem is None:
            problem = self.workers.from_main(self._publish(temporary, final, step) if self.workers.is_main else None)
        if problem is None:
            return True
        if self.workers.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        error = RunError(
            "a checkpoint cannot be written",
            where=final,
            got=problem,
            fix="free some space, or lower checkpoint.keep; earlier checkpoints are whole, and the run can be resumed",
        )
        if self.when_full == "stop":
            raise error
        if self.workers.is_main:
            log.warning("%s", error)
        return False

    def restore(self, engine: Any) -> dict[str, Any] | None:
        """Load the newest sound checkpoint; its ``state``, or None when there is none.

        Damaged ones are named in the log and passed over.

        Raises:
            RunError: it cannot be loaded, for instance ZeRO state of another number of ranks; or there are checkpoints,
                but none is sound.
        """
        newest = self.workers.from_main(self._newest() if self.workers.is_main else None)
        if newest is None:
            return None
        if not newest:
            raise RunError(
                "all checkpoints are damaged",
                where=self.folder,
                fix="restore one from a copy, or remove the folder to begin the stage anew",
            )
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

    def _newest(self) -> str | None:
        """Folder of the newest sound checkpoint; "" if there are only damaged ones, None if there is none at all."""
        some = False
        for checkpoint in checkpoints_in(self.folder, contents=False):
            some = True
            damage = checkpoint.damage or damage_of(checkpoint.folder)
            if damage is None:
                self._bytes = checkpoint.bytes
                return str(checkpoint.folder)
            log.warning("checkpoint %s is passed over: %s", checkpoint.folder, damage)
        return "" if some else None

    def _prepare(self, temporary: Path) -> str | None:
        """Clear the way; returns what is in it. Main rank only."""
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        if free < self._bytes * _MARGIN:
            return f"{free / 1e6:.1f} MB free, about {self._bytes * _MARGIN / 1e6:.1f} MB needed"
        return None

    def _write(self, engine: Any, temporary: Path, state: dict[str, Any]) -> str | None:
        """Let every rank write its part; returns the first rank's problem."""
        problem = None
        try:
            engine.save_checkpoint(str(temporary), tag="state", client_state={"colocam": state}, save_latest=False)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its archive writer.
            problem = f"rank {self.workers.rank}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return next((found for found in self.workers.gather(problem) if found is not None), None)

    def _publish(self, temporary: Path, final: Path, step: int) -> str | None:
        """Seal and rename; returns what went wrong. Main rank only."""
        try:
            seal = seal_folder(temporary, step)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            sync_folder(self.folder)
            facts = {"name": final.name, "step": step, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            write_atomically(self.folder / "latest.json", json.dumps(facts, indent=1))
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        self._bytes = sum(facts["bytes"] for facts in seal["files"].values())
        self._prune()
        return None

    def _prune(self) -> None:
        """Remove what is older than the newest ``keep`` that look whole."""
        if self.keep == "all":
            return
        whole = 0
        for checkpoint in checkpoints_in(self.folder, contents=False):
            if whole >= self.keep:
                shutil.rmtree(checkpoint.folder, ignore_errors=True)
            whole += checkpoint.damage is None
