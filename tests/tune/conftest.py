"""Studies over a tiny dataset, and runs that look as if somebody had done them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.folder import Record, StudyFolder
from tune.running import OpenStudy, TrialRunner
from tune.settings import StudyFile, load_study
from tune.space import Space

ROOT = Path(__file__).parents[2]
SMALL = {
    "model": {"encoder": "resnet18", "weights": "none"},
    "classifier": {"epochs": 1},
    "localizer": {"epochs": 3, "global_batch": 8},
}


class Desk:
    """Where studies are written down and opened."""

    def __init__(self, folder: Path, shards: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(
            yaml.safe_dump({"data": {"shards": str(shards), "n_frames": 2, "resize": 64, "crop": 48}})
        )
        self.path = folder / "study.yaml"

    def write(self, **study: Any) -> Path:
        """The file of a study with these settings; a grid over data.n_frames if no space is given."""
        settings = {
            "name": "s",
            "folder": str(self.folder / "studies"),
            "base": str(self.recipe),
            "space": {"data.n_frames": [1, 2, 4]},
            **study,
        }
        self.path.write_text(yaml.safe_dump({"study": settings, **SMALL}, sort_keys=False))
        return self.path

    def file(self, *overrides: str, **study: Any) -> StudyFile:
        """Such a study, loaded."""
        return load_study(self.write(**study), overrides)

    def open(self, *overrides: str, **study: Any) -> OpenStudy:
        """Such a study as its trials see it."""
        file = self.file(*overrides, **study)
        return OpenStudy(file, StudyFolder(file.study.path), Space(file, checked=True))


@pytest.fixture
def desk(tmp_path: Path, tiny_shards: Path) -> Desk:
    """A Desk in an empty folder."""
    return Desk(tmp_path, tiny_shards)


class FakeRuns:
    """Writes what runs leave behind."""

    def rows(self, run: Path, corlocs: Sequence[float], *, stage: str = "localizer", first: int = 1) -> None:
        """Append validations, one an epoch, and rows of training between them."""
        if not corlocs:
            return
        run.mkdir(parents=True, exist_ok=True)
        with (run / "metrics.jsonl").open("a") as file:
            for epoch, corloc in enumerate(corlocs, start=first):
                row = {"stage": stage, "kind": "train", "epoch": epoch, "step": 2 * epoch - 1, "loss": 0.5}
                file.write(json.dumps(row) + "\n")
                row = {"stage": stage, "kind": "validation", "epoch": epoch, "step": 2 * epoch, "corloc": corloc}
                file.write(json.dumps({**row, "classification": 50.0}) + "\n")

    def done(self, run: Path) -> None:
        """The last file of a run that has succeeded."""
        run.mkdir(parents=True, exist_ok=True)
        (run / "done.json").write_text('{"stages": ["localizer"]}')

    def failed(self, run: Path, error: str, traceback: str = "") -> None:
        """That of one that has not."""
        run.mkdir(parents=True, exist_ok=True)
        (run / "failed.json").write_text(json.dumps({"error": error, "type": "RunError", "traceback": traceback}))

    def trial(self, study: OpenStudy, point: dict[str, Any], corlocs: Sequence[float] = (), **end: Any) -> Record:
        """The record of a trial with these validations, and with an end if its state is given."""
        record = TrialRunner(study, point).record
        self.rows(record.run, corlocs)
        if end:
            record.finish(**end)
            if end["state"] == "finished":
                self.done(record.run)
        return record


@pytest.fixture
def fake_runs() -> FakeRuns:
    """A FakeRuns."""
    return FakeRuns()


@pytest.fixture
def other_process() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """Starts another process: given lines that end in a block, it enters that, and leaves it when it is killed."""

    @contextmanager
    def start(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
        head = "import sys, time\nfrom pathlib import Path\nfrom tune.folder import Record, StudyFolder\n"
        body = f"{head}{code}\n    print('ready', flush=True)\n    sys.stdin.read()\n"
        with subprocess.Popen(
            [sys.executable, "-c", body, *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            try:
                yield other
            finally:
                other.kill()

    return start
