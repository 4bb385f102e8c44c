"""Checkpoints: whole or absent, newest whole one wins, old ones go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.training.checkpoint import CheckpointStore

ALONE = Workers(0, 0, 1, torch.device("cpu"))


class FileEngine:
    """Has the two methods of a DeepSpeed engine that the store calls, and keeps one number on disk."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.fail = False

    def save_checkpoint(self, folder: str, tag: str, client_state: dict[str, Any], save_latest: bool) -> None:
        assert not save_latest
        path = Path(folder) / tag
        path.mkdir()
        (path / "rank0.json").write_text(json.dumps({"value": self.value, "client": client_state}))
        if self.fail:
            raise OSError(28, "No space left on device")

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str, dict[str, Any]]:
        content = json.loads((Path(folder) / tag / "rank0.json").read_text())
        self.value = content["value"]
        return folder, content["client"]


def test_the_newest_is_restored_and_only_the_last_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    engine = FileEngine()
    for step in (1, 2, 10):
        engine.value = 100 + step
        store.save(engine, step, {"step": step})
    assert [path.name for path in store.complete()] == ["step-00000010", "step-00000002"]
    fresh = FileEngine()
    assert store.restore(fresh) == {"step": 10}
    assert fresh.value == 110


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent", ALONE, keep=1).restore(FileEngine()) is None


def test_a_damaged_newest_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=3)
    for step in (1, 2, 3):
        store.save(FileEngine(step), step, {"step": step})
    cut = tmp_path / "step-00000003" / "state" / "rank0.json"
    cut.write_text(cut.read_text()[:-1])
    (tmp_path / "step-00000002" / "complete.json").unlink()
    engine = FileEngine()
    assert store.restore(engine) == {"step": 1}
    assert "step-00000003" in caplog.text
    assert "rank0.json" in caplog.text
    assert "step-00000002" in caplog.text


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    store.save(FileEngine(1), 1, {"step": 1})
    broken = FileEngine(2)
    broken.fail = True
    with pytest.raises(OSError, match="No space"):
        store.save(broken, 2, {"step": 2})
    assert store.restore(FileEngine()) == {"step": 1}
    store.save(FileEngine(3), 2, {"step": 2})
    assert store.restore(FileEngine()) == {"step": 2}, "the half-written attempt must not be in the way"


def test_state_of_another_world_size_is_a_clear_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    store.save(FileEngine(1), 1, {})

    class OtherWorld(FileEngine):
        def load_checkpoint(self, folder: str, tag: str) -> tuple[str, dict[str, Any]]:
            raise RuntimeError("DP world size of 2 but the current is 1")

    with pytest.raises(RunError, match="cannot be loaded") as caught:
        store.restore(OtherWorld())
    assert "number of ranks" in str(caught.value)
