"""The comparison of affinities runs on a small case, and its errors are those of the forms."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_small_case(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/crf.py", "--size", "24", "--windows", "1", "2", "--repeats", "1"]
    command += ["--peers", "dense", "keops", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "crf.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (tmp_path / "crf.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"crf.csv", "crf.png"}
    assert {(row["term"], row["n"]) for row in rows} == {("color", "1"), ("color", "2"), ("frame", "1")}
    limits = {"histogram": 1e-6, "histogram_fp32": 1e-6, "mixed": 1e-3, "exact": 1e-6, "grid": 5e-3, "auto": 5e-3}
    ours = [row for row in rows if row["method"].startswith("ours")]
    assert len(ours) == 2 * 5 + 3
    for row in ours:
        assert float(row["error"]) < limits[row["method"].split()[1]], row
        assert float(row["both_ms"]) > 0
    keops = [row for row in rows if row["method"] == "keops"]
    assert all("not installed: pip install pykeops" in row["note"] or float(row["error"]) < 1e-5 for row in keops)
