"""Makes the jobs of a run, of a chain of parts, or of an array of runs."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from colocam_dist.config import Config, load
from colocam_dist.errors import ClusterError, ColocamError, ConfigError, RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.slurm.batch import Executor, batch_script, cpus_per_task, executor, ranks_command
from colocam_dist.slurm.checks import check_cluster, check_devices, check_visible, paths_of
from colocam_dist.slurm.commands import outside_of_jobs, slurm
from colocam_dist.slurm.job import TrainJob
from colocam_dist.slurm.record import DONE, Part, SlurmFolder, Submission
from colocam_dist.slurm.snapshot import code_facts, take_snapshot
from colocam_dist.slurm.states import job_states
from colocam_dist.training.preflight import check_run

__all__ = ["Order", "array_configs", "order", "order_again", "scripts", "submit"]

log = logging.getLogger(__name__)


class Order:
    """What is to be submitted.

    Attributes:
        configs: of the runs; several are an array.
        folder: of the submission: that of the run, or of the group of runs.
        submission: what will be written down of it.
        first_part: the first one of its parts that is not done yet.
    """

    def __init__(
        self, configs: Sequence[Config], folder: SlurmFolder, submission: Submission, first_part: int = 0
    ) -> None:
        self.configs = list(configs)
        self.folder = folder
        self.submission = submission
        self.first_part = first_part

    @property
    def part_numbers(self) -> range:
        """Those that are to be queued."""
        return range(self.first_part, len(self.submission.parts))

    def executor(self, part: int, after: str | None = None) -> Executor:
        """What submits a part of it."""
        return executor(
            self.configs[0],
            self.folder,
            part,
            working_folder=self.submission.working_folder,
            tasks=len(self.configs),
            after=after,
        )


def array_configs(path: Path | None, overrides: Sequence[str], arrays: Sequence[str]) -> list[Config]:
    """One configuration for each combination of values, named after them.

    Args:
        path: as for :func:`~colocam_dist.config.load`.
        overrides: likewise.
        arrays: ``section.key=value,value,...``; none = one configuration.

    Raises:
        ConfigError: see :func:`~colocam_dist.config.load`.
    """
    if not arrays:
        return [load(path, overrides)]
    axes = []
    for text in arrays:
        key, equals, values = text.partition("=")
        each = values.split(",")
        if not equals or not all(each) or len(set(each)) < len(each):
            raise ConfigError(
                "not an axis of an array",
                where="--array",
                got=text,
                wanted="section.key=value,value,..., such as run.seed=0,1,2, each value once",
            )
        axes.append([(key, value) for value in each])
    name = load(path, overrides).run.name
    configs = []
    for point in itertools.product(*axes):
        tail = ".".join(f"{key.rpartition('.')[2]}-{re.sub('[^A-Za-z0-9._]+', '-', value)}" for key, value in point)
        configs.append(load(path, [*overrides, *(f"{key}={value}" for key, value in point), f"run.name={name}.{tail}"]))
    return configs


def order(configs: Sequence[Config], name: str, *, chain: bool) -> Order:
    """What would be submitted, after all checks that need no SLURM.

    Args:
        configs: of the runs.
        name: of the run, or of the group of runs.
        chain: one job for each stage, one after another.

    Raises:
        ColocamError: settings, data, weights, or a run that exists.
    """
    first = configs[0]
    for config in configs:
        check_devices(config)
        check_run(config, config.slurm.ranks)
        if config.run.on_exists == "error":
            RunFolder.free(config)
    _check_alike(configs)
    folder = SlurmFolder(first.run.folder / name)
    if folder.exists and first.run.on_exists == "error":
        raise RunError(
            "something of this name was submitted before",
            where=folder.run,
            fix="choose another run.name, go on with: python launchers/submit.py resume RUN, or remove the folder",
        )
    stages = first.run.stages
    parts = [Part(stages)]
    if chain:
        parts = [Part((stage,), f"done-{stage}.json") for stage in stages[:-1]] + [Part(stages[-1:], DONE)]
    submission = Submission(
        runs=tuple(str((config.run.folder / config.run.name).absolute()) for config in configs),
        parts=tuple(parts),
        working_folder=str(Path.cwd()),
        max_requeues=first.slurm.max_requeues,
        max_restarts=first.slurm.max_restarts,
        warning=first.slurm.warning,
    )
    return Order(configs, folder, submission)


def _check_alike(configs: Sequence[Config]) -> None:
    """Tasks of an array have the same resources.

    Raises:
        ConfigError: they were given others.
    """
    if len({(config.slurm.model_dump_json(), cpus_per_task(config)) for config in configs}) > 1:
        raise ConfigError(
            "the runs of an array want different resources",
            where="--array",
            got="other values of slurm.*, or of data.workers without slurm.cpus_per_task",
            fix="submit them one by one",
        )


def order_again(folder: SlurmFolder, overrides: Sequence[str]) -> Order:
    """What is left of a submission; relative paths in it start at its working folder.

    Args:
        folder: of the submission.
        overrides: other settings, as far as runs may have others when they are resumed.

    Raises:
        ColocamError: see :func:`order`; or nothing is left.
    """
    before = folder.read()
    runs = [Path(run) for run in before.runs]
    fixed = [override for override in overrides if override.partition(".")[0].partition("=")[0] == "run"]
    if fixed:
        raise ConfigError(
            "a run that is resumed keeps its name, seed and stages",
            where="resume",
            got=" ".join(fixed),
            fix="leave it out, or submit another run",
        )
    left = [number for number, part in enumerate(before.parts) if not all(part.is_done(run) for run in runs)]
    if not left:
        raise ClusterError("nothing is left to do", where=folder.run, got="all parts are done")
    configs = [load(run / "config.yaml", [*overrides, "run.on_exists=resume"]) for run in runs]
    for config in configs:
        check_devices(config)
        check_run(config, config.slurm.ranks)
    slurm_settings = configs[0].slurm
    submission = dataclasses.replace(
        before,
        max_requeues=slurm_settings.max_requeues,
        max_restarts=slurm_settings.max_restarts,
        warning=slurm_settings.warning,
    )
    return Order(configs, folder, submission, left[0])


def scripts(asked: Order) -> list[str]:
    """The batch script of every part; a later one waits for JOB, the one before it."""
    tasks = len(asked.configs)
    numbers = asked.part_numbers
    made = [asked.executor(number, "JOB" if number > numbers[0] else None) for number in numbers]
    return [batch_script(one, tasks) for one in made]


def submit(asked: Order, *, snapshot: bool = True, look: bool = True) -> list[str]:
    """Check with SLURM, write everything down, queue; returns the jobs of the parts.

    Nothing new stays behind if something is refused.

    Args:
        asked: see :func:`order`.
        snapshot: copy the code; False keeps the copy of an earlier submission.
        look: try from a node whether it sees the paths of the run.

    Raises:
        ClusterError: SLURM is not here or refuses, or nodes do not see the run, or it has jobs that are not over.
        RunError: a run exists, or its folder cannot be written.
    """
    first, folder = asked.configs[0], asked.folder
    with outside_of_jobs():
        log.info("%s", check_cluster(first.slurm, scripts(asked)[0]))
        runs = [Path(run) for run in asked.submission.runs]
        _check_idle([folder, *(SlurmFolder(run) for run in runs)])
        python = ranks_command(first.slurm, asked.submission.working_folder)
        if look and check_visible(first.slurm, folder.run, paths_of(asked.configs, python)):
            log.info("a node sees the paths of the run")
        new = [path for path in {folder.run, *runs} if not path.exists()]
        try:
            for config in asked.configs:
                RunFolder.create(config)
            for run in runs:
                if run != folder.run:
                    SlurmFolder(run).note_group(folder)
            folder.logs.mkdir(parents=True, exist_ok=True)
            submission = asked.submission
            if snapshot or not folder.code.is_dir():
                take_snapshot(folder.code)
                submission = dataclasses.replace(submission, code=code_facts())
            folder.write(submission)
            return _queue(asked)
        except BaseException:
            for path in new:
                shutil.rmtree(path, ignore_errors=True)
            raise


def _check_idle(folders: Sequence[SlurmFolder]) -> None:
    """Whether the jobs of earlier submissions are over.

    Raises:
        ClusterError: one of them waits or runs.
    """
    groups = [folder.group() for folder in folders]
    jobs = [job for folder in (*folders, *filter(None, groups)) for job in folder.all_jobs()]
    active = [state for state in job_states(jobs).values() if state.active]
    if active:
        raise ClusterError(
            "the run has a job that is not over",
            where=folders[0].run,
            got=", ".join(f"job {state.job} {state.state}" for state in active),
            fix="wait for it, or: python launchers/submit.py cancel RUN",
        )


def _queue(asked: Order) -> list[str]:
    jobs: list[str] = []
    try:
        for number in asked.part_numbers:
            made = asked.executor(number, jobs[-1] if jobs else None)
            calls = [TrainJob(str(asked.folder.run), number) for _ in asked.configs]
            if len(calls) == 1:
                job = made.submit(calls[0]).job_id
            else:
                with made.batch():
                    found = [made.submit(call) for call in calls]
                job = found[0].job_id.partition("_")[0]
            jobs.append(job)
            asked.folder.add_job(number, job)
    except BaseException as error:
        for job in jobs:
            with suppress(ColocamError):
                slurm("scancel", job)
        if isinstance(error, FailedJobError | FailedSubmissionError):
            words = str(error).strip().splitlines() or ["no reason is given"]
            said = words[-1] if isinstance(error, FailedJobError) else words[0]  # then submitit's own advice follows
            raise ClusterError("SLURM refuses", where="sbatch", got=said) from None
        raise
    return jobs
