"""Every command and example of docs/inference.md, in its order, on a small run with random weights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.patient

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/inference.md"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_and_example_does_what_it_says(
    small_run: Path, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "launchers").symlink_to(ROOT / "launchers")
    shutil.copytree(small_run, tmp_path / "runs/demo")
    for number in range(5):
        write_video(tmp_path / f"demo-data/videos/fish/{number}.mp4", 3, number)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    said = []
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "bash", "python", "python", "bash", "python"]
    for kind, text in blocks:
        for command in text.splitlines() if kind == "bash" else [text]:
            words = ["bash", "-c", command] if kind == "bash" else [sys.executable, "-c", text]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            said.append(done.stdout)
    assert "15 frames of 5 clips" in said[0]
    assert said[1].count("0 frames of 0 clips; 5 clips were finished before") == 3
    assert all("15 frames of 5 clips" in each for each in said[2:5])
    assert len(said[5].splitlines()) == 15
    assert "agrees with the network" in said[7]
    assert "agrees with the network" in said[8]
    assert (tmp_path / "out/predictions.csv").read_text().count("\n") == 16
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 5
    header = (tmp_path / "out-all/predictions.csv").read_text().partition("\n")[0]
    assert header == "clip,frame,cls,score,x0,y0,x1,y1,instance"
