"""A study inside of one SLURM job: Ray on all of its nodes, the driver on the first, trials on whatever is free.

One task on each node starts Ray's processes there and ends them, by pid, when the study is over. When the job is asked
to stop, trials save and leave, and the job is requeued and goes on with the study, by the same rules as a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from colocam_dist.config import Config
from colocam_dist.console import run_console
from colocam_dist.errors import ClusterError, RankLostError
from colocam_dist.files import write_atomically
from colocam_dist.slurm.batch import batch_script, executor, ranks_command
from colocam_dist.slurm.checks import check_cluster, check_visible, paths_of
from colocam_dist.slurm.commands import outside_of_jobs
from colocam_dist.slurm.record import Part, SlurmFolder, Submission, add_attempt
from colocam_dist.slurm.snapshot import code_facts, take_snapshot
from colocam_dist.slurm.states import job_states
from colocam_dist.training.signals import StopRequests
from tune.ray_session import NODES, OBJECT_STORE, SETTINGS, write_token
from tune.running import OpenStudy

__all__ = ["PART", "StudyJob", "inside", "submit_study"]

PART = Part(("study",))
_INSIDE = "COLOCAM_STUDY_ALLOCATION"
_START_TIME = 180.0  # seconds in which all nodes must have joined
_END_TIME = 5.0  # seconds that Ray's processes may take to end
_LOOK_EVERY = 0.2  # seconds
# Like -m, which would look for modules in the working folder first: that may be a checkout with today's code.
_RUN_STUDY = "import runpy, sys; del sys.path[0]; runpy.run_module('tune.study', run_name='__main__', alter_sys=True)"


def inside() -> bool:
    """Whether this process is the driver of a study in its own allocation."""
    return os.environ.get(_INSIDE) == "1"


def submit_study(study: OpenStudy, arguments: Sequence[str]) -> str:
    """Queue the job that does the whole study; returns it.

    Args:
        study: to do.
        arguments: of the command line that the driver will be given.

    Raises:
        ClusterError: SLURM is not here or refuses, or the study has a job that is not over.
    """
    config = _one_task_a_node(study.file.config())
    folder = SlurmFolder(study.folder.path)
    place = str(Path.cwd())
    submission = Submission(
        runs=(str(folder.run),),
        parts=(PART,),
        working_folder=place,
        max_requeues=config.slurm.max_requeues,
        max_restarts=config.slurm.max_restarts,
        warning=config.slurm.warning,
    )
    with outside_of_jobs():
        made = executor(config, folder, 0, working_folder=place)
        check_cluster(config.slurm, batch_script(made))
        active = [
            state.job for state in job_states(folder.all_jobs() if folder.exists else []).values() if state.active
        ]
        if active:
            raise ClusterError("the study has a job that is not over", where=folder.run, got=", ".join(active))
        check_visible(config.slurm, folder.run, paths_of([config], ranks_command(config.slurm, place)))
        for former in (PART.marker, "failed.json"):
            (folder.run / former).unlink(missing_ok=True)
        folder.logs.mkdir(parents=True, exist_ok=True)
        take_snapshot(folder.code, packages=("colocam_dist", "launchers", "tune"))
        folder.write(Submission(**{**vars(submission), "code": code_facts()}))
        job = made.submit(StudyJob(str(folder.run), tuple(arguments))).job_id
        folder.add_job(0, job)
    return job


def _one_task_a_node(config: Config) -> Config:
    return config.model_copy(update={"slurm": config.slurm.model_copy(update={"tasks_per_node": 1})})


class StudyJob:
    """Called by submitit in the task of each node.

    Args:
        folder: of the study.
        arguments: of its driver.
    """

    def __init__(self, folder: str, arguments: tuple[str, ...]) -> None:
        self.folder = folder
        self.arguments = arguments

    def checkpoint(self) -> Any:
        """What submitit is to run after a signal that came before this object was called: the same again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> str:
        """Do the study, or lend this node to it; returns its folder."""
        with StopRequests() as stop:
            os.chdir(SlurmFolder(Path(self.folder)).read().working_folder)
            try:
                run_console(lambda: self._work(stop))
            except SystemExit as end:
                if end.code != 0:
                    raise
        return self.folder

    def _work(self, stop: StopRequests) -> int:
        meeting = _Meeting(Path(self.folder))
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return _lend_node(meeting)
        if PART.is_done(Path(self.folder)):
            return 0
        add_attempt(Path(self.folder), {"event": "start", "part": PART.name, "job": os.environ.get("SLURM_JOB_ID", "")})
        write_token(meeting.token)
        try:
            with _ray_node(meeting, ["--head", f"--port={meeting.port}", "--include-dashboard=false"]):
                _await_port(meeting.ip, meeting.port)
                write_atomically(meeting.address_file, json.dumps({"address": meeting.address}))
                return self._drive(meeting, stop)
        finally:
            meeting.over.touch()

    def _drive(self, meeting: _Meeting, stop: StopRequests) -> int:
        begun = (Path(self.folder) / "study.yaml").is_file()
        words = driver_words(self.arguments, begun=begun, requeued=os.environ.get("SLURM_RESTART_COUNT", "0") != "0")
        environment = os.environ | SETTINGS | meeting.environment | {_INSIDE: "1", "RAY_ADDRESS": meeting.address}
        driver = subprocess.Popen([sys.executable, "-c", _RUN_STUDY, *words], env=environment)
        asked = False
        while driver.poll() is None:
            if stop.reason is not None and not asked:
                asked = True
                driver.send_signal(signal.SIGTERM)
            time.sleep(_LOOK_EVERY)
        return driver.returncode if driver.returncode >= 0 else 128 - driver.returncode  # as shells count signals


def driver_words(arguments: Sequence[str], *, begun: bool, requeued: bool) -> list[str]:
    """The command line of the driver in a job: that of the submission, but what is there already is resumed."""
    # Failures are forgotten once: a trial that always fails would be done again after every requeue.
    words = [word for word in arguments if not (requeued and word == "--retry-failed")]
    return [*words, "--resume"] if begun and "--resume" not in words else words


class _Meeting:
    """How the tasks of one start of the job find each other.

    Args:
        study: its folder, which all nodes see.
    """

    def __init__(self, study: Path) -> None:
        job, start = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
        folder = study / "slurm"
        self.address_file = folder / f"ray-{job}-{start}.json"
        self.over = folder / f"ray-{job}-{start}.over"
        self.token = folder / f"ray-{job}-{start}.token"
        self.log = folder / "jobs" / f"ray-{job}-{start}-{socket.gethostname()}.log"
        self.port = 6400 + (int(job) + int(start)) % 1000  # another one if the job had to start again
        self.nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_JOB_NUM_NODES", "1")))
        self.ip = socket.gethostbyname(socket.gethostname())
        self.address = f"{self.ip}:{self.port}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            NODES: str(self.nodes),
        }


def _await_port(host: str, port: int) -> None:
    deadline = time.monotonic() + _START_TIME
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RankLostError("Ray does not answer", where=f"{host}:{port}", got=error.strerror) from None
            time.sleep(_LOOK_EVERY)


def _lend_node(meeting: _Meeting) -> int:
    """Start Ray on this node, and end it when the study is over."""
    deadline = time.monotonic() + _START_TIME
    while not meeting.address_file.is_file():
        if meeting.over.exists():
            return 0
        if time.monotonic() > deadline:
            raise RankLostError("the first node has not started Ray", where=meeting.address_file)
        time.sleep(_LOOK_EVERY)
    head = json.loads(meeting.address_file.read_text())["address"]
    with _ray_node(meeting, [f"--address={head}"]) as ray:
        while not meeting.over.exists() and ray.poll() is None:
            time.sleep(_LOOK_EVERY)
    return 0


@contextlib.contextmanager
def _ray_node(meeting: _Meeting, options: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Ray's processes on this node within it; ended by pid, because ``ray stop`` would end those of others as well."""
    cpus, gpus = os.environ.get("SLURM_CPUS_PER_TASK", "1"), os.environ.get("SLURM_GPUS_ON_NODE", "0")
    # In /tmp, which is short and of this node: paths of sockets end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-study-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *options]
        command += [f"--node-ip-address={meeting.ip}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        command += [f"--temp-dir={temporary}", f"--object-store-memory={OBJECT_STORE}", "--include-log-monitor=false"]
        environment = os.environ | SETTINGS | meeting.environment
        with meeting.log.open("ab") as log:
            ray = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield ray
        finally:
            _end(ray)


def _end(ray: subprocess.Popen[bytes]) -> None:
    """End Ray's processes, agents included, which by themselves would take a minute after the head has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(ray.pid).children(recursive=True)
        ray.terminate()
        _, left = psutil.wait_procs(below, timeout=_END_TIME)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    try:
        ray.wait(_END_TIME)
    except subprocess.TimeoutExpired:
        ray.kill()
        ray.wait()
