"""What a study leaves on disk: names by content, records that are whole or absent, and locks between processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import load
from colocam_dist.errors import RunError
from tune.folder import Record, StudyFolder, content_hash, settings_of_results

ROOT = Path(__file__).parents[2]


def name(*overrides: str, born: str = "") -> str:
    return content_hash(load(None, ["data.shards=here", *overrides]), born)


@pytest.mark.parametrize(
    "override",
    [
        "run.name=b",
        "run.folder=elsewhere",
        "run.on_exists=resume",
        "data.workers=0",
        "data.remote.cache_gb=1",
        "engine.device=cpu",
        "engine.threads=3",
        "engine.timeout=5",
        "checkpoint.keep=all",
        "log.tensorboard=false",
        "slurm.nodes=4",
        "cams.folder=somewhere",
        "cams.batch=1",
        "data.shards=./here",
    ],
)
def test_what_does_not_change_results_does_not_change_the_name(override: str) -> None:
    assert name(override) == name()


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=1",
        "run.stages=[classifier]",
        "data.shards=there",
        "data.n_frames=2",
        "data.drop_seed=1",
        "model.encoder=vgg16",
        "classifier.epochs=1",
        "cams.classifier=best-classification",
        "localizer.optimizer.lr=0.02",
        "localizer.loss.colocalization.weight=1",
        "evaluation.validate_every=2",
        "engine.precision=bf16",
        "engine.accumulation=2",
        "engine.sync_batchnorm=false",
        "fault=x",
    ],
)
def test_what_changes_results_changes_the_name(override: str) -> None:
    assert name(override) != name()
    assert settings_of_results(load(None, ["data.shards=here", override])) != settings_of_results(
        load(None, ["data.shards=here"])
    )


def test_names_are_the_same_in_every_process_and_short() -> None:
    code = """
from colocam_dist.config import load
from tune.folder import content_hash
print(content_hash(load(None, ["data.shards=here"])))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name()
    assert len(name()) == 10
    assert len({name(), name(born="a"), name(born="b")}) == 3


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


@pytest.fixture
def record(folder: StudyFolder) -> Record:
    """A trial that was begun."""
    made = folder.trial("abc")
    made.begin({"point": {"x": 1}, "parent": None})
    return made


def test_what_a_record_is_stays_as_it_was_first_written(record: Record) -> None:
    before = record.facts
    assert (before["kind"], before["point"]) == ("trial", {"x": 1})
    assert time.time() - 60 < before["begun"] <= time.time()
    record.begin({"point": {"x": 1}, "parent": "other"})
    assert record.facts == before


def test_a_point_that_a_changed_space_names_otherwise_is_written_again(record: Record) -> None:
    begun = record.facts["begun"]
    record.begin({"point": {"x": 1, "y": 2}, "parent": None})
    assert record.facts == {"kind": "trial", "begun": begun, "point": {"x": 1, "y": 2}, "parent": None}


def test_records_come_in_the_order_in_which_they_were_begun(folder: StudyFolder) -> None:
    for id in ("c", "a", "b"):
        folder.trial(id).begin({})
    folder.classifier("d").begin({})
    (folder.path / "records" / "half-begun").mkdir()
    assert [record.id for record in folder.records("trial")] == ["c", "a", "b"]
    (classifier,) = folder.records("classifier")
    assert classifier.run == folder.path / "classifiers" / "d"
    assert folder.records("trial")[0].run == folder.path / "trials" / "c"


def test_the_first_end_stands(record: Record) -> None:
    assert record.end is None
    record.finish("stopped", epoch=2)
    record.finish("finished")
    end = record.end
    assert end is not None
    assert (end["state"], end["epoch"]) == ("stopped", 2)
    record.forget_failure()
    assert record.end == end, "only a failure is forgotten"


def test_a_failure_can_be_forgotten(record: Record) -> None:
    record.finish("failed", error="x")
    record.forget_failure()
    assert record.end is None
    record.forget_failure()


def test_the_member_of_a_population_is_the_last_one_noted(record: Record) -> None:
    assert record.member == ""
    record.note_member("1 a")
    record.note_member("")
    assert record.member == "1 a"
    record.note_member("2 b")
    assert record.member == "2 b"


def test_attempts_survive_a_line_that_was_cut_off(record: Record) -> None:
    assert record.attempts() == []
    record.add_attempt("start", pid=3)
    path = record.path / "attempts.jsonl"
    path.write_text(path.read_text() + '{"event": "en')
    assert [row["event"] for row in record.attempts()] == ["start"]
    record.add_attempt("end", pid=3, time=5.0)
    assert [(row["event"], row["pid"]) for row in record.attempts()] == [("start", 3), ("end", 3)]
    assert record.attempts()[1]["time"] == 5.0


def test_rows_are_validations_of_a_stage_by_epoch(record: Record, fake_runs: Any) -> None:
    assert record.rows("localizer") == []
    fake_runs.rows(record.run, [10.0, 20.0], stage="classifier")
    fake_runs.rows(record.run, [0.0, 1.0, 2.0], first=0)
    fake_runs.rows(record.run, [1.5], first=1)  # done again after an interruption
    rows = record.rows("localizer")
    assert [(row["epoch"], row["corloc"]) for row in rows] == [(1, 1.5), (2, 2.0)], "not that before the first epoch"
    assert [row["corloc"] for row in record.rows("localizer", first=0)] == [0.0, 1.5, 2.0]
    assert [row["corloc"] for row in record.rows("classifier")] == [10.0, 20.0]


def test_a_row_that_is_half_written_is_not_there_yet(record: Record, fake_runs: Any) -> None:
    fake_runs.rows(record.run, [1.0, 2.0])
    path = record.run / "metrics.jsonl"
    data = path.read_bytes()
    line = data.splitlines(keepends=True)[-1]
    for cut in (1, len(line) // 2, len(line) - 1):
        path.write_bytes(data[: -len(line)] + line[:cut])
        assert [row["epoch"] for row in record.rows("localizer")] == [1]
    path.write_bytes(data)
    assert [row["epoch"] for row in record.rows("localizer")] == [1, 2]


def test_the_last_sign_is_that_of_the_run_or_of_its_output(record: Record, fake_runs: Any) -> None:
    assert record.last_sign == 0.0
    record.log.write_text("x")
    os.utime(record.log, (50.0, 50.0))
    assert record.last_sign == 50.0
    fake_runs.rows(record.run, [1.0])
    os.utime(record.run / "metrics.jsonl", (70.0, 70.0))
    assert record.last_sign == 70.0


class Tired(Exception):
    pass


def test_one_process_at_a_time_has_the_claim_on_a_run(record: Record, other_process: Any) -> None:
    def give_up() -> None:
        raise Tired

    code = "with Record(Path(sys.argv[1]), 'trial', 'abc').lock(lambda: None):"
    with other_process(code, record.path.parents[1]) as other:
        assert record.claim() is None
        with pytest.raises(Tired), record.lock(give_up):
            pass
        waited = threading.Event()
        thread = threading.Thread(target=lambda: (record.lock(lambda: None).__enter__(), waited.set()))
        thread.start()
        assert not waited.wait(0.3)
        other.kill()
        other.wait()
        assert waited.wait(5.0), "the claim ends with the process that has it"
        thread.join()
    claim = record.claim()
    assert claim is not None
    claim.close()


def test_one_process_at_a_time_runs_a_study(folder: StudyFolder, other_process: Any) -> None:
    code = "with StudyFolder(Path(sys.argv[1])).session({}):"
    with other_process(code, folder.path) as other:
        with pytest.raises(RunError, match="the study is being run") as caught, folder.session({}):
            pass
        assert caught.value.where == folder.path
        assert str(caught.value.got).startswith(f"by process {other.pid} on ")
        assert "--resume" in str(caught.value.fix)
        assert len(folder.sessions()) == 1, "who is refused leaves nothing"
        other.kill()
        other.wait()
    with folder.session({"command": "again"}) as file:
        assert file.name == "0002.json"
        assert str(os.getpid()) in (folder.path / "driver.lock").read_text()
    assert [session.get("command") for session in folder.sessions()] == [None, "again"]


def test_sessions_last_from_their_begin_to_their_last_touch(folder: StudyFolder) -> None:
    with folder.session({"command": "x"}) as file:
        pass
    began = folder.sessions()[0]["began"]
    os.utime(file, (began + 100.0, began + 100.0))
    assert folder.sessions()[0]["seconds"] == pytest.approx(100.0)
    os.utime(file, (began - 100.0, began - 100.0))
    assert folder.sessions()[0]["seconds"] == 0.0, "clocks of two machines"
    assert json.loads(file.read_text())["command"] == "x"
    with pytest.raises(Tired), folder.session({}):
        raise Tired
    assert len(folder.sessions()) == 2
    with folder.session({}):  # the lock is free again
        pass
