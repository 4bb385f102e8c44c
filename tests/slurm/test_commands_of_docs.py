"""Every command of docs/slurm.md, in its order, on smaller settings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability_lab import SMALL, differences

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/slurm.md"
QUICK = ("classifier.epochs=1", "localizer.epochs=1", "data.workers=0", "engine.threads=1", "slurm.cpus_per_task=1")


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def smaller(command: str, shards: Path) -> str:
    """The same command, but for small data and a small network; what it sets itself stays."""
    if "--config" not in command:
        return command
    given = {word.partition("=")[0] for word in shlex.split(command)}
    settings = [word for word in (*SMALL, *QUICK) if word.partition("=")[0] not in given]
    settings = [word for word in settings if "run.stages" not in word] + [f"data.shards={shards}"]
    return command.replace("--config configs/demo.yaml", f"--config configs/demo.yaml {shlex.join(settings)}")


@pytest.mark.timeout(600)
def test_every_command_does_what_it_says(cluster: Any, desk: Any, tmp_path: Path) -> None:
    for name in ("launchers", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shards = tmp_path / "shards"
    shutil.copytree(desk.lab.folder / "shards", shards)
    (tmp_path / "hosts").write_text("vn1 slots=1\nvn2 slots=1\n")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
    }
    asked = commands()
    assert len(asked) == 14
    for command in asked:
        for run in re.findall(r"(?:--like|resume) (runs/\w+)", command):
            desk.wait(str(tmp_path / run))
        done = subprocess.run(
            ["bash", "-c", smaller(command, shards)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        told = [
            ("--dry-run", "#SBATCH --nodes="),
            ("--like", "as runs/first"),
            ("cancel", "cancelled: "),
            ("--follow", "done"),
        ]
        assert all(words in done.stdout for word, words in told if f" {word}" in command), f"{command}\n{done.stdout}"
    runs = ["first", "third", "fourth", "chain", "seeds.seed-0", "seeds.seed-1", "hosts"]
    for run in runs:
        group = run.partition(".")[0]
        if run != "hosts":
            desk.wait(str(tmp_path / "runs" / group))
        assert (tmp_path / "runs" / run / "done.json").exists(), run
    assert differences(tmp_path / "runs/first", tmp_path / "runs/hosts") == ""
