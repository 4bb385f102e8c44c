"""Run folders: never overwritten, resumed only with the same settings, files whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from colocam_dist.config import load
from colocam_dist.errors import RunError
from colocam_dist.files import write_atomically
from colocam_dist.runs.folder import RunFolder, differences, what_is_computed


def make(tmp_path: Path, *overrides: str) -> RunFolder:
    return RunFolder.create(load(None, ["data.shards=here", f"run.folder={tmp_path}", "run.name=a", *overrides]))


def test_a_name_that_exists_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a" / "metrics.jsonl").write_text("kept\n")
    with pytest.raises(RunError, match="a run of this name exists"):
        make(tmp_path)
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == "kept\n"


def test_what_a_refused_start_leaves_is_in_nobodys_way(tmp_path: Path) -> None:
    refused = make(tmp_path)
    refused.write_json("failed.json", {"why": "no such data"})
    again = make(tmp_path, "data.n_frames=2")
    assert load(again.config_path).data.n_frames == 2
    assert not again.file("failed.json").exists()
    again.write_json("failed.json", {"why": "killed while it wrote why"})
    again.file(".failed.json.77.x").touch()
    again = make(tmp_path, "data.n_frames=3")
    again.write_json("failed.json", {"why": "killed"})
    again.file("metrics.jsonl").touch()
    with pytest.raises(RunError, match="a run of this name exists"):
        make(tmp_path)


def test_resume_takes_over_with_the_same_settings_only(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path, "run.on_exists=resume", "data.workers=0", "log.every_steps=3")
    make(
        tmp_path, "run.on_exists=resume", "cams.batch=8", "evaluation.batch=8"
    )  # as advised where memory is too little
    with pytest.raises(RunError, match=r"data\.n_frames \(4 -> 2\)"):
        make(tmp_path, "run.on_exists=resume", "data.n_frames=2")
    with pytest.raises(RunError, match=r"engine\.gradient_clipping \(0\.0 -> 5\.0\)"):
        make(tmp_path, "run.on_exists=resume", "engine.gradient_clipping=5")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RunError, match="cannot be written") as caught:
        make(tmp_path, f"run.folder={blocker}")
    assert str(blocker) in str(caught.value)
    assert "run.folder" in str(caught.value)


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file.json"
    write_atomically(target, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("run.name=b", True),
        ("run.stages=[classifier]", True),
        ("data.workers=0", True),
        ("data.remote.tries=1", True),
        ("engine.precision=bf16", True),
        ("slurm.nodes=2", True),
        ("checkpoint.keep=5", True),
        ("run.seed=1", False),
        ("data.flip=false", False),
        ("evaluation.iou=0.7", False),
        ("cams.batch=1", False),
    ],
)
def test_what_is_computed_is_told_from_where_it_is_computed(override: str, same: bool) -> None:
    before, after = (what_is_computed(load(None, ["data.shards=here", *more])) for more in ([], [override]))
    assert (before == after) == same


def test_differences_are_named_with_both_values() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {"f": 1}}
    new = {"a": {"b": 2, "c": [1, 2]}, "d": None, "e": 3, "g": True}
    assert sorted(differences(old, new)) == ["a.b (1 -> 2)", "e ({'f': 1} -> 3)", "g (None -> True)"]
    assert differences(old, old) == []
