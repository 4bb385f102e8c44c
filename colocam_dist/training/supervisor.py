"""Starts the ranks of a run on this machine, and starts them again when one fails.

After a failure all ranks are ended and started anew with ``run.on_exists=resume``. Not after an error of the user, not
when the run was asked to stop, and not when attempts come to nothing in the same way again and again. Signals reach the
ranks, and no process survives this one by more than its last checkpoint: ranks watch the supervisor as well.

Nothing here imports torch, so the supervisor is up at once and stays small.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from colocam_dist.config import CommandLine, Config
from colocam_dist.config.command_line import Supervision
from colocam_dist.console import OUT_OF_MEMORY, PREEMPTED, RANK_LOST
from colocam_dist.errors import ConfigError
from colocam_dist.files import sync_folder
from colocam_dist.training.batches import ranks_per_window, stage_batch, trained_stages
from colocam_dist.training.rank_processes import Ended, RankProcesses, SignalInbox
from colocam_dist.training.signals import watch_launchers

__all__ = ["Supervisor", "accumulations_left", "supervise"]

log = logging.getLogger(__name__)

FRUITLESS = 3
"""Attempts in a row without a new checkpoint that fail in the same way, after which no more are made."""

_NOTICE = 1.5  # seconds in which ranks may report that another one failed, before the next attempt
_LAST_NOTICE = 20.0  # the same if there is no next one: nobody waits, and failed.json should say what they know
_USER_ERROR = 2
_ASKED_TO = (PREEMPTED, *(-number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)))
_MEANINGS = {PREEMPTED: "asked to stop", RANK_LOST: "lost another rank, or hung", OUT_OF_MEMORY: "too little memory"}


def supervise(command: CommandLine, config: Config, script: str) -> int:
    """Run ``script`` as the command line wants it; returns the exit code.

    Args:
        command: with its supervision.
        config: the settings, loaded from the same command line.
        script: what each rank runs, with the same settings.

    Raises:
        ConfigError: numbers out of range, or this process is itself a rank of another launcher.
    """
    wanted = command.supervision or Supervision()
    _check(wanted)
    file = [] if command.config is None else ["--config", str(command.config)]
    halve = config.engine.on_out_of_memory == "halve"
    supervisor = Supervisor(
        [sys.executable, script, *file, *command.overrides],
        config.run.folder / config.run.name,
        wanted,
        accumulations_left(config, wanted.ranks) if halve else [],
    )
    return supervisor.run()


def accumulations_left(config: Config, ranks: int) -> list[int]:
    """The values that ``engine.accumulation`` can still be doubled to, as long as each step's windows divide."""
    together = {stage: ranks_per_window(config, stage) for stage in trained_stages(config)}
    windows = [(stage_batch(config, stage, size)[0], ranks // size) for stage, size in together.items()]
    found: list[int] = []
    accumulation = 2 * config.engine.accumulation
    while windows and all(number % (groups * accumulation) == 0 for number, groups in windows):
        found.append(accumulation)
        accumulation *= 2
    return found


class Supervisor:
    """Runs the ranks until they are done or there is no point in going on.

    Args:
        command: of a rank; later attempts add settings at its end.
        folder: of the run; each restart adds a line to ``restarts.jsonl`` there.
        wanted: how many ranks and restarts, and how patiently.
        accumulations: values of ``engine.accumulation`` to go on with, one after another, when memory is too little.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, wanted: Supervision, accumulations: Sequence[int] = ()
    ) -> None:
        self._command = list(command)
        self._folder = folder
        self._wanted = wanted
        self._accumulations = list(accumulations)
        self._attempt = 1
        self._restarts = 0
        self._fruitless: list[int] = []  # codes of the last attempts in a row that made no progress in the same way

    def run(self) -> int:
        """Start ranks until the run is done or cannot go on; returns the exit code, 0 = ``done.json`` was written."""
        done_before = _stamps(self._folder, "done.json")
        failure: _Failure | None = None
        with SignalInbox() as inbox, _as_long_as_its_launcher():
            while True:
                saved_before = self._saved()
                with RankProcesses(self._command, self._wanted.ranks) as processes:
                    if failure is not None:
                        self._write_down(failure)
                    last = self._restarts == self._wanted.max_restarts
                    ended = processes.wait(inbox, self._wanted.grace, _LAST_NOTICE if last else _NOTICE)
                failure = _Failure.of(ended)
                if failure.rank is None and _stamps(self._folder, "done.json") - done_before:
                    return 0
                if inbox.first is not None:
                    return PREEMPTED if failure.code in _ASKED_TO else failure.exit_code
                if not self._goes_on(failure, progress=bool(self._saved() - saved_before)):
                    return failure.exit_code
                if self._attempt == 1:
                    self._command.append("run.on_exists=resume")
                self._attempt += 1

    def _goes_on(self, failure: _Failure, *, progress: bool) -> bool:
        """Decide whether to start the ranks again; says why, or why not."""
        if failure.code in (_USER_ERROR, PREEMPTED):
            if failure.code == _USER_ERROR and failure.rank != 0:
                log.warning("%s", failure)  # of settings that no rank can use, rank 0 speaks for all
            return False
        if failure.code == OUT_OF_MEMORY:
            if not self._accumulations:
                log.warning("%s; smaller micro-batches were not asked for, or there are none", failure)
                return False
            accumulation = self._accumulations.pop(0)
            log.warning("%s; the micro-batches are halved: engine.accumulation=%d", failure, accumulation)
            self._command.append(f"engine.accumulation={accumulation}")
            self._fruitless.clear()
            return True
        if progress or failure.code not in self._fruitless:
            self._fruitless.clear()
        if not progress:
            self._fruitless.append(failure.code)
        if self._restarts == self._wanted.max_restarts:
            log.warning("%s; no restarts are left of %d", failure, self._restarts)
            return False
        if len(self._fruitless) == FRUITLESS:
            log.warning(
                "%s, for the %dth time without a new checkpoint, so that restarts do not help", failure, FRUITLESS
            )
            return False
        self._restarts += 1
        log.warning("%s; restart %d of %d", failure, self._restarts, self._wanted.max_restarts)
        return True

    def _saved(self) -> set[tuple[str, int]]:
        return _stamps(self._folder, "checkpoints/*/step-*", "checkpoints/*/latest.json")

    def _write_down(self, failure: _Failure) -> None:
        """Add a line about the attempt that has begun to ``restarts.jsonl``; whole lines only, and on the disk."""
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "attempt": self._attempt,
            "restart": self._restarts,
            "cause": str(failure),
            "rank": failure.rank,
            "code": failure.code,
            "seconds_down": round(time.monotonic() - failure.at, 3),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / "restarts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, (json.dumps(row) + "\n").encode())
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_folder(self._folder)
        except OSError as error:
            log.warning("restarts.jsonl cannot be written: %s", error.strerror)


@contextmanager
def _as_long_as_its_launcher() -> Iterator[None]:
    """Within it, the end of what started the supervisor is like a TERM."""
    over = threading.Event()

    def ask(reason: str) -> None:
        log.warning("%s: the run is to save and leave", reason)
        os.kill(os.getpid(), signal.SIGTERM)

    watch_launchers(ask, over)
    try:
        yield
    finally:
        over.set()


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed: the rank that did so first, None if none did; its code as in :class:`Ended`."""

    rank: int | None
    code: int
    at: float

    @classmethod
    def of(cls, ended: Sequence[Ended]) -> _Failure:
        failed = [one for one in ended if one.code != 0]
        if not failed:
            return cls(None, 1, ended[-1].at)
        first = min(failed, key=_blame)
        return cls(first.rank, first.code, min(one.at for one in failed))

    @property
    def exit_code(self) -> int:
        """As a shell has it."""
        return self.code if self.code > 0 else 128 - self.code

    def __str__(self) -> str:
        if self.rank is None:
            return "all ranks ended without an error, but also without done.json"
        if self.code < 0:
            return f"rank {self.rank} was killed by {_name(-self.code)}"
        meaning = f", {_MEANINGS[self.code]}" if self.code in _MEANINGS else ""
        return f"rank {self.rank} ended with exit code {self.code}{meaning}"


def _blame(one: Ended) -> tuple[bool, int]:
    """Smallest for the cause: among equals the first, before ranks that only lost it or were ended."""
    return not one.by_itself, {_USER_ERROR: 0, OUT_OF_MEMORY: 0, RANK_LOST: 2}.get(one.code, 1)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stamps(folder: Path, *patterns: str) -> set[tuple[str, int]]:
    """Files and their times. They are compared with each other only: other machines' clocks may be wrong."""
    found = set()
    for pattern in patterns:
        for path in folder.glob(pattern):
            try:
                found.add((str(path), path.stat().st_mtime_ns))
            except FileNotFoundError:  # removed by a rank that is just being killed
                continue
    return found


def _check(wanted: Supervision) -> None:
    for option, number, least in (
        ("--ranks", wanted.ranks, 1),
        ("--max-restarts", wanted.max_restarts, 0),
        ("--grace", wanted.grace, 0),
    ):
        if not number >= least:
            raise ConfigError("number out of range", where=option, got=number, wanted=f"{least} or more")
    step = "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if "RANK" in os.environ or step:
        raise ConfigError(
            "another launcher has started this process as one of its ranks",
            where="--ranks, --max-restarts",
            got="environment variable " + ("SLURM_STEP_NUM_TASKS" if step else "RANK"),
            wanted="either that launcher or these options",
            fix="use python launchers/train.py --ranks N without deepspeed, torchrun and srun; or torchrun's own "
            "--max-restarts with run.on_exists=resume; or let SLURM requeue the job",
        )
