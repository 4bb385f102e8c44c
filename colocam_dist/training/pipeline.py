"""A whole run: classifier, CAM archive, localizer, evaluation, report. The entry of ``launchers/train.py``."""

from __future__ import annotations

import errno
import json
import logging
import re
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext

from colocam_dist.cams.archive import CamArchive
from colocam_dist.config import Config
from colocam_dist.data.opening import Splits
from colocam_dist.distributed import Workers, connect
from colocam_dist.errors import ColocamError, PreemptedError, RankLostError, ReportedElsewhereError, RunError
from colocam_dist.files import write_atomically
from colocam_dist.inference.evaluate import evaluate_run
from colocam_dist.inference.load import build_classifier, build_localizer, load_classifier
from colocam_dist.losses.rehearsal import rehearse
from colocam_dist.runs.folder import RunFolder
from colocam_dist.training.cam_stage import ensure_archive
from colocam_dist.training.classifier import ClassifierStage
from colocam_dist.training.faults import Faults, parse_faults
from colocam_dist.training.inputs import loss_settings
from colocam_dist.training.localizer import LocalizerStage
from colocam_dist.training.memory import is_memory_limit, memory_limit
from colocam_dist.training.metrics import MetricsLog
from colocam_dist.training.preflight import check_run
from colocam_dist.training.signals import StopRequests
from colocam_dist.training.trainer import Stage, Trainer
from colocam_dist.training.watchdog import Watchdog

__all__ = ["run"]

log = logging.getLogger(__name__)

_COLLECTIVE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|process group", re.IGNORECASE)
"""What the libraries say when ranks do not find each other."""


def run(
    config: Config,
    *,
    stages: Sequence[str] | None = None,
    marker: str = "done.json",
    stop: StopRequests | None = None,
) -> RunFolder:
    """Do the stages that `config.run.stages` names, in their order; returns the run's folder.

    The last file written is ``done.json``; after an error it is ``failed.json``, with the traceback; after a request to
    stop ``preempted.json``.

    Args:
        config: of the whole run.
        stages: only these, because others follow in another process.
        marker: then written in place of ``done.json``.
        stop: requests to stop, if somebody has listened for them already.

    Raises:
        PreemptedError: TERM, USR1 or USR2 came, or the launcher ended; the state is saved.
        RankLostError: another rank died or hung.
        MemoryLimitError: too little memory for the micro-batch.
        ColocamError: bad settings, data or weights; nothing of an earlier run is lost.
    """
    faults = parse_faults(config.fault)
    workers = connect(config.engine)
    together = False
    try:
        folder = workers.on_main(lambda: RunFolder.create(config))
        workers.progress.on_enter = Faults(faults, workers.rank, folder.path).strike
        started = time.time()
        if stages is not None:
            config = config.model_copy(update={"run": config.run.model_copy(update={"stages": tuple(stages)})})
        with nullcontext(stop) if stop is not None else StopRequests() as requests:
            workers.progress.stop_reason = lambda: requests.reason
            with Watchdog(workers, requests, folder.path, config.engine.timeout) as watchdog:
                try:
                    _Pipeline(config, workers, folder, requests).run()
                except Exception as error:
                    _explain(error, folder, workers, watchdog)
                    raise
        if workers.is_main:
            facts = {"seconds": round(time.time() - started, 1), "world": workers.world, "stages": config.run.stages}
            folder.write_json(marker, facts)
        workers.barrier()
        together = True
        return folder
    except PreemptedError:  # on all ranks
        together = True
        raise
    finally:
        workers.close(together=together)


def _explain(error: Exception, folder: RunFolder, workers: Workers, watchdog: Watchdog) -> None:
    """Leave a file that says how the run ended; raise what the user can understand for what the libraries raised.

    Raises:
        RankLostError: the error came from a collective operation that others did not join.
        MemoryLimitError: the error was one of too little memory for a step of training.
        RunError: it was one of too little memory for anything else, or of a full disk.
    """
    if isinstance(error, ReportedElsewhereError):
        return
    if isinstance(error, PreemptedError):
        if workers.is_main:
            folder.write_json("preempted.json", {"reason": error.got, "where": error.where})
        return
    failed = folder.file("failed.json")
    position = str(workers.progress.position)
    better: ColocamError | None = None
    if is_memory_limit(error):
        better = memory_limit(error, workers.progress.position)
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        better = RunError(
            "there is no space left",
            where=error.filename or folder.path,
            got=error.strerror,
            fix="free some space and resume with run.on_exists=resume; checkpoints are whole",
        )
    elif isinstance(error, RuntimeError) and _COLLECTIVE.search(str(error)):
        better = RankLostError(
            "the ranks cannot go on together",
            where=f"rank {workers.rank}, {position}",
            got=f"{watchdog.loss()} ({str(error).splitlines()[0][:200]})",
            fix="look at what the lost rank said last; run.on_exists=resume goes on from the newest checkpoint",
        )
    told = better or error
    facts = {"error": str(told), "type": type(told).__name__, "rank": workers.rank, "where": position}
    facts["traceback"] = "".join(traceback.format_exception(error))
    if not isinstance(told, RankLostError) or not failed.exists():  # what another rank died of says more
        write_atomically(failed, json.dumps(facts, indent=1))
    if better is not None:
        raise better from error


class _Pipeline:
    def __init__(self, config: Config, workers: Workers, folder: RunFolder, stop: StopRequests) -> None:
        self.config = config
        self.stop = stop
        self.workers = workers
        self.folder = folder
        workers.on_main(lambda: check_run(config, workers.world))
        if "localizer" in config.run.stages and workers.device.type == "cuda":  # on a CPU nothing is compiled
            rehearse(loss_settings(config), workers.device)
        self.splits = Splits.open(config.data)
        if workers.is_main:
            folder.write_json("classes.json", self.splits.train.classes)

    def run(self) -> None:
        if self.workers.is_main:  # what an earlier, smaller run has finished is not what this one will have
            self.folder.file("done.json").unlink(missing_ok=True)
        wanted = self.config.run.stages
        classes = len(self.splits.train.classes)
        if "classifier" in wanted and self.config.classifier.from_run is None:
            model = build_classifier(self.config, classes)
            self._fit(ClassifierStage(model, self.config, self.splits, self.workers))
        if "localizer" in wanted or "cams" in wanted:
            archive = self._archive(classes)
            if "localizer" in wanted:
                frozen = load_classifier(self.config, self.folder, classes, "best-classification")
                localizer = build_localizer(self.config, frozen)
                self._fit(LocalizerStage(localizer, self.config, self.splits, archive.path, self.workers))
        if "evaluate" in wanted:
            self.workers.progress.enter("evaluate", stage="", step=0)
            evaluate_run(self.config, self.folder, self.workers)

    def _archive(self, classes: int) -> CamArchive:
        classifier = load_classifier(self.config, self.folder, classes, self.config.cams.classifier)
        return ensure_archive(classifier, self.splits.train, self.config, self.workers)

    def _fit(self, stage: Stage) -> None:
        if self.workers.is_main:  # the thresholds in it belong to the weights that may now change
            self.folder.file("validation.json").unlink(missing_ok=True)
        try:
            logged = self.folder.path if self.workers.is_main else None
            with MetricsLog(logged, tensorboard=self.config.log.tensorboard) as metrics:
                Trainer(stage, self.config, self.workers, self.folder, metrics, self.stop).fit()
        finally:
            stage.stream.close()
