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
from typing import Any

from colocam_dist.config import Config, dump
from colocam_dist.files import write_atomically
from colocam_dist.training.signals import LAUNCHER_PID
from tune.folder import Record

__all__ = ["LocalWork"]

SCRIPT = Path(__file__).parents[2] / "launchers" / "train.py"
_GRACE = 30.0  # seconds in which processes may save and leave
_LOOK_EVERY = 0.1  # seconds
_LAST_LINES = 30  # of the output, for errors


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
        self._note_end()
        for of_former in ("failed.json", "preempted.json"):
            (record.run / of_former).unlink(missing_ok=True)
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
        try:
            write_atomically(record.path / "process.json", json.dumps(facts))
            record.add_attempt("start", pid=self._process.pid)
        except OSError:  # what nobody knows of must not go on
            self.leave()
            raise
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

    def leave(self) -> None:
        """Ask them to save and leave, and wait until they are gone; kill them if they do not leave."""
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

    @property
    def killed(self) -> bool:
        """Whether a signal ended them."""
        return self._process is not None and (self._process.poll() or 0) < 0

    def last_words(self) -> str:
        """The end of their output."""
        log = self._record.log
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:]) if log.is_file() else ""

    def _await_former(self) -> None:
        path = self._record.path / "process.json"
        if not path.is_file():
            return
        former = json.loads(path.read_text())
        if former["host"] != socket.gethostname():
            return
        deadline = time.monotonic() + _GRACE + 10.0  # then it has killed its ranks itself
        while left := _left_of(former):
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_EVERY)

    def _note_end(self) -> None:
        """Note when the former processes gave their last sign, if nobody saw their end."""
        attempts = self._record.attempts()
        if attempts and attempts[-1]["event"] == "start":
            last = max(attempts[-1]["time"], self._record.last_sign)
            self._record.add_attempt("end", pid=attempts[-1]["pid"], time=last)


def _left_of(former: dict[str, Any]) -> list[int]:
    """Processes of an earlier start that live: the supervisor, or, if it was killed, its ranks, which are leaving."""
    now = _started(former["pid"])
    if now is not None:
        return [former["pid"]] if now == former["started"] else []
    mark, found = f"{LAUNCHER_PID}={former['pid']}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _started(pid: int) -> str | None:
    """When a process was started, which tells it from a later one with the same number; None if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
