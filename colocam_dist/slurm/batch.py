"""From settings to the batch script: submitit writes it, this says what is in it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit

from colocam_dist.config import Config
from colocam_dist.config.slurm import Slurm
from colocam_dist.slurm.afterwards import REQUEUE
from colocam_dist.slurm.record import SlurmFolder

__all__ = ["Executor", "batch_script", "executor", "ranks_command"]


class Executor(submitit.SlurmExecutor):
    """submitit's, which also writes scripts where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        """Always willing; :func:`colocam_dist.slurm.commands.slurm` says it better if SLURM is absent."""
        return 2


def executor(
    config: Config, folder: SlurmFolder, part: int, *, working_folder: str, tasks: int = 1, after: str | None = None
) -> Executor:
    """What submits a part.

    Args:
        config: with the section ``slurm``.
        folder: of the submission.
        part: which one.
        working_folder: in which the job starts.
        tasks: runs of the array; 1 = no array.
        after: job that must have succeeded before; for arrays, its task of the same number.
    """
    settings = config.slurm
    made = Executor(folder.logs, max_num_timeout=settings.max_requeues, python=ranks_command(settings, working_folder))
    made.update_parameters(
        **_without_none(
            {
                "job_name": folder.run.name,
                "partition": settings.partition,
                "account": settings.account,
                "qos": settings.qos,
                "constraint": settings.constraint,
                "nodes": settings.nodes,
                "ntasks_per_node": settings.ranks_per_node,
                "gpus_per_node": settings.gpus_per_node or None,
                "cpus_per_task": cpus_per_task(config),
                "mem": None if settings.memory_gb is None else f"{round(settings.memory_gb * 1024)}MB",
                "time": settings.minutes,
            }
        ),
        signal_delay_s=settings.warning,
        dependency=None if after is None else f"{'aftercorr' if tasks > 1 else 'afterok'}:{after}",
        setup=_setup(settings, folder),
        srun_args=_srun_arguments(settings, working_folder),
        teardown=_teardown(settings, folder, part, working_folder),
        array_parallelism=settings.array_limit,
        wckey=None,
        additional_parameters=_flags(settings, working_folder, dependent=after is not None),
    )
    return made


def cpus_per_task(config: Config) -> int:
    """CPUs of each rank: its own and those of its data workers, unless set."""
    return config.slurm.cpus_per_task or 1 + config.data.workers


def batch_script(made: Executor, tasks: int = 1) -> str:
    """The text that ``sbatch`` is given."""
    if tasks > 1:
        made.parameters["map_count"] = tasks
    try:
        text: str = made._make_submission_file_text(made._submitit_command_str, "")
    finally:
        made.parameters.pop("map_count", None)
    return text


def ranks_command(settings: Slurm, working_folder: str) -> str:
    """How Python is started on the nodes, as words for a shell; a path in the settings may start at the folder."""
    python = settings.python or ("python" if settings.container else shlex.quote(sys.executable))
    if settings.python is not None and settings.container is None:
        program, *rest = shlex.split(settings.python)
        python = shlex.join([_located(program, working_folder), *rest])
    if settings.container is None or settings.container_runtime == "pyxis":
        return python
    gpus = ["--nv"] if settings.gpus_per_node else []
    image = _located(settings.container, working_folder)
    return f"{shlex.join(['apptainer', 'exec', *gpus, *settings.container_options, image])} {python}"


def _located(name: str, working_folder: str) -> str:
    """The absolute path of a file of that name in the folder; the name itself if there is none."""
    path = Path(working_folder) / name
    return str(path) if path.is_file() else name


def _without_none(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _setup(settings: Slurm, folder: SlurmFolder) -> list[str]:
    """Before the ranks: the site's modules, the code of the submission, and threads that fit the CPUs of a task."""
    variables = {name: shlex.quote(str(value)) for name, value in settings.environment.items()}
    code = {"PYTHONPATH": f"{shlex.quote(str(folder.code))}${{PYTHONPATH:+:$PYTHONPATH}}"}
    ours = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": '"${SLURM_CPUS_PER_TASK:-1}"',
    }
    exports = [*(ours | variables).items(), *code.items()]
    lines = [*settings.setup, *(f"export {name}={value}" for name, value in exports)]
    # From SLURM 22.05 on, srun does not take it from sbatch by itself.
    lines.append('export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"')
    # python -m prefers what lies in its working folder, which may be a checkout with today's code.
    lines.append(f"cd {shlex.quote(str(folder.path))}")
    # Whatever the lines of the site asked for: a failure of srun must not end the script, nor hide what is set here.
    return [*lines, "set +eu", "export SLURM_EXPORT_ENV=ALL"]


def _container_arguments(settings: Slurm, working_folder: str) -> list[str]:
    if settings.container is None or settings.container_runtime != "pyxis":
        return []
    return [f"--container-image={_located(settings.container, working_folder)}", *settings.container_options]


def _srun_arguments(settings: Slurm, working_folder: str) -> list[str]:
    # Without it the other ranks of a lost one would hold their nodes until the end of their time.
    return ["--kill-on-bad-exit=1", *_container_arguments(settings, working_folder), *settings.srun]


def _teardown(settings: Slurm, folder: SlurmFolder, part: int, working_folder: str) -> list[str]:
    """After the ranks: whether the job goes on. SLURM is asked by the script, as it may be missing in a container."""
    python = ranks_command(settings, working_folder)
    container = _container_arguments(settings, working_folder)
    if container:  # the host need not have Python
        python = f"{shlex.join(['srun', '--nodes=1', '--ntasks=1', '--overlap', *container])} {python}"
    return [
        "code=$?",
        # The number of an array's last task is that of the array as well, and would mean all of its tasks.
        "id=$SLURM_JOB_ID",
        'if [ -n "$SLURM_ARRAY_TASK_ID" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi',
        # A controller that is restarted or moved may be silent for minutes; one that answers and refuses is believed.
        "try() {",
        "  for pause in 5 10 20 60 60 60 60 60 60 60 60 60 60 0; do",
        '    "$@" && return',
        '    if [ "$pause" = 60 ]; then case "$(scontrol ping 2> /dev/null)" in *"is UP"*) "$@"; return ;; esac; fi',
        '    sleep "$pause"',
        "  done",
        "  return 1",
        "}",
        'job=$(try scontrol show job --oneliner "$id")',
        f"{python} -m colocam_dist.slurm.afterwards {shlex.quote(str(folder.run))} --part {part} "
        '--code "$code" --id "$id" --job "$job"',
        "verdict=$?",
        f'if [ "$verdict" -eq {REQUEUE} ]; then try scontrol requeue "$id" || echo "it could not be requeued"; fi',
        'exit "$verdict"',
        "",
    ]


def _flags(settings: Slurm, working_folder: str, *, dependent: bool) -> dict[str, Any]:
    flags: dict[str, Any] = {"chdir": working_folder, "requeue": True}
    if dependent:  # else it would wait forever for a part that failed
        flags["kill-on-invalid-dep"] = "yes"
    flags |= {name.replace("-", "_"): value for name, value in settings.sbatch.items()}
    return {name: value for name, value in flags.items() if value is not False}
