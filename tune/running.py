"""A trial from its first process to its last figure, whoever does the work and however often it is interrupted.

Nothing here knows Ray. What a trial has done is read from its folder, so that a runner that comes later, in another
session, gives the same rows again and goes on behind them; a trial that is over costs no more than reading them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from colocam_dist.config import Config
from tune.executors import Work, WorkError
from tune.executors.local import LocalWork
from tune.executors.patience import begin
from tune.executors.slurm import SlurmWork
from tune.folder import Record, StudyFolder, content_hash
from tune.population import inherit
from tune.settings import StudyFile, load_study
from tune.space import BORN, SEED, Point, Space

__all__ = ["OpenStudy", "TrialRunner", "concerns"]

_LOOK_EVERY = 0.2  # seconds
_STAGE_1 = ("classifier", "cams")
_NOTHING: dict[str, Any] = {"epoch": 0, "corloc": 0.0}  # of a run without any validation


class OpenStudy:
    """A study as its trials see it.

    Args:
        file: its settings.
        folder: where it lives.
        space: made here if it is not given.
    """

    def __init__(self, file: StudyFile, folder: StudyFolder, space: Space | None = None) -> None:
        self.file = file
        self.folder = folder
        self.space = space or Space(file)

    @classmethod
    def at(cls, path: Path) -> OpenStudy:
        """That of a folder, by the settings which are written there: they were checked before."""
        folder = StudyFolder(path)
        file = load_study(folder.settings_path)
        return cls(file, folder, Space(file, checked=True))

    def work(self, record: Record) -> Work:
        """Who does the work of a record."""
        study = self.file.study
        if study.executor == "slurm":
            return SlurmWork(record, self.folder)
        return LocalWork(record, study.ranks, study.retries)

    def trial(self, point: Point) -> Record:
        """The record of the trial of a point."""
        return self.folder.trial(content_hash(self.space.config(point), point.get(BORN, "")))

    def classifier_settings(self, point: Point) -> Config | None:
        """The run of the classifier that a point's trial shares with others; None if its run has one of its own.

        Settings of ``study.one_classifier_for`` are those of the study's base, so that the content hash is the same.
        """
        config = self.space.config(point)
        if config.classifier.from_run is not None or not set(_STAGE_1) & set(config.run.stages):
            return None
        apart = self.file.study.one_classifier_for
        kept = [text for text in self.space.settings(point) if not concerns(text.partition("=")[0], apart)]
        return self.file.config([*kept, f"run.stages={json.dumps(_STAGE_1)}"])

    def classifier(self, settings: Config) -> Record:
        """The record of a shared classifier. Its name is no trial's, even if one does nothing else."""
        return self.folder.classifier(content_hash(settings, "classifier"))

    def leaving(self) -> None:
        """Stop what is being done if the session is about to end.

        Raises:
            WorkError: it is.
        """
        if self.folder.leave_path.exists():
            raise WorkError("the study was asked to stop")


def concerns(setting: str, groups: Sequence[str]) -> bool:
    """Whether a setting is one of these, or belongs to a section among them."""
    return any(setting == group or setting.startswith(f"{group}.") for group in groups)


class TrialRunner:
    """Does a trial, or follows it.

    Args:
        study: it belongs to.
        point: its place in the space.
        parent: trial whose checkpoint it begins with, if it has not begun before; PBT makes such.
        member: of the population, if there is one.

    Raises:
        ConfigError: its settings contradict each other.
    """

    def __init__(self, study: OpenStudy, point: Point, parent: str | None = None, member: str = "") -> None:
        self._study = study
        self._point = point
        self._config = study.space.config(point)
        self._shared = study.classifier_settings(point)
        self.record = study.trial(point)
        self.epochs = self._config.localizer.epochs if "localizer" in self._config.run.stages else 0
        self._epoch = -1  # of the last row that was given
        self._best = float("-inf")
        self._work: Work | None = None
        self._claim: TextIO | None = None
        self.record.begin({**self._facts(), "parent": parent if BORN in point else None})
        self.record.note_member(member)

    def _facts(self) -> dict[str, Any]:
        shown = self._study.space.shown(self._point)
        shared = self._study.classifier(self._shared).id if self._shared is not None else None
        return {
            "point": dict(self._point),
            "shown": shown,
            "seed": self._point[SEED],
            "settings": self._study.space.settings(self._point),
            "epochs": self.epochs,
            "shared": shared,
            "encoder": self._config.model.encoder,
        }

    def next(self) -> dict[str, Any]:
        """Wait for the next validation; the row of the last epoch comes when the whole run is done.

        Returns:
            ``epoch``, ``corloc`` of it, ``best_corloc`` so far (percent), ``id`` of the trial, and ``done``.

        Raises:
            WorkError: the run has failed, now or in an earlier session, or the study is about to end.
            ClusterError: SLURM did not take it.
        """
        while True:
            row = self._unseen()
            if row is not None and row["epoch"] < self.epochs:
                return self._told(row, done=False)
            end = self.record.end
            if end is not None:
                self._let_go()
                if end["state"] == "failed":
                    raise WorkError(end["error"], end.get("traceback", ""))
                return self._told(row or self._last(), done=True)
            if not self._look():
                time.sleep(_LOOK_EVERY)

    def _unseen(self) -> dict[str, Any] | None:
        if self.epochs == 0:
            return None
        return next((row for row in self._rows() if row["epoch"] > self._epoch), None)

    def _rows(self) -> list[dict[str, Any]]:
        """Of stage 2; of a trial that was stopped, those that the scheduler saw: how many more there are is chance."""
        last = (self.record.end or {}).get("epoch", self.epochs)
        return [row for row in self.record.rows("localizer") if row["epoch"] <= last]

    def _last(self) -> dict[str, Any]:
        """The figure of a trial without stage 2 is that of its classifier; of one that was stopped, its last."""
        if self.epochs == 0 and self._shared is not None:
            rows = self._study.classifier(self._shared).rows("classifier", first=0)
            return {**max(rows, key=lambda row: row["corloc"], default=_NOTHING), "epoch": 0}
        rows = self._rows() if self.epochs else self.record.rows("classifier")
        parent = self.record.facts["parent"]
        if not rows and parent is not None:  # it had nothing left to train
            rows = self._study.folder.trial(parent).rows("localizer")
        return rows[-1] if rows else _NOTHING

    def _told(self, row: dict[str, Any], *, done: bool) -> dict[str, Any]:
        self._epoch = row["epoch"]
        self._best = max(self._best, row["corloc"])
        return {
            "id": self.record.id,
            "epoch": row["epoch"],
            "corloc": row["corloc"],
            "best_corloc": self._best,
            "done": done,
        }

    def _look(self) -> bool:
        """See whether the run is at its end; start it if it has not been. True: look again at once."""
        self._study.leaving()
        if self._work is None:
            return self._start()
        if self._work.living():
            return False
        _conclude(self.record, self._work)
        return True

    def _start(self) -> bool:
        """Take over the run, unless another runner has it, which is followed then: searchers propose points again."""
        self._claim = self._claim or self.record.claim()
        if self._claim is None:
            return False
        work = self._study.work(self.record)
        if self.record.end is not None or (self.record.run / "done.json").is_file():
            _conclude(self.record, work)
            return True
        config = self._with_classifier()
        parent = self.record.facts["parent"]
        if parent is not None:
            inherit(self._study.folder.trial(parent), self.record)
        begin(work, config, self._study.leaving)
        self._work = work
        return True

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _with_classifier(self) -> Config:
        """The settings of the run, with the classifier that it shares; made now if nobody has."""
        config = self._run_settings(self._config, self.record)
        if self._shared is None:
            return config
        record = self._study.classifier(self._shared)
        record.begin({"encoder": self._shared.model.encoder})
        with record.lock(self._study.leaving):
            work = self._study.work(record)
            if record.end is None and not (record.run / "done.json").is_file():
                begin(work, self._run_settings(self._shared, record), self._study.leaving)
                while work.living():
                    time.sleep(_LOOK_EVERY)
                    try:
                        self._study.leaving()
                    except WorkError:
                        work.leave()
                        raise
            if record.end is None:
                _conclude(record, work)
        end = record.end
        assert end is not None
        if end["state"] == "failed":
            error = WorkError(f"the classifier that it needs has failed: {end['error']}", end.get("traceback", ""))
            self.record.finish("failed", error=str(error), traceback=error.traceback)
            raise error
        left = [stage for stage in config.run.stages if stage not in _STAGE_1]
        settings = {"classifier": config.classifier.model_copy(update={"from_run": record.run})}
        return config.model_copy(update={**settings, "run": config.run.model_copy(update={"stages": tuple(left)})})

    def _run_settings(self, config: Config, record: Record) -> Config:
        """With the place of the run, and the share of the machine that the study gives it."""
        place = {"name": record.run.name, "folder": record.run.parent, "on_exists": "resume"}
        update: dict[str, Any] = {"run": config.run.model_copy(update=place)}
        study = self._study.file.study
        if study.executor != "slurm" and config.engine.threads == 0:
            threads = max(1, int(study.resources.cpus) // study.ranks)
            update["engine"] = config.engine.model_copy(update={"threads": threads})
        return config.model_copy(update=update)

    def leave(self) -> None:
        """Let go of the trial: processes on this machine save and leave, a job goes on."""
        if self._work is not None:
            self._work.leave()
        self._let_go()


def _conclude(record: Record, work: Work) -> None:
    """Write down how a run has ended whose processes are gone, unless that is known.

    Raises:
        WorkError: it was interrupted, so that a new start goes on with it.
    """
    if record.end is not None:
        return
    if (record.run / "done.json").is_file():
        record.finish("finished")
        return
    failed = record.run / "failed.json"
    if failed.is_file():
        facts = json.loads(failed.read_text())
        record.finish("failed", error=facts["error"], traceback=facts.get("traceback", ""))
        return
    if (record.run / "preempted.json").is_file():
        raise WorkError("its processes were asked to leave")
    if work.killed:
        raise WorkError("its processes were killed", work.last_words())
    record.finish("failed", error="its processes ended without saying why", traceback=work.last_words())
