"""A SLURM of small shell scripts that note how they were called, and folders of submissions."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.slurm.record import Part, SlurmFolder, Submission

SBATCH = """
case "$1" in
--version) echo "slurm-wlm 22.05.8"; exit ;;
--test-only)
  cp "$2" "$here/tested"
  echo "sbatch: Job 9 to start at 2026-11-25T15:40:37 using 2 processors on nodes vn1 in partition main" >&2
  exit ;;
esac
env | grep "^SLURM_" > "$here/environment"
number=$(($(cat "$here/number") + 1))
if [ "$number" -gt "$(cat "$here/last")" ]; then
  echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
  exit 1
fi
echo "$number" > "$here/number"
echo "Submitted batch job $number"
"""
SINFO = """
for word; do
  if [ "$word" = --format=%D ]; then cat "$here/free"; exit; fi
done
echo "main|2|4|1000|gpu:2|1:00:00"
echo "long|1|8|2000|(null)|infinite"
"""
SCONTROL = """
[ "$2" = partition ] || exit 1
echo "PartitionName=main AllowGroups=ALL Default=YES QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0"
echo "PartitionName=long AllowGroups=ALL Default=NO QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0"
"""
SRUN = """
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""


class FakeSlurm:
    """Commands that stand alone on the PATH; their shell lines find the folder as $here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()

    def add(self, program: str, body: str = "") -> Path:
        """Add or replace a command."""
        path = self.bin / program
        head = f"#!/bin/sh\nPATH=/usr/bin:/bin\nhere={shlex.quote(str(self.folder))}\n"
        note = f'printf \'%s\\037\' {program} "$@" >> "$here/calls"\nprintf \'\\036\' >> "$here/calls"\n'
        path.write_text(f"{head}{note}{body}\n")
        path.chmod(0o755)
        return path

    def remove(self, program: str) -> None:
        """Take a command away."""
        (self.bin / program).unlink()

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of each call of a command so far."""
        path = self.folder / "calls"
        calls = [call.split("\037")[:-1] for call in path.read_text().split("\036")[:-1]] if path.exists() else []
        return [words for name, *words in calls if name == program]

    def cluster(self) -> None:
        """Commands of a cluster that takes all that it is given; its first job is 101."""
        bodies = {"sbatch": SBATCH, "sinfo": SINFO, "scontrol": SCONTROL, "srun": SRUN, "scancel": ""}
        for program, body in bodies.items():
            self.add(program, body)
        self.queue()
        self.set("number", "100")
        self.set("last", "999")
        self.set("free", "2")

    def queue(self, *lines: str) -> None:
        """What squeue says: job|state|reason|nodes|elapsed|limit|start."""
        self.set("queue", "".join(f"{line}\n" for line in lines))
        self.add("squeue", 'cat "$here/queue"')

    def set(self, name: str, content: str) -> None:
        """Write a file that a command reads."""
        (self.folder / name).write_text(content)

    def read(self, name: str) -> str:
        """Read a file that a command wrote."""
        return (self.folder / name).read_text()


@pytest.fixture
def fake_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """No SLURM at first, and nothing else on the PATH."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("PATH", str(fake.bin))
    return fake


@pytest.fixture
def submitted(tmp_path: Path) -> Callable[..., SlurmFolder]:
    """Makes the folder of a submission: ``submitted(runs, parts, **limits)``; the first run's if there is one run."""

    def make(runs: tuple[str, ...] = ("a",), parts: tuple[Part, ...] = (), **limits: Any) -> SlurmFolder:
        folders = [tmp_path / run for run in runs]
        for folder in folders:
            folder.mkdir()
        made = SlurmFolder(folders[0] if len(runs) == 1 else tmp_path / "group")
        given = {"max_requeues": 100, "max_restarts": 3, "warning": 120, **limits}
        made.write(Submission(tuple(map(str, folders)), parts or (Part(("classifier",)),), str(tmp_path), **given))
        return made

    return make
