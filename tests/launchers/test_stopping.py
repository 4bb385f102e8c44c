"""Runs that are killed or asked to stop, and go on afterwards to the digits of a run that nobody disturbs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from colocam_dist.runs.weights import read_weights
from tests.launchers.small_runs import finished, rows, train


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="plain", marks=pytest.mark.slow),
        # In the last epoch the loss depends on the average, by the seeds.
        pytest.param(
            ["localizer.ema.decay=0.9", "localizer.seeds.refresh_epoch=2"], id="averaged", marks=pytest.mark.long
        ),
    ],
)
def test_a_killed_run_continues_to_the_same_losses(more: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards)
    options = ("checkpoint.every_steps=1", "run.stages=[classifier,cams,localizer]", *more)
    code, output = finished(train(shards, tmp_path, "whole", *options))
    assert code == 0, output

    process = train(shards, tmp_path, "cut", *options)
    log = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(rows(tmp_path / "cut", "localizer")) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cut" / "done.json").exists()

    code, output = finished(train(shards, tmp_path, "cut", *options))
    assert code == 2
    assert "a run of this name exists" in output
    code, output = finished(train(shards, tmp_path, "cut", *options, "run.on_exists=resume"))
    assert code == 0, output
    for stage in ("classifier", "localizer"):
        whole, cut = rows(tmp_path / "whole", stage), rows(tmp_path / "cut", stage)
        assert cut.keys() == whole.keys()
        assert {step: row["loss"] for step, row in cut.items()} == {step: row["loss"] for step, row in whole.items()}
    receipts = [(tmp_path / name / "receipt.json").read_text() for name in ("cut", "whole")]
    assert receipts[0] == receipts[1]
    best = [tmp_path / name / "checkpoints" / "localizer" / "best-localization.pt" for name in ("cut", "whole")]
    assert read_weights(best[0])["sha256"] == read_weights(best[1])["sha256"]


def ranks_of(run: Path) -> list[int]:
    """Processes of any kind that train this run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"run.name={run.name}".encode() in words and f"run.folder={run.parent}".encode() in words:
            found.append(int(folder.name))
    return found


def is_rank(process: int) -> bool:
    return Path(f"/proc/{process}/environ").read_bytes().find(b"\0LOCAL_RANK=") >= 0


FOUR_EPOCHS = ("run.stages=[classifier]", "classifier.epochs=4")


@pytest.fixture(scope="module")
def undisturbed(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Gives the folder of a run of so many ranks that nobody asks to stop; its shards lie beside it."""

    @functools.cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"undisturbed{ranks}")
        shutil.copytree(tiny_shards, folder / "shards")
        code, output = finished(train(folder / "shards", folder, "whole", *FOUR_EPOCHS, ranks=ranks))
        assert code == 0, output
        return folder / "whole"

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "number", "to"),
    [(1, signal.SIGUSR2, "rank"), (2, signal.SIGUSR1, "rank"), (2, signal.SIGTERM, "launcher")],
)
def test_a_run_that_is_asked_to_stop_saves_and_resumes(
    undisturbed: Callable[[int], Path], tmp_path: Path, ranks: int, number: signal.Signals, to: str
) -> None:
    reference = undisturbed(ranks)
    shards, run = reference.with_name("shards"), tmp_path / "cut"
    run.mkdir()
    (run / "done.json").write_text('{"stages": []}')  # of a smaller run that this one goes on from
    process = train(shards, tmp_path, "cut", *FOUR_EPOCHS, ranks=ranks)
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").is_file() or len(rows(run, "classifier")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    asked = process.pid if to == "launcher" or ranks == 1 else next(filter(is_rank, ranks_of(run)))
    began = time.monotonic()
    os.kill(asked, number)
    while ranks_of(run):
        assert time.monotonic() - began < 15, "processes stay"
        time.sleep(0.05)
    _, output = process.communicate()
    told = json.loads((run / "preempted.json").read_text())
    assert ("end of deepspeed" if to == "launcher" else number.name) in told["reason"]
    assert not (run / "done.json").exists()
    assert not (run / "failed.json").exists()
    if to != "launcher":
        assert process.returncode == 85, output

    code, output = finished(train(shards, tmp_path, "cut", *FOUR_EPOCHS, "run.on_exists=resume", ranks=ranks))
    assert code == 0, output
    assert not (run / "preempted.json").exists()
    whole, cut = rows(reference, "classifier"), rows(run, "classifier")
    assert {step: row["loss"] for step, row in cut.items()} == {step: row["loss"] for step, row in whole.items()}
