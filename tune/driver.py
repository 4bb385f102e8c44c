"""The one process that runs a study: it gives Ray Tune the points, and does what trials cannot do for themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from colocam_dist.errors import ColocamError
from colocam_dist.slurm.commands import outside_of_jobs
from tune.executors.slurm import cancel, note_states
from tune.folder import StudyFolder
from tune.population import end_replaced, points_of_members
from tune.progress import Progress
from tune.ray_session import check_share, ray_session
from tune.running import OpenStudy
from tune.space import BORN, SEED

__all__ = ["run_trials"]

log = logging.getLogger(__name__)

_TOUCH_EVERY = 5.0  # seconds
_ACTOR_FAILURES = 3  # times that Ray starts an actor again which was lost, or whose processes were asked to leave
_SLURM_CONCURRENT = 8


def run_trials(study: OpenStudy, session: Path) -> bool:
    """Do all trials that are not done yet; returns False if it was asked to stop before.

    Args:
        study: to run; its settings are written down.
        session: file that is touched as long as this goes on.
    """
    settings, folder = study.file.study, study.folder
    for former in (folder.leave_path, folder.path / "done.json"):
        former.unlink(missing_ok=True)
    end_replaced(folder)
    known = [record.facts["point"] for record in folder.records("trial")]
    points = [] if settings.search == "tpe" else _in_order(known, study)
    concurrent = settings.concurrent or (_SLURM_CONCURRENT if settings.executor == "slurm" else None)
    cpus, gpus = _machine(study, concurrent)
    with contextlib.ExitStack() as stack:
        if settings.executor == "slurm":
            stack.enter_context(outside_of_jobs())
        stack.enter_context(_background(study, session))
        asked = stack.enter_context(_signals(folder))
        temporary = stack.enter_context(ray_session(folder.path / "ray-token", cpus, gpus))
        total = len(points) or (settings.samples or 0) * len(settings.seeds)
        progress = stack.enter_context(Progress(settings.name, total or None))
        if not asked:
            _tune(study, points, known, progress, temporary, concurrent)
        return not asked


def _in_order(known: list[dict[str, Any]], study: OpenStudy) -> list[dict[str, Any]]:
    """The list of points: those of earlier sessions first, as far as they are still points of the space."""
    wanted = study.space.points()
    names = {*study.space.dimensions, SEED}
    if study.file.study.scheduler.name == "pbt":
        members = [point for point in points_of_members(study.folder) if point.keys() - {BORN} == names]
        return members + [point for point in wanted if point not in known]
    kept = [point for point in known if point.keys() == names and point in wanted]
    return [*kept, *(point for point in wanted if point not in kept)]


def _machine(study: OpenStudy, concurrent: int | None) -> tuple[float, float | None]:
    """CPUs and GPUs that Ray is told about. Actors that only wait for jobs need none, but Ray counts something."""
    settings = study.file.study
    if settings.executor == "slurm":
        return float(concurrent or 1), 0.0
    cores = float(len(os.sched_getaffinity(0)))
    return max(cores, settings.resources.cpus), None if settings.resources.gpus else 0.0


def _tune(
    study: OpenStudy,
    points: list[dict[str, Any]],
    known: list[dict[str, Any]],
    progress: Progress,
    temporary: Path,
    concurrent: int | None,
) -> None:
    import optuna
    from ray import tune as ray_tune

    from tune.search import metric, param_space, scheduler, searcher
    from tune.trial import StudyTrial
    from tune.watching import Watching

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = study.file.study
    share = {"cpu": 1.0} if settings.executor == "slurm" else settings.resources.model_dump(include={"cpus", "gpus"})
    check_share({name.rstrip("s").upper(): amount for name, amount in share.items()})
    resources = {name.rstrip("s"): amount for name, amount in share.items()}
    trainable = ray_tune.with_parameters(StudyTrial, folder=str(study.folder.path), working_folder=str(Path.cwd()))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, resources),
        param_space=param_space(settings, points),
        tune_config=ray_tune.TuneConfig(
            metric=metric(settings),
            mode="max",
            scheduler=scheduler(settings, study.space),
            search_alg=searcher(settings, study.space, known),
            num_samples=(settings.samples or 1) * len(settings.seeds) if settings.search == "tpe" else 1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(temporary / "results"),
            failure_config=ray_tune.FailureConfig(max_failures=_ACTOR_FAILURES),
            callbacks=[Watching(study, progress)],
            verbose=0,
        ),
    )
    tuner.fit()


@contextlib.contextmanager
def _signals(folder: StudyFolder) -> Iterator[list[str]]:
    """Within it, INT and TERM let trials save and leave, and Ray Tune end; gives the signals that came."""
    came: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not came:
            log.warning("%s: the study ends; --resume goes on with it", signal.Signals(number).name)
            folder.leave_path.touch()
            os.kill(os.getpid(), signal.SIGUSR1)  # that one is Ray Tune's
        came.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _background(study: OpenStudy, session: Path) -> Iterator[None]:
    """Within it, the session's file is touched, and SLURM is asked about all jobs, once for all trials."""
    over = threading.Event()
    settings, folder = study.file.study, study.folder

    def touch() -> None:
        while not over.wait(_TOUCH_EVERY):
            with contextlib.suppress(OSError):
                session.touch()

    def ask() -> None:
        settled: set[str] = set()
        last = False
        while not last:
            last = over.wait(settings.ask_slurm_every)  # once more after the end: jobs may have to be cancelled
            try:
                note_states(folder, [*folder.records("trial"), *folder.records("classifier")], settled)
            except (ColocamError, OSError) as error:
                log.warning("%s", error)

    threads = [threading.Thread(target=touch, name="touch-session", daemon=True)]
    if settings.executor == "slurm":
        threads.append(threading.Thread(target=ask, name="ask-slurm", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def cancel_jobs(study: OpenStudy) -> list[str]:
    """Cancel every job of a study that waits or runs; returns them."""
    return cancel([*study.folder.records("trial"), *study.folder.records("classifier")])
