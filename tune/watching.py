"""What the driver does when a trial is over: only it knows that the scheduler has ended one."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from ray import tune as ray_tune

from colocam_dist.errors import ColocamError
from tune.executors.slurm import cancel
from tune.folder import Record
from tune.progress import Progress
from tune.running import OpenStudy
from tune.trial import point_of

__all__ = ["Watching"]

log = logging.getLogger(__name__)


class Watching(ray_tune.Callback):
    """Notes which trials were ended early, cancels their jobs, and tells what happens.

    Not done by the trials' actors: these also end when the driver is killed, and then jobs must go on.
    """

    def __init__(self, study: OpenStudy, progress: Progress) -> None:
        self._study = study
        self._progress = progress
        self._of_member: dict[str, str] = {}  # what each of Ray's trials does now

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Pass on a request to stop that came before Ray Tune listened."""
        if self._study.folder.leave_path.exists():
            os.kill(os.getpid(), signal.SIGUSR1)

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes its callbacks down, which a drawn table cannot be; nobody reads it (:mod:`tune.folder`)."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is given its share of the machine."""
        point = point_of(trial.config)
        try:
            config = self._study.space.config(point)
        except ColocamError:  # settings that contradict each other, of which the trial will die
            return
        epochs = config.localizer.epochs if "localizer" in config.run.stages else 0
        facts = {"shown": self._study.space.shown(point), "seed": config.run.seed, "epochs": epochs}
        self._progress.begun(self._study.trial(point).id, facts)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A row has come."""
        record = self._study.folder.trial(result["id"])
        former = self._study.folder.trial(self._of_member.get(trial.trial_id, record.id))
        self._of_member[trial.trial_id] = record.id
        if former.id != record.id:  # PBT lets it go on with a copy of a better one
            self._stop(former, replaced=True)
            self._progress.over(former.id, former.facts, "replaced")
        self._progress.row(record.id, record.facts, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over; if it does not know so itself, the scheduler has ended it."""
        record = self._study.folder.trial(trial.last_result["id"])
        if record.end is None and not self._study.folder.leave_path.exists():
            self._stop(record, epoch=trial.last_result["epoch"])
        self._progress.over(record.id, record.facts, (record.end or {"state": "stopped"})["state"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good, or the study ends."""
        if self._study.folder.leave_path.exists():
            return
        error = trial.get_error()
        cause = getattr(error, "cause", None) or error or "its actor was lost"
        try:
            record = self._study.trial(point_of(trial.config))
            if record.end is None:
                record.finish("failed", error=str(cause), traceback=str(error or ""))
            self._cancel(record)
            end = record.end or {}
            self._progress.over(record.id, record.facts, end.get("state", "failed"), end.get("error", ""))
        except (ColocamError, OSError) as unknown:  # settings that contradict each other, or a full disk
            log.warning("a trial has failed and left no record: %s (%s)", cause, unknown)

    def _stop(self, record: Record, **facts: Any) -> None:
        try:
            record.finish("stopped", **facts)
        except OSError as error:  # a full disk must not end the study; the trial is stopped again on resume
            log.warning("it could not be written down that trial %s was stopped: %s", record.id, error.strerror)
        self._cancel(record)

    def _cancel(self, record: Record) -> None:
        if self._study.file.study.executor != "slurm":
            return
        try:
            cancel([record])
        except ColocamError as error:
            log.warning("%s", error)
