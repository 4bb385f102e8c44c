"""The comparison of loaders runs on a small case, and every loader delivers the same number of frames."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_small_case(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "cat/a.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for number in range(40):
        writer.write(np.full((64, 96, 3), 5 * number, np.uint8))
    writer.release()
    command = [sys.executable, "benchmarks/loader.py", "--videos", str(tmp_path), "--batches", "4", "--windows", "2"]
    command += ["--frames", "2", "--workers", "0", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ") and line.count("|") == 5]
    names = [row.split("|")[1].strip() for row in rows[2:]]
    assert len(names) >= 6
    assert names[0].startswith("our stream")
    assert any("seeking in the videos, OpenCV" in name for name in names)
    assert re.search(r"checksums: \d+\.\d\d% of the CPU time", done.stdout)
    assert len(re.findall(r"\d+", done.stdout.split("MiB: ")[1].splitlines()[0])) == 10
    assert re.search(r"indexes made again: \d+ members per CPU second", done.stdout)
