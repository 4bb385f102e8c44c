"""What can be found wrong with a submission before anything is queued."""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.config.locations import scheme_of
from colocam_dist.config.slurm import Slurm
from colocam_dist.errors import ClusterError, ConfigError, RunError
from colocam_dist.slurm.afterwards import seconds_of
from colocam_dist.slurm.commands import fields_of, slurm

__all__ = ["check_cluster", "check_devices", "check_visible", "paths_of"]

log = logging.getLogger(__name__)

_PROBE_SECONDS = 5.0


def check_devices(config: Config) -> None:
    """Whether the ranks can have the devices that they want.

    Raises:
        ConfigError: they cannot.
    """
    settings, device = config.slurm, config.engine.device
    if device == "cuda" and settings.gpus_per_node == 0:
        raise ConfigError(
            "the run wants GPUs and the job has none",
            where="slurm.gpus_per_node",
            got="0, with engine.device=cuda",
            fix="set slurm.gpus_per_node, or engine.device=cpu",
        )
    asked = f"{settings.sbatch} {settings.srun}"  # other ways to ask for GPUs: gres, gpus, gpus-per-task
    if config.engine.precision != "fp32" and device == "auto" and not settings.gpus_per_node and "gpu" not in asked:
        raise ConfigError(
            "the run's precision wants GPUs and the job has none",
            where="slurm.gpus_per_node",
            got=f"0, with engine.precision={config.engine.precision}",
            fix="set slurm.gpus_per_node, or engine.precision=fp32",
        )
    if device != "cpu" and settings.gpus_per_node and settings.ranks_per_node > settings.gpus_per_node:
        raise ConfigError(
            "there are more ranks than GPUs on a node",
            where="slurm.tasks_per_node",
            got=f"{settings.ranks_per_node}, with slurm.gpus_per_node={settings.gpus_per_node}",
            wanted="one rank for each GPU",
            fix="leave slurm.tasks_per_node out, or set engine.device=cpu",
        )


def check_cluster(settings: Slurm, script: str) -> str:
    """Ask SLURM whether it would take the job; returns what it says.

    Raises:
        ClusterError: SLURM is not here, or refuses; or the time is longer than the partition allows, which many
            clusters do not refuse, but leave the job waiting forever.
    """
    slurm("sbatch", "--version")
    _check_time(settings)
    with tempfile.NamedTemporaryFile("w", prefix="colocam-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            return slurm(
                "sbatch", "--test-only", file.name, where="the job that would be submitted", errors=True
            ).strip()
        except ClusterError as error:
            raise ClusterError(
                error.what,
                where=f"partition {settings.partition or '(default)'}",
                got=error.got,
                wanted=_offer(settings.partition),
                fix=error.fix,
            ) from None


def paths_of(configs: Iterable[Config], python: str) -> list[Path]:
    """What the ranks must be able to see beside the run's folder: data, weights, CAMs, and Python with its container.

    Args:
        configs: of the runs.
        python: words for a shell that start it, see :func:`~colocam_dist.slurm.batch.ranks_command`.
    """
    found: dict[Path, None] = {}
    for config in configs:
        places = [config.data.shards, *(part.shards for part in config.data.mix)]
        found |= dict.fromkeys(Path(place).absolute() for place in places if scheme_of(place) is None)
        for path in (config.classifier.from_run, config.cams.folder):
            if path is not None and path.exists():
                found[path.absolute()] = None
        if config.model.weights not in ("imagenet", "none"):
            found[Path(config.model.weights).expanduser().absolute()] = None
    program, *words = map(Path, shlex.split(python))
    if program.is_absolute():
        found[program] = None
    found |= dict.fromkeys(word for word in words if word.is_absolute() and word.is_file())
    return list(found)


def check_visible(settings: Slurm, run: Path, paths: Iterable[Path]) -> bool:
    """Look from a node, if one is free at once, whether it sees the paths; whether that could be done.

    Args:
        settings: where the job will be.
        run: absolute folder of the run, which need not exist yet.
        paths: what the job needs beside it.

    Raises:
        ClusterError: it does not see one of them, or what is written where the run will be.
        RunError: the place of the run cannot be written to.
    """
    place = [f"--partition={settings.partition}"] if settings.partition else []
    free = slurm("sinfo", "--noheader", "--states=idle,mixed", "--format=%D", *place).split()
    if not any(number.isdecimal() and int(number) for number in free):
        log.info("no node is free, so that it was not tried whether nodes see the paths of the run")
        return False
    for flag in ("account", "qos", "constraint"):
        value = getattr(settings, flag)
        place += [f"--{flag}={value}"] if value else []
    above = next(parent for parent in (run, *run.parents) if parent.is_dir())
    try:
        handle, name = tempfile.mkstemp(dir=above, prefix=".colocam-look-")
    except OSError as error:
        raise RunError(
            "the place of the run cannot be written to",
            where=above,
            got=error.strerror,
            fix="set run.folder to a folder you may write to",
        ) from None
    os.close(handle)
    try:
        return _look(settings, place, [Path(name), *paths])
    finally:
        Path(name).unlink(missing_ok=True)


def _look(settings: Slurm, place: list[str], paths: list[Path]) -> bool:
    look = 'for path; do [ -e "$path" ] || echo "missing $path on $(uname -n)"; done'
    limits = ["--immediate=3", "--time=1", "--nodes=1", "--ntasks=1", "--chdir=/", "--job-name=colocam-look", "--quiet"]
    try:
        seen = slurm("srun", *limits, *place, "sh", "-c", look, "sh", *map(str, paths), timeout=_PROBE_SECONDS)
    except ClusterError as error:
        log.info("it could not be tried whether nodes see the paths of the run: %s", error.got)
        return False
    missing = [line.removeprefix("missing ") for line in seen.splitlines() if line.startswith("missing ")]
    if missing:
        raise ClusterError(
            "the nodes do not see what the run needs",
            where=settings.partition or "the default partition",
            got="missing: " + "; ".join(missing),
            wanted="a file system that this machine and the nodes share",
            fix="put run.folder, data.shards and the Python environment on a shared file system; or set slurm.python "
            "or slurm.container",
        )
    return True


def _check_time(settings: Slurm) -> None:
    partitions = [fields_of(line) for line in slurm("scontrol", "show", "partition", "--oneliner").splitlines()]
    for partition in partitions:
        name = partition.get("PartitionName")
        if name != settings.partition and not (settings.partition is None and partition.get("Default") == "YES"):
            continue
        if settings.minutes * 60 > seconds_of(partition.get("MaxTime", "UNLIMITED")):
            raise ClusterError(
                "the time is longer than the partition allows",
                where=f"slurm.time, partition {name}",
                got=settings.time,
                wanted=f"{partition['MaxTime']} at most",
                fix="lower slurm.time; the run is requeued at its end and goes on",
            )


def _offer(partition: str | None) -> str | None:
    """The partitions, or what the nodes of one have."""
    try:
        table = slurm("sinfo", "--noheader", "--format=%R|%D|%c|%m|%G|%l").split()
    except ClusterError:
        return None
    rows = [line.split("|") for line in table if line.count("|") == 5]
    named = [row for row in rows if row[0] == partition] or rows
    each = (
        f"{name}: {nodes} nodes of {cpus} CPUs, {memory} MB, {gpus}, {time} at most"
        for name, nodes, cpus, memory, gpus, time in named
    )
    return "; ".join(each).replace("(null)", "no GPUs") or None
