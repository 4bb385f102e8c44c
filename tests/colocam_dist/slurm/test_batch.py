"""The batch script: what is in it, and what it does when its ranks have ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import Config, load
from colocam_dist.slurm.afterwards import REQUEUE
from colocam_dist.slurm.batch import batch_script, cpus_per_task, executor, ranks_command
from colocam_dist.slurm.record import SlurmFolder, attempts_of

MARK = '{"stages": ["classifier", "cams", "localizer", "evaluate"]}'


RECORDED = Path(__file__).with_name("batch_script.sh")
FULL = [
    *("data.workers=3", "slurm.partition=gpu", "slurm.account=vision", "slurm.qos=high", "slurm.constraint=a100&ib"),
    *("slurm.nodes=2", "slurm.gpus_per_node=4", "slurm.memory_gb=240.5", "slurm.time=8:00:00", "slurm.warning=180"),
    *("slurm.python=/opt/env/bin/python", "slurm.setup=[module load cuda, ulimit -n 65536]"),
    *("slurm.environment={NCCL_DEBUG: INFO, DATA: a folder, OMP_NUM_THREADS: 2}", "slurm.srun=[--cpu-bind=verbose]"),
    "slurm.sbatch={reservation: night, exclusive: true, hold: false, mail_user: a@b.org}",
]


def config(*overrides: str) -> Config:
    return load(None, ["data.shards=here", *overrides])


def script(*overrides: str, run: Path = Path("/runs/full"), tasks: int = 1, **more: Any) -> str:
    given = {"part": 0, "working_folder": "/home/me/a project", **more}
    return batch_script(executor(config(*overrides), SlurmFolder(run), tasks=tasks, **given), tasks)


def test_the_script_is_the_recorded_one() -> None:
    text = script(*FULL, part=1, after="41")
    if os.environ.get("COLOCAM_RECORD") == "1":
        RECORDED.write_text(text)
    assert text == RECORDED.read_text(), (
        f"the batch script has changed; if that is meant: COLOCAM_RECORD=1 python -m pytest {Path(__file__).name}, "
        f"and read what git diff says of {RECORDED.name}"
    )


def flags(text: str) -> dict[str, str]:
    found = [line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert len({name for name, _, _ in found}) == len(found), "a flag is there twice"
    return {name: value for name, _, value in found}


def command(text: str) -> str:
    (found,) = [line for line in text.splitlines() if "submitit.core._submit" in line]
    return found


def test_what_is_not_set_is_left_to_the_cluster() -> None:
    assert flags(script(run=Path("/runs/a"), working_folder="/home/me")) == {
        "chdir": "/home/me",
        "cpus-per-task": "3",
        "error": "/runs/a/slurm/jobs/%j_0_log.err",
        "job-name": "a",
        "nodes": "1",
        "ntasks-per-node": "1",
        "open-mode": "append",
        "output": "/runs/a/slurm/jobs/%j_0_log.out",
        "requeue": "",
        "signal": "USR2@120",
        "time": "60",
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["slurm.time=0-1:00:01"], {"time": "61"}),
        (["slurm.memory_gb=0.5"], {"mem": "512MB"}),
        (["slurm.memory_gb=64"], {"mem": "65536MB"}),
        (["slurm.gpus_per_node=4", "slurm.tasks_per_node=2"], {"gpus-per-node": "4", "ntasks-per-node": "2"}),
        (["slurm.sbatch={gres: 'gpu:a100:2', signal: B:USR1@9}"], {"gres": "gpu:a100:2", "signal": "B:USR1@9"}),
        (["slurm.sbatch={cpus-per-task: 8, mail-user: me}"], {"cpus-per-task": "8", "mail-user": "me"}),
    ],
)
def test_settings_become_flags(settings: list[str], expected: dict[str, str]) -> None:
    assert expected.items() <= flags(script(*settings)).items()


@pytest.mark.parametrize(
    ("settings", "cpus"), [([], 3), (["data.workers=0"], 1), (["slurm.cpus_per_task=8", "data.workers=2"], 8)]
)
def test_each_rank_has_a_cpu_and_its_workers_have_theirs(settings: list[str], cpus: int) -> None:
    assert cpus_per_task(config(*settings)) == cpus
    assert flags(script(*settings))["cpus-per-task"] == str(cpus)


def test_an_array_has_tasks_logs_of_each_and_waits_task_by_task() -> None:
    made = executor(
        config("slurm.array_limit=2"), SlurmFolder(Path("/runs/a")), 1, working_folder="/", tasks=3, after="41"
    )
    array = {
        "array": "0-2%2",
        "dependency": "aftercorr:41",
        "kill-on-invalid-dep": "yes",
        "output": "/runs/a/slurm/jobs/%A_%a_0_log.out",
        "error": "/runs/a/slurm/jobs/%A_%a_0_log.err",
    }
    text = batch_script(made, 3)
    assert array.items() <= flags(text).items()
    assert "--output /runs/a/slurm/jobs/%A_%a_%t_log.out" in command(text)
    assert "array" not in flags(batch_script(made)), "a script does not change the next one"
    assert flags(script(tasks=1, after="41"))["dependency"] == "afterok:41"


def lines_of_python(text: str) -> tuple[str, str]:
    """What runs the ranks, after srun's own flags, and what decides afterwards."""
    (after,) = [line for line in text.splitlines() if "colocam_dist.slurm.afterwards" in line]
    return command(text).partition(" --kill-on-bad-exit=1 ")[2], after.partition(" -m ")[0]


@pytest.mark.parametrize(
    ("settings", "ranks", "decides"),
    [
        (["slurm.python=conda run python"], "conda run python -u -m", "conda run python"),
        (
            ["slurm.container=image.sif"],
            "apptainer exec image.sif python -u -m",
            "apptainer exec image.sif python",
        ),
        (
            ["slurm.container=my image.sif", "slurm.gpus_per_node=1", "slurm.container_options=[--bind, /data]"],
            "apptainer exec --nv --bind /data 'my image.sif' python -u -m",
            "apptainer exec --nv --bind /data 'my image.sif' python",
        ),
        (
            ["slurm.container=image.sif", "slurm.python=/opt/python"],
            "apptainer exec image.sif /opt/python -u -m",
            "apptainer exec image.sif /opt/python",
        ),
        (
            [
                *("slurm.container=org/image:1", "slurm.container_runtime=pyxis", "slurm.gpus_per_node=1"),
                *("slurm.container_options=[--container-mounts=/data]", "slurm.srun=[--mpi=none]"),
            ],
            "--container-image=org/image:1 --container-mounts=/data --mpi=none python -u -m",
            "srun --nodes=1 --ntasks=1 --overlap --container-image=org/image:1 --container-mounts=/data python",
        ),
    ],
)
def test_containers_hold_the_ranks_and_the_decision(settings: list[str], ranks: str, decides: str) -> None:
    in_ranks, in_decision = lines_of_python(script(*settings))
    assert in_ranks.startswith(ranks + " submitit.core._submit ")
    assert in_decision == decides


def test_python_is_the_one_that_submits() -> None:
    assert ranks_command(config().slurm, "/") == shlex.quote(sys.executable)
    assert lines_of_python(script())[1] == shlex.quote(sys.executable)


JOB = "JobId=7 JobName=a b JobState=RUNNING Restarts=0 RunTime=00:00:10 TimeLimit=00:01:00 StdErr=/runs/it's $HOME.err"


def run_script(
    fake_slurm: Any,
    run: Path,
    *overrides: str,
    ranks: str = "exit 0",
    scontrol: str = '[ "$1" = requeue ] || cat "$here/job"',
    working_folder: Path | None = None,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run the script of a job on a cluster whose srun is given; the job is number 7."""
    fake_slurm.add("srun", ranks)
    fake_slurm.set("job", JOB)
    fake_slurm.add("scontrol", scontrol)
    SlurmFolder(run).path.mkdir(parents=True, exist_ok=True)
    path = run.parent / "job.sh"
    path.write_text(script(*overrides, run=run))
    return subprocess.run(
        ["/bin/bash", str(path)],
        cwd=working_folder,
        env=os.environ | {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "5", **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "verdict", "requeued"),
    [(0, 0, False), (85, 85, True), (137, 85, True), (137, 137, False), (2, 2, False), (0, 1, False), (85, 1, False)],
)
def test_the_job_is_requeued_if_it_was_decided_so_and_else_ends_with_the_code(
    code: int, verdict: int, requeued: bool, fake_slurm: Any, tmp_path: Path
) -> None:
    run = tmp_path / "it's a run"
    python = fake_slurm.add("python", f"exit {verdict}")
    done = run_script(fake_slurm, run, f"slurm.python={python}", ranks=f"exit {code}")
    assert (done.returncode, done.stderr) == (verdict, "")
    decision = ["-m", "colocam_dist.slurm.afterwards", str(run), "--part", "0", "--code", str(code)]
    assert fake_slurm.calls("python") == [[*decision, "--id", "7", "--job", JOB]]
    asked = [["show", "job", "--oneliner", "7"]]
    assert fake_slurm.calls("scontrol") == ([*asked, ["requeue", "7"]] if requeued else asked)


def test_only_the_task_of_an_array_is_asked_about_and_requeued(fake_slurm: Any, tmp_path: Path) -> None:
    python = fake_slurm.add("python", f"exit {REQUEUE}")
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}  # the last task, whose number is the array's
    run_script(fake_slurm, tmp_path / "a", f"slurm.python={python}", **task)
    assert fake_slurm.calls("scontrol") == [["show", "job", "--oneliner", "7_3"], ["requeue", "7_3"]]
    (call,) = fake_slurm.calls("python")
    assert call[call.index("--id") + 1] == "7_3"


@pytest.mark.parametrize(
    ("ping", "silent", "requeued", "pauses"),
    [
        ("is DOWN", 7, True, ["5", "10", "20", "60", "60", "60", "60"]),
        ("is DOWN", 99, False, ["5", "10", "20", *["60"] * 10, "0"]),
        ("is UP", 99, False, ["5", "10", "20"]),  # it answers, and refuses
    ],
)
def test_a_controller_that_is_down_for_minutes_is_waited_for(
    ping: str, silent: int, requeued: bool, pauses: list[str], fake_slurm: Any, tmp_path: Path
) -> None:
    python = fake_slurm.add("python", f"exit {REQUEUE}")
    fake_slurm.add("sleep")
    fake_slurm.set("controller", f"Slurmctld(primary) at c1 {ping}\n")
    fails = (
        'case "$1" in show) cat "$here/job";; ping) cat "$here/controller";;'
        f' *) echo >> "$here/tries"; [ $(wc -l < "$here/tries") -gt {silent} ];; esac'
    )
    done = run_script(fake_slurm, tmp_path / "a", f"slurm.python={python}", scontrol=fails)
    assert done.returncode == REQUEUE
    assert ("it could not be requeued" in done.stdout) is not requeued
    assert [call[0] for call in fake_slurm.calls("sleep")] == pauses
    tries = [call for call in fake_slurm.calls("scontrol") if call[0] == "requeue"]
    assert len(tries) == {7: 8, 99: 14}[silent] if ping == "is DOWN" else 5


def test_ranks_have_the_environment_that_was_asked_for(fake_slurm: Any, tmp_path: Path) -> None:
    settings = (
        "slurm.environment={DATA: a $HOME folder, OMP_NUM_THREADS: 2, PYTHONPATH: /mine}",
        "slurm.setup=[export FROM_SETUP=yes]",
        f"slurm.python={fake_slurm.add('python')}",
    )
    run_script(fake_slurm, tmp_path / "a", *settings, ranks='env > "$here/environment"')
    found = dict(line.split("=", 1) for line in fake_slurm.read("environment").splitlines())
    assert {
        "DATA": "a $HOME folder",
        "FROM_SETUP": "yes",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": f"{tmp_path}/a/slurm/code:/mine",
        "PYTHONUNBUFFERED": "1",
        "SRUN_CPUS_PER_TASK": "5",
        "SUBMITIT_EXECUTOR": "slurm",
    }.items() <= found.items()


def test_threads_are_as_many_as_cpus(fake_slurm: Any, tmp_path: Path) -> None:
    python = f"slurm.python={fake_slurm.add('python')}"
    run_script(
        fake_slurm, tmp_path / "a", python, ranks='echo "$OMP_NUM_THREADS" > "$here/threads"', PYTHONPATH="/site"
    )
    assert fake_slurm.read("threads") == "5\n"


def test_the_real_decision_is_made_and_written_down(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder], tmp_path: Path
) -> None:
    run = submitted().run
    done = run_script(fake_slurm, run, ranks=f"exit {REQUEUE}")
    assert (done.returncode, done.stderr) == (REQUEUE, "time limit; the job is requeued\n")
    assert fake_slurm.calls("scontrol")[-1] == ["requeue", "7"]
    (run / "done.json").write_text(MARK)
    assert run_script(fake_slurm, run).returncode == 0
    assert [(row["code"], row["reason"]) for row in attempts_of(run)] == [(85, "time limit"), (0, "done")]


def decoy(folder: Path, code: int) -> None:
    """A package of our name whose decision is always the same."""
    module = folder / "colocam_dist/slurm/afterwards.py"
    module.parent.mkdir(parents=True)
    for package in (module.parent, module.parents[1]):
        (package / "__init__.py").touch()
    module.write_text(f"raise SystemExit({code})\n")


def test_the_code_is_that_of_the_submission_even_if_the_job_starts_in_a_checkout(
    fake_slurm: Any, tmp_path: Path
) -> None:
    run, checkout = tmp_path / "a", tmp_path / "checkout"
    decoy(SlurmFolder(run).code, 7)
    decoy(checkout, 99)
    settings = f"slurm.environment={{PYTHONPATH: {checkout}}}"
    assert run_script(fake_slurm, run, settings, working_folder=checkout).returncode == 7
