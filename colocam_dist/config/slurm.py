"""Where and how a SLURM cluster runs the job; read by ``launchers/submit.py``, of no effect on what a run computes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from colocam_dist.config.section import Positive, Section

__all__ = ["Slurm", "minutes_of"]

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def minutes_of(time: str) -> int:
    """Minutes of a time as SLURM writes it, rounded up.

    Args:
        time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes" or
            "days-hours:minutes:seconds".

    Raises:
        ValueError: it is none of these, or no time at all.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError("not a time; wanted minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    first, second, third = (int(match[name] or 0) for name in ("first", "second", "third"))
    if match["days"] is not None:
        seconds = ((int(match["days"]) * 24 + first) * 60 + second) * 60 + third
    elif match["third"] is not None:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if seconds == 0:
        raise ValueError("the time is zero")
    return -(-seconds // 60)


def _time(value: object) -> object:
    """A number of minutes as text; text only if it is a time."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        minutes_of(value)
    return value


Time = Annotated[str, BeforeValidator(_time)]


class Slurm(Section):
    """One job: ``nodes`` x ``tasks_per_node`` processes (ranks), each started by ``srun``."""

    partition: str | None = None  # None, also below: the cluster's default
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: Positive = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    tasks_per_node: Positive | None = None  # None: one for each GPU, or one if there are none
    cpus_per_task: Positive | None = None  # None: as many as data.workers, and one for the rank itself
    memory_gb: Annotated[float, Field(gt=0.0)] | None = None  # on each node
    time: Time = "60"  # minutes, hours:minutes:seconds or days-hours:minutes:seconds, after which a job is requeued
    warning: Annotated[int, Field(ge=1, le=3600)] = 120  # seconds before the end of the time in which the run may save
    max_requeues: Annotated[int, Field(ge=0)] = 100  # in all, whoever asked for them
    max_restarts: Annotated[int, Field(ge=0)] = 3  # of these, after a failure of the run itself
    array_limit: Positive = 256  # array tasks that run at the same time
    python: str | None = None  # None: the one that submits; else the command on the nodes
    setup: tuple[str, ...] = ()  # shell lines before the ranks start, such as "module load cuda"
    environment: dict[str, str | int] = Field(default_factory=dict)  # variables for the ranks
    container: str | None = None  # image in which the ranks run
    container_runtime: Literal["apptainer", "pyxis"] = "apptainer"
    container_options: tuple[str, ...] = ()  # for apptainer exec, or further --container-... of srun
    sbatch: dict[str, str | int | float | bool] = Field(default_factory=dict)  # more flags: {reservation: night}
    srun: tuple[str, ...] = ()  # further flags, for example ["--cpu-bind=verbose"]

    @model_validator(mode="after")
    def _time_to_work(self) -> Slurm:
        if self.minutes * 60 <= 2 * self.warning:
            raise ValueError(
                f"slurm.time ({self.time}) leaves no time to work: it must be more than twice slurm.warning "
                f"({self.warning} s)"
            )
        return self

    @property
    def minutes(self) -> int:
        """The time limit."""
        return minutes_of(self.time)

    @property
    def ranks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.ranks_per_node
