"""Saves and restores the whole state of a stage: complete or not at all, the newest sound one wins.

A checkpoint is written into a hidden folder, sealed with the hashes of its files when everything is on the disk, and
only then renamed (see :mod:`colocam_dist.training.checkpoint_files` for what lies where). If there is too little space,
or writing fails, what was there before stays as it was. Rank 0 reads and writes; only it needs to see the folder.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.files import sync_folder, write_atomically
from colocam_dist.training.checkpoint_files import checkpoints_in, damage_of, read_seal, seal_folder

__all__ = ["CheckpointStore"]

log = logging.getLogger(__name__)

_MARGIN = 1.1  # of the size of the last checkpoint, that must be free for the next
_TENSORS, _FACTS = "state.pt", "state.json"


class CheckpointStore:
    """Checkpoints of one stage; all methods are collective.

    Args:
        folder: of the stage's checkpoints.
        workers: the ranks.
        keep: how many of the newest stay, >= 1; "all" keeps every one.
        keep_best: how many more stay, the best by the score they were saved with.
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
        keep_best: int = 0,
        when_full: Literal["stop", "skip"] = "stop",
        expected_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.keep = keep
        self.keep_best = keep_best
        self.when_full = when_full
        self._bytes = expected_bytes

    def save(
        self, tensors: dict[str, Any] | None, step: int, facts: dict[str, Any], score: float | None = None
    ) -> bool:
        """Write the checkpoint of optimizer step ``step``; whether it was written.

        Args:
            tensors: on rank 0 what ``torch.load(..., weights_only=True)`` can read again; not looked at on the others.
            step: optimizer steps done.
            facts: what else must be remembered, ready for JSON.
            score: of the last validation, larger = better; None = unknown.

        Raises:
            RunError: there is no space, or it cannot be written (with ``when_full="stop"``).
        """
        final = self.folder / f"step-{step:08d}"
        problem = None
        if self.workers.is_main:
            problem = self._write(final, tensors, step, facts, score)
        self.workers.progress.enter("save.wait")
        problem = self.workers.from_main(problem)
        if problem is None:
            return True
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

    def restore(self) -> tuple[dict[str, Any] | None, dict[str, Any]] | None:
        """Tensors (on rank 0) and facts of the newest sound checkpoint, or None when there is none.

        Damaged ones are named in the log and passed over.

        Raises:
            RunError: there are checkpoints, but none is sound.
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
        tensors = facts = None
        if self.workers.is_main:
            tensors = torch.load(Path(newest) / _TENSORS, map_location="cpu", weights_only=True)
            facts = json.loads((Path(newest) / _FACTS).read_text())
        return tensors, self.workers.from_main(facts)

    def _newest(self) -> str | None:
        """Folder of the newest sound checkpoint; "" if there are only damaged ones, None if there is none at all."""
        self._tidy()
        some = False
        for checkpoint in checkpoints_in(self.folder, contents=False):
            some = True
            damage = checkpoint.damage or damage_of(checkpoint.folder)
            if damage is None:
                self._bytes = checkpoint.bytes
                return str(checkpoint.folder)
            log.warning("checkpoint %s is passed over: %s", checkpoint.folder, damage)
        return "" if some else None

    def _tidy(self) -> None:
        """Clear what a process left behind that died while it was writing."""
        for former in self.folder.glob(".step-*.former"):
            final = self.folder / former.name[1:].removesuffix(".former")
            if final.exists():
                shutil.rmtree(former, ignore_errors=True)
            else:  # died between the two renames
                former.rename(final)
        for unfinished in self.folder.glob(".step-*.partial"):
            shutil.rmtree(unfinished, ignore_errors=True)
        for unfinished in self.folder.glob(".best-*.pt.*"):
            unfinished.unlink(missing_ok=True)

    def _write(
        self, final: Path, tensors: dict[str, Any] | None, step: int, facts: dict[str, Any], score: float | None
    ) -> str | None:
        """Write, seal, rename; returns what went wrong. Main rank only."""
        progress, temporary = self.workers.progress, self.folder / f".{final.name}.partial"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            free = shutil.disk_usage(self.folder).free
            if free < self._bytes * _MARGIN:
                shutil.rmtree(temporary)
                return f"{free / 1e6:.1f} MB free, about {self._bytes * _MARGIN / 1e6:.1f} MB needed"
            progress.enter("save.write")
            torch.save(tensors, temporary / _TENSORS)
            (temporary / _FACTS).write_text(json.dumps(facts, indent=1))
            progress.enter("save.seal")
            seal = seal_folder(temporary, step, score)
            progress.enter("save.rename")
            former = self.folder / f".{final.name}.former"
            if final.exists():
                final.rename(former)
            temporary.rename(final)
            sync_folder(self.folder)
            shutil.rmtree(former, ignore_errors=True)
            progress.enter("save.pointer")
            pointer = {"name": final.name, "step": step, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            write_atomically(self.folder / "latest.json", json.dumps(pointer, indent=1))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its archive writer
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.strerror:
                return error.strerror + (f": {error.filename}" if error.filename else "")
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        self._bytes = sum(file["bytes"] for file in seal["files"].values())
        progress.enter("save.prune")
        self._prune()
        return None

    def _prune(self) -> None:
        """Remove what is neither among the newest ``keep`` nor the best ``keep_best`` that look whole."""
        if self.keep == "all":
            return
        there = checkpoints_in(self.folder, contents=False)
        sound = [checkpoint for checkpoint in there if checkpoint.damage is None]
        scores = {checkpoint.step: read_seal(checkpoint.folder)["score"] for checkpoint in sound}
        scored = sorted((step for step, score in scores.items() if score is not None), key=lambda s: (-scores[s], s))
        stay = {checkpoint.step for checkpoint in sound[: self.keep]} | set(scored[: self.keep_best])
        oldest = min((checkpoint.step for checkpoint in sound[: self.keep]), default=0)
        for checkpoint in there:
            if checkpoint.step not in stay and checkpoint.step < oldest:
                shutil.rmtree(checkpoint.folder, ignore_errors=True)
