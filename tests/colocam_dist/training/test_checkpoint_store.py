"""Checkpoints: whole or absent, newest whole one wins, old ones go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.training.checkpoint_files import checkpoints_in
from colocam_dist.training.checkpoint_store import CheckpointStore

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
    assert [found.folder.name for found in checkpoints_in(tmp_path)] == ["step-00000010", "step-00000002"]
    assert json.loads((tmp_path / "latest.json").read_text())["name"] == "step-00000010"
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
    assert store.save(FileEngine(1), 1, {"step": 1})
    broken = FileEngine(2)
    broken.fail = True
    with pytest.raises(RunError, match=r"cannot be written(.|\n)*rank 0: .*No space(.|\n)*earlier"):
        store.save(broken, 2, {"step": 2})
    assert not list(tmp_path.glob(".*.partial"))
    assert store.restore(FileEngine()) == {"step": 1}
    assert store.save(FileEngine(3), 2, {"step": 2})
    assert store.restore(FileEngine()) == {"step": 2}, "the half-written attempt must not be in the way"


def test_a_full_disk_may_cost_a_checkpoint_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1, when_full="skip")
    assert store.save(FileEngine(1), 1, {"step": 1})
    broken = FileEngine(2)
    broken.fail = True
    assert not store.save(broken, 2, {"step": 2})
    assert "No space left" in caplog.text
    assert store.restore(FileEngine()) == {"step": 1}


def test_too_little_space_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**6
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free})())
    store = CheckpointStore(tmp_path, ALONE, keep=2, expected_bytes=10**6)
    with pytest.raises(RunError, match=r"1.0 MB free, about 1.1 MB needed"):
        store.save(FileEngine(1), 1, {})
    assert list(tmp_path.iterdir()) == []
    free = 2 * 10**6
    assert store.save(FileEngine(1), 1, {})
    free = 400  # the real size is known now
    assert store.save(FileEngine(1), 2, {})
    free = 20
    with pytest.raises(RunError, match="needed"):
        store.save(FileEngine(1), 3, {})
    assert store.restore(FileEngine()) == {}


def test_all_may_be_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep="all")
    for step in range(5):
        store.save(FileEngine(step), step, {"step": step})
    assert len(checkpoints_in(tmp_path)) == 5


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    for step in (1, 2, 3):
        store.save(FileEngine(step), step, {"step": step})
    (tmp_path / "step-00000003" / "state" / "rank0.json").unlink()
    store.save(FileEngine(4), 4, {"step": 4})
    assert [found.step for found in checkpoints_in(tmp_path) if found.damage is None] == [4, 2]


def test_a_changed_byte_is_noticed_and_nothing_sound_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=2)
    store.save(FileEngine(1), 1, {"step": 1})
    path = tmp_path / "step-00000001" / "state" / "rank0.json"
    path.write_text(path.read_text().replace("1", "7", 1))
    with pytest.raises(RunError, match="all checkpoints are damaged"):
        store.restore(FileEngine())


def test_state_of_another_world_size_is_a_clear_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, ALONE, keep=1)
    store.save(FileEngine(1), 1, {})

    class OtherWorld(FileEngine):
        def load_checkpoint(self, folder: str, tag: str) -> tuple[str, dict[str, Any]]:
            raise RuntimeError("DP world size of 2 but the current is 1")

    with pytest.raises(RunError, match="cannot be loaded") as caught:
        store.restore(OtherWorld())
    assert "number of ranks" in str(caught.value)
