"""The rank processes of one attempt: started together, told about signals, and none left when it is over.

Each rank has a session of its own. So ^C in a terminal reaches the supervisor alone, which passes it on as a TERM that
lets the ranks save, instead of ending each of them on the spot; and a rank can be killed together with the processes
that it started (data-loader workers), which are never sent anything else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from colocam_dist.console import PREEMPTED
from colocam_dist.training.signals import LAUNCHER_PID

__all__ = ["Ended", "RankProcesses", "SignalInbox"]

log = logging.getLogger(__name__)

_TERM_TO_KILL = 0.5  # seconds between TERM and KILL for ranks that do not notice the end of another one
_LEFTOVERS = 0.5  # seconds that processes may take to end with the rank that started them
_LOOK_EVERY = 0.05  # seconds
_URGENT = (signal.SIGINT, signal.SIGTERM)
_ONE_REQUEST = 1.0  # seconds; `timeout` and terminals under a wrapper deliver one request twice


class SignalInbox:
    """Notes TERM, USR1, USR2 and INT while it is entered, for whoever passes them on.

    Attributes:
        first: the first signal that came; None as long as none did.
        insists: INT or TERM came again, later than one request could have been delivered twice.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.insists = False
        self._urgent_since: float | None = None
        self._new: list[signal.Signals] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalInbox:
        numbers = (*_URGENT, signal.SIGUSR1, signal.SIGUSR2)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take(self) -> list[signal.Signals]:
        """What came since the last call."""
        new, self._new = self._new, []
        return new

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._new.append(signal.Signals(number))
        self.first = self.first or signal.Signals(number)
        if number in _URGENT:
            now = time.monotonic()
            self._urgent_since = self._urgent_since or now
            self.insists = self.insists or now - self._urgent_since >= _ONE_REQUEST


@dataclass(frozen=True)
class Ended:
    """How a rank ended.

    Attributes:
        rank: which.
        code: its exit code, or minus the number of the signal that killed it.
        by_itself: False if it was ended because of another rank, or because it took too long.
        at: monotonic seconds.
    """

    rank: int
    code: int
    by_itself: bool
    at: float


class RankProcesses:
    """Starts the ranks when it is entered; when it is left, none of them lives.

    Their temporary files are in a folder that goes with them: a rank that is killed cannot remove its own.

    Args:
        command: of a rank; its place comes in the environment.
        ranks: how many.
    """

    def __init__(self, command: Sequence[str], ranks: int) -> None:
        self._command = list(command)
        self._ranks = ranks
        self._living: dict[int, subprocess.Popen[bytes]] = {}
        self._groups: list[int] = []  # of ranks that have ended
        self._ended: list[Ended] = []
        self._term_at = self._kill_at = math.inf
        self._being_ended = False
        self._temporary: str | None = None

    def __enter__(self) -> RankProcesses:
        self._temporary = tempfile.mkdtemp(prefix="ranks-")  # short: sockets in it must have short paths
        common = {
            "WORLD_SIZE": str(self._ranks),
            "LOCAL_WORLD_SIZE": str(self._ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            LAUNCHER_PID: str(os.getpid()),
            "TMPDIR": self._temporary,
        }
        try:
            for rank in range(self._ranks):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                self._living[rank] = subprocess.Popen(
                    self._command, env=os.environ | common | place, start_new_session=True
                )
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def wait(self, inbox: SignalInbox, grace: float, notice: float) -> list[Ended]:
        """How the ranks ended, in that order; returns when all did, and passes signals on to them until then.

        Args:
            inbox: signals for the ranks; if it insists, they are killed.
            grace: seconds until ranks are killed that do not leave although they were asked to, or although another
                one has left in peace.
            notice: seconds in which ranks may find out and report by themselves that one of them failed, before they
                are ended.
        """
        while True:
            self._pass_on(inbox, grace)
            self._look(grace, notice)
            if not self._living:
                return self._ended
            now = time.monotonic()
            if now >= self._term_at:
                self._being_ended, self._term_at = True, math.inf
                self._send(signal.SIGTERM)
            if now >= self._kill_at:
                log.warning("killed: %s", ", ".join(f"rank {rank}" for rank in self._living))
                self._being_ended, self._kill_at = True, math.inf
                self._send(signal.SIGKILL)
            time.sleep(_LOOK_EVERY)

    def _pass_on(self, inbox: SignalInbox, grace: float) -> None:
        for number in inbox.take():
            self._send(signal.SIGTERM if number == signal.SIGINT else number)
            if self._limit(grace):
                log.warning(
                    "%s: the ranks have %g s to save and leave; INT or TERM again kills them", number.name, grace
                )
        if inbox.insists and not self._being_ended:
            self._kill_at = 0.0

    def _look(self, grace: float, notice: float) -> None:
        """Note which ranks have ended, and set a limit for the others."""
        for rank, process in list(self._living.items()):
            code = process.poll()
            if code is None:
                continue
            del self._living[rank]
            self._groups.append(process.pid)
            self._ended.append(Ended(rank, code, not self._being_ended, time.monotonic()))
            if code in (0, PREEMPTED):
                self._limit(grace)
            elif self._limit(notice + _TERM_TO_KILL):
                self._term_at = time.monotonic() + notice

    def _limit(self, seconds: float) -> bool:
        """Let the ranks live so long at most; whether that is less than before."""
        before, self._kill_at = self._kill_at, min(self._kill_at, time.monotonic() + seconds)
        return self._kill_at < before

    def _send(self, number: signal.Signals) -> None:
        for process in self._living.values():
            process.send_signal(number)

    def _clear(self) -> None:
        """Kill ranks that live, and what the ranks have left behind if it does not end with them.

        It is given a moment, because Python's resource tracker is there to remove named semaphores of the dead.
        """
        self._send(signal.SIGKILL)
        self._groups += [process.pid for process in self._living.values()]
        for process in self._living.values():
            process.wait()
        deadline = time.monotonic() + _LEFTOVERS
        while (left := _living(self._groups)) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        for group in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _living(groups: Sequence[int]) -> list[int]:
    """The process groups with a member that has not ended (zombies have, and a container may keep them for seconds)."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.add(int(group))
    return [group for group in groups if group in found]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
