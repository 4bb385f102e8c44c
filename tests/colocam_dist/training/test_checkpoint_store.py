"""Checkpoints: whole or absent, newest whole one wins, old ones go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.progress import Position
from colocam_dist.training.checkpoint_files import checkpoints_in
from colocam_dist.training.checkpoint_store import CheckpointStore

ROOT = Path(__file__).parents[3]
ALONE = Workers(0, 0, 1, torch.device("cpu"))


def content(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((50,), value)}


def restored(store: CheckpointStore) -> tuple[float, dict[str, object]] | None:
    """The number in the tensors, and the facts, of what the store restores."""
    found = store.restore()
    if found is None:
        return None
    tensors, facts = found
    assert tensors is not None
    return float(tensors["weight"][7]), facts


def test_the_newest_is_restored_and_only_the_last_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    for step in (1, 2, 10):
        store.save(content(100 + step), step, {"step": step})
    assert [found.folder.name for found in checkpoints_in(tmp_path)] == ["step-00000010", "step-00000002"]
    assert json.loads((tmp_path / "latest.json").read_text())["name"] == "step-00000010"
    assert restored(store) == (110.0, {"step": 10})


def test_the_best_are_kept_beside_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1, keep_best=2)
    for step, score in enumerate((30.0, 50.0, None, 40.0, 10.0, 50.0, 20.0, None), start=1):
        store.save(content(step), step, {}, score)
    assert [found.step for found in checkpoints_in(tmp_path)] == [8, 6, 2]
    assert restored(store) == (8.0, {})


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent", ALONE, keep=1).restore() is None


def test_a_damaged_newest_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=3)
    for step in (1, 2, 3):
        store.save(content(step), step, {"step": step})
    cut = tmp_path / "step-00000003" / "state.json"
    cut.write_text(cut.read_text()[:-1])
    (tmp_path / "step-00000002" / "complete.json").unlink()
    assert restored(store) == (1.0, {"step": 1})
    assert "step-00000003" in caplog.text
    assert "state.json" in caplog.text
    assert "step-00000002" in caplog.text


def full_from(phase: str) -> Workers:
    """A rank whose disk is full when it enters the phase."""

    def fail(position: Position) -> None:
        if position.phase == phase:
            raise OSError(28, "No space left on device", "somewhere")

    workers = Workers(0, 0, 1, torch.device("cpu"))
    workers.progress.on_enter = fail
    return workers


@pytest.mark.parametrize("phase", ["save.write", "save.seal", "save.rename"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path, phase: str) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    assert store.save(content(1), 1, {"step": 1})
    with pytest.raises(RunError, match=r"cannot be written(.|\n)*No space(.|\n)*earlier"):
        CheckpointStore(tmp_path, full_from(phase), keep=1).save(content(2), 2, {"step": 2})
    assert not list(tmp_path.glob(".*"))
    assert restored(store) == (1.0, {"step": 1})
    assert store.save(content(3), 2, {"step": 2})
    assert restored(store) == (3.0, {"step": 2}), "the half-written attempt must not be in the way"


def test_a_full_disk_may_cost_a_checkpoint_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert CheckpointStore(tmp_path, ALONE, keep=1).save(content(1), 1, {"step": 1})
    store = CheckpointStore(tmp_path, full_from("save.write"), keep=1, when_full="skip")
    assert not store.save(content(2), 2, {"step": 2})
    assert "No space left" in caplog.text
    assert restored(store) == (1.0, {"step": 1})


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse the write, in the middle of it."""
    code = """
import resource, signal, sys, torch
from pathlib import Path
from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.progress import Position
from colocam_dist.training.checkpoint_store import CheckpointStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CheckpointStore(Path(sys.argv[1]), Workers(0, 0, 1, torch.device("cpu")), keep=1)
assert store.save({"weight": torch.ones(1000)}, 1, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.save({"weight": torch.ones(1_000_000)}, 2, {})
except RunError as error:
    print("refused:", error)
assert len(store.restore()[0]["weight"]) == 1000
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a checkpoint cannot be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_too_little_space_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**6
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free})())
    store = CheckpointStore(tmp_path, ALONE, keep=2, expected_bytes=10**6)
    with pytest.raises(RunError, match=r"1.0 MB free, about 1.1 MB needed"):
        store.save(content(1), 1, {})
    assert list(tmp_path.iterdir()) == []
    free = 2 * 10**6
    assert store.save(content(1), 1, {})
    free = 5000  # the real size is known now
    assert store.save(content(1), 2, {})
    free = 20
    with pytest.raises(RunError, match="needed"):
        store.save(content(1), 3, {})
    assert restored(store) == (1.0, {})


def test_all_may_be_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep="all")
    for step in range(5):
        store.save(content(step), step, {"step": step})
    assert len(checkpoints_in(tmp_path)) == 5


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    for step in (1, 2, 3):
        store.save(content(step), step, {"step": step})
    (tmp_path / "step-00000003" / "state.pt").unlink()
    store.save(content(4), 4, {"step": 4})
    assert [found.step for found in checkpoints_in(tmp_path) if found.damage is None] == [4, 2]


def test_a_changed_byte_is_noticed_and_nothing_sound_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    store.save(content(1), 1, {"step": 1})
    path = tmp_path / "step-00000001" / "state.json"
    path.write_text(path.read_text().replace("1", "7", 1))
    with pytest.raises(RunError, match="all checkpoints are damaged"):
        store.restore()


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from colocam_dist.distributed import Workers
from colocam_dist.training.checkpoint_store import CheckpointStore
workers = Workers(0, 0, 1, torch.device("cpu"))
store = CheckpointStore(Path(sys.argv[1]), workers, keep=1)
store.save({"weight": torch.full((50,), 1.0)}, 1, {"step": 1})
def strike(position):
    if position.phase == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
workers.progress.on_enter = strike
store.save({"weight": torch.full((50,), 2.0)}, int(sys.argv[3]), {"step": 2})
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["save.write", "save.seal", "save.rename", "save.pointer", "save.prune"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_process_that_dies_while_it_saves_leaves_a_sound_checkpoint(tmp_path: Path, phase: str, step: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), phase, str(step)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    written = phase in ("save.pointer", "save.prune")
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    assert restored(store) == ((2.0, {"step": 2}) if written else (1.0, {"step": 1}))
    assert not list(tmp_path.glob(".step-*")), "what was left behind is cleared"
    assert store.save(content(3), 3, {"step": 3})
    assert restored(store) == (3.0, {"step": 3})


def test_weights_that_a_killed_process_left_unfinished_are_cleared(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    store.save(content(1), 1, {"step": 1})
    (tmp_path / "best-localization.pt").write_text("whole")
    (tmp_path / ".best-localization.pt.4711.abcd").write_text("hal")
    assert restored(CheckpointStore(tmp_path, ALONE, keep=1)) == (1.0, {"step": 1})
    assert sorted(tmp_path.glob("*best*")) == [tmp_path / "best-localization.pt"]


def test_death_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    store.save(content(1), 1, {"step": 1})
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000001.former")
    assert restored(CheckpointStore(tmp_path, ALONE, keep=1)) == (1.0, {"step": 1})
