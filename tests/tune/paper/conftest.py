"""Studies of which trials are rows of the paper's tables, with the files that evaluation leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import dump
from colocam_dist.evaluation.corloc import ClassScores, CorLoc
from tune.folder import Record
from tune.paper.published import published
from tune.paper.studies import PaperStudy
from tune.running import OpenStudy

Metrics = Callable[..., dict[str, Any]]
SMALL_DATA = {"aeroplane": 7, "bird": 5}


def scores(corloc: float, frames: Mapping[str, int], interval: tuple[float, float] | None = None) -> dict[str, Any]:
    """What evaluation writes of one method: per_class is ``corloc``, pooled 2 less, validation 5 less."""
    rules = {"validation": corloc - 5.0, "pooled": corloc - 2.0, "per_class": corloc}
    classes = {
        name: ClassScores(count, *(value + place for value in rules.values()))
        for place, (name, count) in enumerate(frames.items())
    }
    intervals = {**dict.fromkeys(rules), "per_class": interval}
    result = CorLoc(rules, rules, intervals, rules, {"validation": 0.4}, 80.0, classes, sum(frames.values()), 9, 0.5)
    return {**result.to_dict(), "seconds_per_frame": 0.0123}


def _metrics(
    dataset: str = "YTOv1", *, interval: tuple[float, float] | None = None, **methods: float
) -> dict[str, Any]:
    paper = published()
    frames = paper.frames(dataset) if dataset in paper.datasets else SMALL_DATA
    found = {name: scores(value, frames, interval) for name, value in methods.items()}
    rest = {"classes": list(frames), "split": "test", "shards": f"data/{dataset}", "size": 224, "caveats": []}
    return json.loads(json.dumps({"methods": found, **rest}))


@pytest.fixture
def metrics() -> Metrics:
    """Makes the content of metrics.json: test frames of a dataset, or few others, and CorLoc of methods by name."""
    return _metrics


@pytest.fixture
def clip_es() -> Metrics:
    """Makes the content of a file of CLIP-ES: test frames of a dataset, and CorLoc by labels and configuration."""

    def make(dataset: str = "YTOv1", **corloc: float) -> dict[str, Any]:
        content = _metrics(dataset, **corloc)
        rows = [
            {
                **dict(zip(("labels", "configuration"), name.split("_"), strict=True)),
                "corloc": one["corloc"],
                "results": [one] * (10 if name.startswith("AVG") else 1),
            }
            for name, one in content.pop("methods").items()
        ]
        times = {"initial": 40.0, "list": 41.0, "refined": 50.0}
        said = ["Published figures choose one threshold per class on the test set: compare them with per_class only."]
        return {**content, "rows": rows, "milliseconds": times, "caveats": said}

    return make


class PaperDesk:
    """Where fake studies of the paper's tables are done."""

    def __init__(self, desk: Any, fake_runs: Any) -> None:
        self._desk, self._runs = desk, fake_runs

    def begin(self, space: Mapping[str, Any], *overrides: str, **study: Any) -> OpenStudy:
        """A study with this space, as its driver writes it down."""
        opened: OpenStudy = self._desk.open(*overrides, space=space, **study)
        opened.folder.settings_path.parent.mkdir(parents=True, exist_ok=True)
        opened.folder.settings_path.write_text(dump(opened.file))
        return opened

    def trial(
        self, study: OpenStudy, point: Mapping[str, Any], metrics: Mapping[str, Any] | None, seed: int = 0
    ) -> Record:
        """A trial that was evaluated, or one that still runs."""
        end = {"state": "finished"} if metrics else {}
        record: Record = self._runs.trial(study, {**point, "run.seed": seed}, [50.0], **end)
        if metrics:
            (record.run / "metrics.json").write_text(json.dumps(metrics))
        return record

    def sampling(self, corloc: Sequence[float], *overrides: str, name: str = "table5", **metrics: Any) -> Path:
        """A study of table 5 whose first trials have these figures, two seeds."""
        study = self.begin({"data.sampling": ["adjacent", "gaussian", "interval"]}, *overrides, name=name, seeds=[0, 1])
        points = [(seed, scheme) for seed in (0, 1) for scheme in ("adjacent", "gaussian", "interval")]
        for (seed, scheme), value in zip(points, corloc, strict=False):
            self.trial(study, {"data.sampling": scheme}, _metrics(localizer=value, layercam=1.0, **metrics), seed)
        return study.folder.path


@pytest.fixture
def paper_desk(desk: Any, fake_runs: Any) -> PaperDesk:
    """A PaperDesk."""
    return PaperDesk(desk, fake_runs)


@pytest.fixture
def open_study() -> Callable[[Path], PaperStudy]:
    """Opens a study as tables do."""
    return PaperStudy
