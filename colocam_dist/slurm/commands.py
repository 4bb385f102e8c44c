"""SLURM's own commands, and their errors in SLURM's own words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from colocam_dist.errors import ClusterError

__all__ = ["fields_of", "outside_of_jobs", "slurm"]

_HINTS = (
    (r"account\b", "set slurm.account; sacctmgr show associations user=$USER lists yours"),
    (r"partition", "sinfo lists the partitions; set slurm.partition"),
    (r"qos", "set slurm.qos; sacctmgr show qos lists them"),
    (r"time limit", "lower slurm.time; the run is requeued at its end and goes on"),
    (r"feature", "sinfo -o '%N %f' lists the features of nodes; set slurm.constraint"),
    (r"gres|gpu", "sinfo -o '%N %G' lists the GPUs of nodes; set slurm.gpus_per_node"),
    (
        r"node configuration|node count|more processors|can not be satisfied",
        "ask for less: slurm.nodes, slurm.gpus_per_node, "
        "slurm.tasks_per_node, slurm.cpus_per_task, slurm.memory_gb; sinfo -o '%P %D %c %m %G' lists what there is",
    ),
    (
        r"contact slurm controller|DNS SRV|slurm_load|zero bytes",
        "is the controller up (scontrol ping), and is this a machine of the cluster (SLURM_CONF)?",
    ),
    (r"munge|credential|authentication", "authentication failed: is munge running here?"),
)


def slurm(program: str, *arguments: str, timeout: float = 60.0, where: str | None = None, errors: bool = False) -> str:
    """What one of SLURM's commands prints.

    Args:
        program: ``sbatch``, ``squeue``, ...
        arguments: for it.
        timeout: seconds after which it is given up.
        where: what is asked for, for the error; the command itself if it is not given.
        errors: also what it prints as if it were an error, such as ``sbatch`` its estimate.

    Raises:
        ClusterError: it is not there, does not answer, or refuses; with its own words and what to do.
    """
    if shutil.which(program) is None:
        raise ClusterError(
            "SLURM is not here",
            where=where,
            got=f"no {program} on the PATH",
            fix="submit on a login node of the cluster (perhaps: module load slurm); without SLURM use "
            "python launchers/train.py --ranks N",
        )
    command = [program, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            "SLURM does not answer", where=" ".join(command), got=f"nothing for {timeout:g} s", fix="try again later"
        ) from None
    if done.returncode != 0:
        words = " / ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise ClusterError(
            "SLURM refuses",
            where=where or " ".join(command),
            got=words or f"exit code {done.returncode}",
            fix=next((hint for pattern, hint in _HINTS if re.search(pattern, words, re.IGNORECASE)), None),
        )
    return done.stdout + done.stderr if errors else done.stdout


def fields_of(line: str) -> dict[str, str]:
    """The fields of a line of ``scontrol show --oneliner``; a value goes on until the next name."""
    found = re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", line)
    return {name: value.strip() for name, value in found}


def _of_the_job(name: str) -> bool:
    return name != "SLURM_CONF" and name.startswith(("SLURM_", "SBATCH_CPU_BIND", "SBATCH_MEM_BIND"))


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Within it, this process looks as if it had not been started inside of a SLURM job.

    Else a job that is submitted from inside of another one takes over that one's places, bindings and limits.
    """
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {name: value for name, value in os.environ.items() if inside and _of_the_job(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
