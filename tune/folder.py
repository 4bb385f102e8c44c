"""What a study leaves on disk. Everything about its trials is here, and nothing only in Ray's memory: a study that is
resumed reads it and goes on.

::

    studies/<name>/
      study.yaml                resolved settings of the study and of what its runs share
      data.json                 what its shards held when it began
      driver.lock, sessions/    who runs the study; one file for each time it was started or resumed
      records/<id>/             of a trial or a shared classifier, by content hash:
        record.json               what it is; written before anything is started
        attempts.jsonl            each start and each end of its processes on this machine
        log.txt, process.json     their output, and which of them runs
        end.json                  written last: finished, stopped or failed, and why
      trials/<id>/, classifiers/<id>/   the runs themselves
      report.html, trials.csv, study.json, best.yaml
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from colocam_dist.config import Config
from colocam_dist.errors import RunError
from colocam_dist.files import WholeLines, write_atomically
from colocam_dist.runs.folder import what_is_computed

__all__ = ["Record", "StudyFolder", "content_hash", "settings_of_results"]

_LENGTH = 10  # of a hash in hex: 2^40 is enough for some thousand trials
_LOOK_EVERY = 0.2  # seconds


def settings_of_results(config: Config) -> dict[str, Any]:
    """The settings on which the results of a run of a study depend, the numerics of its engine included."""
    engine = {"precision", "zero_stage", "accumulation", "gradient_clipping", "non_finite"}
    if not config.engine.sync_batchnorm:  # named only then, so that earlier studies keep their names
        engine.add("sync_batchnorm")
    return {
        **what_is_computed(config),
        "stages": config.run.stages,
        "fault": config.fault,
        "engine": config.engine.model_dump(mode="json", include=engine),
    }


def content_hash(config: Config, born: str = "") -> str:
    """Name of a run by what it computes: the same for the same settings, wherever and on whatever it works.

    Args:
        config: of the run.
        born: a word of its own, if the settings are not all that matters: a run begins with the weights of another one.
    """
    computed = settings_of_results(config)
    for where in ("folder", "batch"):
        computed["cams"].pop(where)
    text = json.dumps(computed, sort_keys=True) + born
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


class Record:
    """What is known of a trial or of a shared classifier.

    Args:
        study: folder of the study.
        kind: which of the two.
        id: content hash of its run.
    """

    def __init__(self, study: Path, kind: Literal["trial", "classifier"], id: str) -> None:
        self.id = id
        self.kind = kind
        self.path = study / "records" / id
        self.run = study / ("trials" if kind == "trial" else "classifiers") / id
        self.log = self.path / "log.txt"

    def begin(self, facts: dict[str, Any]) -> None:
        """Write down what it is; again if a space that has changed has another name for the same point."""
        if not self.facts_path.exists():
            write_atomically(self.facts_path, json.dumps({"kind": self.kind, "begun": time.time(), **facts}) + "\n")
        elif (known := self.facts).get("point") != facts.get("point"):
            write_atomically(self.facts_path, json.dumps({**known, **facts}) + "\n")

    @property
    def facts_path(self) -> Path:
        """``record.json``."""
        return self.path / "record.json"

    @property
    def end_path(self) -> Path:
        """``end.json``, which is there when it is over."""
        return self.path / "end.json"

    @property
    def facts(self) -> dict[str, Any]:
        """What it is."""
        return json.loads(self.facts_path.read_text())

    @property
    def end(self) -> dict[str, Any] | None:
        """How it ended; None if it has not."""
        try:
            return json.loads(self.end_path.read_text())
        except FileNotFoundError:
            return None

    def finish(self, state: Literal["finished", "stopped", "failed"], **facts: Any) -> None:
        """Write down how it ended; the first word stands."""
        if not self.end_path.exists():
            write_atomically(self.end_path, json.dumps({"state": state, "time": time.time(), **facts}, indent=1) + "\n")

    def note_member(self, member: str) -> None:
        """Note which member of a population does it now."""
        if member:
            write_atomically(self.path / "member", member)

    @property
    def member(self) -> str:
        """Which member of a population does it, or has done it last; "" = it is not known."""
        path = self.path / "member"
        return path.read_text() if path.is_file() else ""

    def forget_failure(self) -> None:
        """Let it be tried again, if it failed."""
        if (self.end or {}).get("state") == "failed":
            self.end_path.unlink()

    def add_attempt(self, event: str, **facts: Any) -> None:
        """Note a start or an end."""
        lines = WholeLines(self.path / "attempts.jsonl")
        try:
            lines.write(json.dumps({"event": event, "time": time.time(), **facts}))
            lines.sync()
        finally:
            lines.close()

    def attempts(self) -> list[dict[str, Any]]:
        """All starts and ends."""
        path = self.path / "attempts.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def rows(self, stage: str, first: int = 1) -> list[dict[str, Any]]:
        """The validations of a stage, by epoch; whole lines of ``metrics.jsonl`` only.

        Args:
            stage: "classifier" or "localizer".
            first: epoch from which on; 0 = with that of the untrained network, whose weights may be the best of a run.
        """
        path = self.run / "metrics.jsonl"
        data = path.read_bytes() if path.is_file() else b""
        found = {}
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            if b'"validation"' not in line:  # long runs have many thousand rows of training, and this is asked often
                continue
            row = json.loads(line)
            if row["stage"] == stage and row["kind"] == "validation" and row["epoch"] >= first:
                found[row["epoch"]] = row  # an epoch that was done again after an interruption has the same figures
        return [found[epoch] for epoch in sorted(found)]

    @property
    def last_sign(self) -> float:
        """When its run has last written something, in seconds since 1970; 0.0 = never."""
        files = (self.run / "metrics.jsonl", self.log)
        return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)

    def claim(self) -> TextIO | None:
        """What must stay open as long as nobody else may start or take over its processes, on any machine.

        It ends with this process. None if another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "lock").open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    @contextmanager
    def lock(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Within it, this process has the claim.

        Args:
            give_up: called while others have it; raises when there is no point in waiting.
        """
        while (claim := self.claim()) is None:
            give_up()
            time.sleep(_LOOK_EVERY)
        with claim:
            yield


class StudyFolder:
    """The folder of a study."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.settings_path = self.path / "study.yaml"

    def trial(self, id: str) -> Record:
        """The record of a trial."""
        return Record(self.path, "trial", id)

    def classifier(self, id: str) -> Record:
        """The record of a shared classifier."""
        return Record(self.path, "classifier", id)

    def records(self, kind: Literal["trial", "classifier"]) -> list[Record]:
        """All of a kind, in the order in which they were begun."""
        found = []
        for path in self.path.glob("records/*/record.json"):
            facts = json.loads(path.read_text())
            if facts["kind"] == kind:
                found.append((facts["begun"], path.parent.name))
        return [Record(self.path, kind, id) for _, id in sorted(found)]

    @contextmanager
    def session(self, facts: dict[str, Any]) -> Iterator[Path]:
        """Within it this process runs the study; gives the file of the session, whose time is that of its last touch.

        Raises:
            RunError: another process runs it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "driver.lock").open("a+") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise RunError(
                    "the study is being run",
                    where=self.path,
                    got=f"by {lock.read().strip() or 'another process'}",
                    fix="wait for it, or end it; then go on with --resume",
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            (self.path / "sessions").mkdir(exist_ok=True)
            file = self.path / "sessions" / f"{len(self.sessions()) + 1:04d}.json"
            write_atomically(file, json.dumps({"began": time.time(), **facts}, indent=1) + "\n")
            yield file
            file.touch()

    @property
    def leave_path(self) -> Path:
        """A file that tells the trials of a session that it ends."""
        return self.path / "leave"

    def sessions(self) -> list[dict[str, Any]]:
        """Facts of each session, oldest first, with its ``seconds``."""
        found = []
        for path in sorted(self.path.glob("sessions/*.json")):
            facts = json.loads(path.read_text())
            found.append({**facts, "seconds": max(0.0, path.stat().st_mtime - facts["began"])})
        return found
