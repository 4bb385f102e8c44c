"""Ray as a study needs it: quiet, private, and gone when the study is."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from colocam_dist.errors import ClusterError, RankLostError
from colocam_dist.files import write_atomically

__all__ = ["NODES", "OBJECT_STORE", "SETTINGS", "check_share", "ray_session", "write_token"]

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # trials without GPUs of their own keep what the user has set
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths start where the study was started
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",  # after that nodes follow a head that was killed; else 60
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a trial's error is told by the study
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables; the study has its own
    "RAY_DEDUP_LOGS": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs have their own logs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}
"""Environment of every process of Ray; read when it is imported, so :func:`ray_session` imports it."""

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else the addresses of a single node are public ones
_PREFIX = "ray-study-"
_CODE = Path(__file__).parents[1]
NODES = "COLOCAM_STUDY_NODES"
"""Environment variable: how many nodes the Ray that is joined will have."""

_JOIN_TIME = 120.0  # seconds in which they must be there
OBJECT_STORE = 80 * 2**20  # bytes; trials exchange nothing through it


def write_token(path: Path) -> None:
    """A new key without which nobody can speak to this Ray, although it listens on all interfaces."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


@contextmanager
def ray_session(token: Path, cpus: float, gpus: float | None) -> Iterator[Path]:
    """Ray within it; gives a folder for its files, which goes with it.

    With RAY_ADDRESS set it joins that Ray, whose key RAY_AUTH_TOKEN_PATH must name, and leaves it running.

    Args:
        token: file for the key.
        cpus: that Ray may give to trials.
        gpus: likewise; None = as many as it finds.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.update(SETTINGS)
    if address is None:
        os.environ.update(_LOOPBACK | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
        write_token(token)
    temporary = _new_folder(token.with_name("ray-folder"))
    import ray

    options = {} if address else _own(temporary, cpus, gpus)
    with nullcontext() if address is None else _working_in(_CODE):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options)
    try:
        if address is not None:
            _await_nodes(int(os.environ.get(NODES, "1")))
        with _guard() if address is None else nullcontext():
            yield temporary
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Have another working folder within it: the one in which Ray is joined is where its workers look for modules."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def check_share(share: Mapping[str, float]) -> None:
    """Raise if no node has what one trial is given: Ray would wait for it without an end or a word.

    Args:
        share: by Ray's names, "CPU" and "GPU".

    Raises:
        ClusterError: none has.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0.0) >= amount for name, amount in share.items()) for node in nodes):
        raise ClusterError(
            "no machine of the study has what one trial is given",
            where="study.resources",
            got=", ".join(f"{amount:g} {name}" for name, amount in share.items()),
            wanted="at most "
            + " or ".join(", ".join(f"{node.get(name, 0.0):g} {name}" for name in share) for node in nodes),
            fix="lower study.resources.gpus (0 = none) or study.resources.cpus",
        )


def _new_folder(note: Path) -> Path:
    """A folder with a short path, as those of sockets end at 107 characters; that of a killed driver is removed."""
    if note.is_file() and Path(note.read_text()).name.startswith(_PREFIX):
        shutil.rmtree(note.read_text(), ignore_errors=True)
    made = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")
    write_atomically(note, made)
    return Path(made)


def _await_nodes(wanted: int) -> None:
    import ray

    deadline = time.monotonic() + _JOIN_TIME
    while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
        if time.monotonic() > deadline:
            raise RankLostError("nodes of the allocation have not joined Ray", got=alive, wanted=wanted)
        time.sleep(0.5)


@contextmanager
def _guard() -> Iterator[None]:
    """Within it, Ray's agents end with this process even if it is killed; by themselves they take a minute."""
    raylets = _children(psutil.Process(), "raylet")
    pids = " ".join(str(agent.pid) for raylet in raylets for agent in _children(raylet, "ray::"))
    # The shell waits for the end of a pipe whose other end is held by this process only.
    with subprocess.Popen(
        ["sh", "-c", f"cat > /dev/null; kill -9 {pids} 2> /dev/null"], stdin=subprocess.PIPE, start_new_session=True
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


def _children(process: psutil.Process, name: str) -> list[psutil.Process]:
    """Children whose name starts with this one; children that end meanwhile are left out."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in process.children():
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith(name):
                    found.append(child)
    return found


def _own(temporary: Path, cpus: float, gpus: float | None) -> dict[str, object]:
    return {
        "num_cpus": max(1, -int(-cpus // 1)),
        "num_gpus": gpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
        "_temp_dir": str(temporary),
    }
