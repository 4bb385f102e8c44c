"""Requests to stop: remembered by a handler, obeyed by the training loop at the end of a step.

A handler only notes that it was called. The note rides on a reduction that every step does anyway, so that all ranks
learn of it in the same step, save together and leave with the exit code that means "preempted, resume me".

Launchers do not help: on one node, ``deepspeed`` dies of TERM, USR1 and USR2 without telling its workers, which go on
as orphans; ``torchrun`` forwards TERM only; nobody passes on a KILL. So every rank also watches the launchers above it,
our supervisor among them, and takes the end of one for a request to stop (Linux).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["LAUNCHER_PID", "StopRequests", "launchers_above", "watch_launchers"]

LAUNCHER_PID = "COLOCAM_LAUNCHER_PID"
"""Environment variable in which a process tells those that it starts its id: they leave when it ends."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_LAUNCHERS = (b"deepspeed", b"torchrun", b"torch.distributed.run", b"torch/distributed/run")
_LOOK_EVERY = 0.25  # seconds


class StopRequests:
    """Notes requests to stop while it is entered; outside of the main thread it only watches launchers.

    Attributes:
        reason: what asked first; None as long as nothing did.
        since: monotonic seconds of that moment.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.since = 0.0
        self._before: dict[int, Any] = {}
        self._ended = threading.Event()

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        watch_launchers(self.ask, self._ended)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, reason: str) -> None:
        """Note a request; the first one counts."""
        if self.reason is None:
            self.reason, self.since = reason, time.monotonic()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)


def watch_launchers(ask: Callable[[str], None], over: threading.Event) -> None:
    """Call `ask` with a reason when a launcher above this process ends, unless it is over before."""
    above = launchers_above()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY):
            gone = [name for pid, name in above.items() if not _lives(pid)]
            if gone:
                ask(f"end of {gone[0]}")
                return

    if above:
        threading.Thread(target=watch, name="watch-launchers", daemon=True).start()


def launchers_above() -> dict[int, str]:
    """Processes above this one that launch ranks, by pid, with their names; empty where /proc is not.

    The supervisor counts even if it has ended: then it did so before this rank looked for the first time.
    """
    found = {}
    supervisor = os.environ.get(LAUNCHER_PID, "")
    if supervisor.isdecimal() and Path("/proc/self").exists():
        found[int(supervisor)] = "supervisor"
    pid = os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        # Only the program and the module that it runs: a shell may have the same words in a command.
        named = [name for name in _LAUNCHERS if any(name in word for word in words[:4])]
        if not named:
            break
        found[pid] = named[0].decode()
        pid = parent
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
