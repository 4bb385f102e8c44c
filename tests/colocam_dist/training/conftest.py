"""Rank processes without torch, for what starts and watches them."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
with open(folder / f"starts-{rank}", "a") as file:
    file.write(" ".join([os.environ["MASTER_PORT"], *sys.argv[2:]]) + "\\n")
attempt = len((folder / f"starts-{rank}").read_text().splitlines())
def ready():
    (folder / f"ready-{rank}").touch()
def done():
    (folder / "done.json").unlink(missing_ok=True)
    (folder / "done.json").write_text("{}")
def save(step):
    (folder / "checkpoints" / "localizer" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


class FakeRanks:
    """A folder whose ranks run a few lines of Python; ``starts-<rank>`` in it has a line for each of their starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, body: str, *, imports: bool = False) -> list[str]:
        """The command of a rank; with ``imports`` its Python finds installed packages, and starts more slowly."""
        script = self.folder / "rank.py"
        script.write_text(PRELUDE + body)
        return [sys.executable, *([] if imports else ["-S"]), str(script), str(self.folder)]

    def starts(self, rank: int = 0) -> list[list[str]]:
        """Port and further arguments of each start of a rank."""
        return [line.split() for line in (self.folder / f"starts-{rank}").read_text().splitlines()]

    def wait_for(self, *names: str) -> None:
        """Wait until files are in the folder."""
        deadline = time.monotonic() + 20
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline, names
            time.sleep(0.01)

    def signal_when_ready(self, ranks: int, *numbers: int, pause: float = 0.0) -> threading.Thread:
        """A thread that sends signals to this process as soon as all ranks have called ``ready()``."""

        def send() -> None:
            self.wait_for(*(f"ready-{rank}" for rank in range(ranks)))
            for count, number in enumerate(numbers):
                time.sleep(pause if count else 0)
                os.kill(os.getpid(), number)

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    def processes(self) -> list[int]:
        """Processes that have the folder in their command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder).encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
        return found


@pytest.fixture
def fake_ranks(tmp_path: Path) -> FakeRanks:
    """Fake ranks in a folder of their own."""
    return FakeRanks(tmp_path)
