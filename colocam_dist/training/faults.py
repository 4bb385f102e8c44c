"""Faults for tests: ``fault=<kind>@<rank>:<step>:<phase>``, several joined by commas.

A fault strikes when the rank enters the phase: ``data``, ``forward``, ``backward`` or ``optimizer`` of the step,
counted from 1; ``validate``, ``save.gather``, ``save.write``, ``save.seal``, ``save.rename``, ``save.pointer`` or
``save.prune`` after the step (writing is rank 0's business); ``cams`` and ``evaluate`` at step 0. ``localizer.forward``
restricts it to one stage. Each fault strikes once in the life of a run folder, also over restarts. Faults are refused
unless the environment variable COLOCAM_FAULTS is "allowed", so that no setting of a real run sets one off by accident.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from colocam_dist.errors import ConfigError
from colocam_dist.files import write_atomically
from colocam_dist.progress import Position

__all__ = ["Fault", "Faults", "parse_faults"]

KINDS = (
    "kill",
    "segfault",
    "exception",
    "hang",
    "freeze",
    "slow",
    "nan",
    "full_disk",
    "out_of_memory",
    "corrupt",
    "ask",
)
_FORM = re.compile(
    r"(?P<kind>\w+)@(?P<rank>\d+):(?P<step>\d+):(?:(?P<stage>classifier|localizer)\.)?(?P<phase>[a-z.]+)"
)
_SLOW = 0.5  # seconds


@dataclass(frozen=True)
class Fault:
    """One fault: what happens to which rank, when. ``stage`` None = in any."""

    kind: str
    rank: int
    step: int
    stage: str | None
    phase: str

    def __str__(self) -> str:
        return f"{self.kind}@{self.rank}:{self.step}:{self.stage + '.' if self.stage else ''}{self.phase}"


def parse_faults(text: str) -> list[Fault]:
    """Faults of a setting.

    Raises:
        ConfigError: not of the form above, an unknown kind, or faults are not allowed here.
    """
    found = []
    for part in filter(None, text.split(",")):
        match = _FORM.fullmatch(part.strip())
        if match is None or match["kind"] not in KINDS:
            raise ConfigError(
                "not a fault",
                where="fault",
                got=part,
                wanted=f"kind@rank:step:phase with a kind of {', '.join(KINDS)}",
            )
        found.append(Fault(match["kind"], int(match["rank"]), int(match["step"]), match["stage"], match["phase"]))
    if found and os.environ.get("COLOCAM_FAULTS") != "allowed":
        raise ConfigError(
            "faults are for tests only",
            where="fault",
            got=text,
            fix="remove the setting, or set the environment variable COLOCAM_FAULTS=allowed",
        )
    return found


class Faults:
    """The faults of one rank; :meth:`strike` is to be called at every phase that it enters.

    Args:
        faults: of all ranks.
        rank: this one.
        folder: of the run, where faults that have struck are marked.
    """

    def __init__(self, faults: list[Fault], rank: int, folder: Path) -> None:
        self._mine = [fault for fault in faults if fault.rank == rank]
        self._folder = folder

    def strike(self, position: Position) -> str | None:
        """Do what is due here; returns "nan" if whoever computes here has to spoil its result."""
        for fault in self._mine:
            if (fault.phase, fault.step) != (position.phase, position.number) or fault.stage not in (
                None,
                position.stage,
            ):
                continue
            mark = self._folder / "faults" / str(fault)
            if mark.exists():
                continue
            write_atomically(mark, "struck\n")
            self._do(fault)
            if fault.kind == "nan":
                return "nan"
        return None

    def _do(self, fault: Fault) -> None:
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "segfault":
            ctypes.string_at(0)
        elif fault.kind == "exception":
            raise RuntimeError(f"injected: {fault}")
        elif fault.kind == "hang":
            while True:
                time.sleep(1)
        elif fault.kind == "freeze":  # native code that keeps the interpreter's lock: no other thread runs
            ctypes.PyDLL(None).sleep(10**6)
        elif fault.kind == "slow":
            time.sleep(_SLOW)
        elif fault.kind == "full_disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"injected: {fault}")
        elif fault.kind == "out_of_memory":
            raise torch.OutOfMemoryError(f"injected: {fault}")
        elif fault.kind == "ask":  # to stop, as a batch system does
            os.kill(os.getpid(), signal.SIGUSR1)
        elif fault.kind == "corrupt":
            self._corrupt()
            os.kill(os.getpid(), signal.SIGKILL)

    def _corrupt(self) -> None:
        """Flip a bit in the newest checkpoint of the stage that has one."""
        newest = max(self._folder.glob("checkpoints/*/step-*/state.pt"), key=lambda path: path.stat().st_mtime_ns)
        with newest.open("r+b") as file:
            file.seek(newest.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
