"""A run as processes of this machine, by the same command that a user would give."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from colocam_dist.config import Config, dump
from colocam_dist.files import write_atomically
from colocam_dist.training.signals import LAUNCHER_PID
from tune.folder import Record

__all__ = ["LocalWork"]

SCRIPT = Path(__file__).parents[2] / "launchers" / "train.py"
_GRACE = 30.0  # seconds in which processes may save and leave
_LOOK_EVERY = 0.1  # seconds


class LocalWork:
    """``launchers/train.py --ranks N --max-restarts K``, which ends with the process that started it.

    Args:
        record: of the run.
        ranks: processes.
        restarts: new starts of them after failures.
    """

    def __init__(self, record: Record, ranks: int, restarts: int) -> None:
        self._record = record
        self._ranks = ranks
        self._restarts = restarts
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    def begin(self, config: Config) -> None:
        """Start the processes; those of an earlier session, which are about to leave, are waited for."""
        record = self._record
        self._await_former()
        settings = record.path / "settings.yaml"
        write_atomically(settings, dump(config))
        command = [sys.executable, str(SCRIPT), "--config", str(settings), "run.on_exists=resume"]
        command += ["--ranks", str(self._ranks), "--max-restarts", str(self._restarts), "--grace", str(_GRACE)]
        # Neither the few threads of Ray's own processes, nor the place in a SLURM step that the whole study has.
        strange = ("OMP_NUM_THREADS", "SLURM_", "PMI", "RANK", "LOCAL_RANK", "WORLD_SIZE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        environment[LAUNCHER_PID] = str(os.getpid())
        self._asked = False
        with record.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        facts = {"host": socket.gethostname(), "pid": self._process.pid, "started": _started(self._process.pid)}
        write_atomically(record.path / "process.json", json.dumps(facts))
        record.add_attempt("start", pid=self._process.pid)
        threading.Thread(target=self._watch, args=(self._process,), name="watch-trial", daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Note the end of the processes; ask them to leave when the study has decided that the trial is over."""
        while process.poll() is None:
            if self._record.end_path.exists():
                self._ask(process)
            time.sleep(_LOOK_EVERY)
        with contextlib.suppress(OSError):  # a full disk: the time of the end is not worth the trial
            self._record.add_attempt("end", pid=process.pid, code=process.returncode)

    def living(self) -> bool:
        """Whether the processes have not ended."""
        return self._process is not None and self._process.poll() is None

    def end(self) -> None:
        """Ask them to save and leave; kill them if they do not."""
        if self._process is None:
            return
        self._ask(self._process)
        try:
            self._process.wait(_GRACE + 10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its ranks watch it, and leave
            self._process.wait()

    def _ask(self, process: subprocess.Popen[bytes]) -> None:
        if not self._asked:  # asked again, it would leave without saving
            self._asked = True
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def _await_former(self) -> None:
        path = self._record.path / "process.json"
        if not path.is_file():
            return
        former = json.loads(path.read_text())
        pid = former["pid"]
        if former["host"] != socket.gethostname() or pid == getattr(self._process, "pid", None):
            return
        deadline = time.monotonic() + _GRACE
        while _started(pid) == former["started"]:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_EVERY)


def _started(pid: int) -> str | None:
    """When a process was started, which tells it from a later one with the same number; None if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
