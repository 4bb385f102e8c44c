"""Which steps are recorded, and that files are complete or absent."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from colocam_dist.training.profiling import StepProfiler


def run(folder: Path | None, *, steps: int, left: int, done: int | None = None) -> None:
    """An epoch of small steps, or the first `done` of them."""
    profiler = StepProfiler(folder, "localizer", steps=steps, left=left, device=torch.device("cpu"))
    for step in range(left if done is None else done):
        with torch.profiler.record_function(f"step {step + 1}"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.step()
    profiler.close()


def recorded(folder: Path) -> set[int]:
    """Numbers of the steps in the trace."""
    trace = json.loads(gzip.decompress((folder / "localizer.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    return {int(name.removeprefix("step ")) for name in names if name.startswith("step ")}


@pytest.mark.parametrize(
    ("steps", "left", "expected"),
    [
        (2, 20, {11, 12}),
        (3, 8, {6, 7, 8}),  # a short epoch: its last steps
        (50, 4, {2, 3, 4}),  # and at least one step to warm up
    ],
)
def test_the_steps_behind_the_first_ones_are_recorded(
    tmp_path: Path, steps: int, left: int, expected: set[int]
) -> None:
    folder = tmp_path / "profile"
    run(folder, steps=steps, left=left)
    assert recorded(folder) == expected
    assert {path.name for path in folder.iterdir()} == {"localizer.json.gz", "localizer.txt"}
    table = (folder / "localizer.txt").read_text()
    assert table.startswith(f"{len(expected)} steps of stage localizer")
    assert "aten::mm" in table


@pytest.mark.parametrize(("steps", "left", "done"), [(0, 20, 20), (2, 1, 1), (2, 20, 11), (2, 20, 3)])
def test_otherwise_nothing_is_written(tmp_path: Path, steps: int, left: int, done: int) -> None:
    run(tmp_path / "profile", steps=steps, left=left, done=done)
    assert not (tmp_path / "profile").exists()


def test_other_ranks_record_nothing() -> None:
    run(None, steps=2, left=20)
