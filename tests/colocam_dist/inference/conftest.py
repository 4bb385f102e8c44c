"""A run without training, a small split with sparse boxes, and ranks that are threads."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.config import load
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.opening import Splits
from colocam_dist.inference.api import Probabilities
from colocam_dist.inference.load import build_classifier, build_localizer
from colocam_dist.inference.score import Scorer
from colocam_dist.progress import Progress
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.frames_csv import read_frames_csv

T = TypeVar("T")
SIDE = 37


class ThreadWorkers:
    """A rank that is a thread: what `Workers` offers, as far as scoring needs it."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, box: list[Any]) -> None:
        self.rank, self.world, self._barrier, self._box = rank, world, barrier, box
        self.device = torch.device("cpu")
        self.progress = Progress()
        self.is_main = rank == 0

    def gather(self, value: Any) -> list[Any]:
        self._box[self.rank] = pickle.dumps(value)
        self._barrier.wait()
        values = [pickle.loads(each) for each in self._box]
        self._barrier.wait()
        return values

    def from_main(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self._barrier.wait()

    def agree_to_go_on(self, what: str) -> None:
        assert not any(self.gather(self.progress.stop_reason()))


@pytest.fixture
def on_ranks() -> Callable[[int, Callable[[Any], T]], list[T]]:
    """Runs a function of the workers on several ranks at a time; the results in rank order."""

    def run(world: int, action: Callable[[Any], T]) -> list[T]:
        barrier, box, results = threading.Barrier(world), [None] * world, [None] * world
        errors: list[BaseException] = []

        def rank(number: int) -> None:
            try:
                results[number] = action(ThreadWorkers(number, world, barrier, box))  # type: ignore[call-overload]
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results  # type: ignore[return-value]

    return run


@pytest.fixture
def sparse_shards(frame_folder: Any) -> Path:
    """Splits "val" and "test" of five shots with 7, 1, 5, 9 and 4 frames; numbers 2 and 4 of each have no box.

    The fourth shot has no box at all. The last shot's frames are seven frames of the video apart.
    """
    shots = [("bird", "0/000", 7), ("bird", "0/001", 1), ("bird", "1/000", 5), ("cat", "2/000", 9), ("cat", "3/000", 4)]
    for split, seed in (("val", 10), ("test", 20)):
        for number, (cls, name, frames) in enumerate(shots):
            apart = 7 if number == 4 else 1
            shot = f"{cls}/{split}-{name}"
            frame_folder.add_shot(split, shot, frames, boxes_per_frame=1 + number % 2, seed=seed + number, apart=apart)
    frame_folder.boxes = [row for row in frame_folder.boxes if not re.search(r"-2/|0000[24]", row[1])]
    rule = PictureRule(keep_up_to=0, short_side=0, quality=95)
    shards: Path = frame_folder.root.parent / "shards"
    build_dataset(read_frames_csv(frame_folder.save(), rule), shards, BuildOptions(rule, shard_mb=0.02))
    return shards


class Colors(nn.Module):
    """Maps that are colors of the frame, each by itself, so that they do not depend on the batch."""

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        maps_BHW = images_BCHW[:, 1].float() / 255
        return maps_BHW, torch.stack([maps_BHW.mean((1, 2)), 1 - maps_BHW.mean((1, 2))], 1)


@pytest.fixture
def colors() -> Colors:
    """A map maker that is also its model."""
    return Colors()


@pytest.fixture
def green_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of runs are made of colors, not by their random networks, whose maps may be nearly flat."""

    def forward(self: Probabilities, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps_BHW, scores_B2 = Colors()(images_BCHW, images_BCHW)
        return maps_BHW, functional.pad(scores_B2, (0, 1))

    monkeypatch.setattr(Probabilities, "forward", forward)


@pytest.fixture
def make_scorer(sparse_shards: Path) -> Callable[..., Scorer]:
    """Makes the scorer of a rank, with settings on top of a few."""

    def make(workers: Any, *settings: str) -> Scorer:
        small = [f"data.shards={sparse_shards}", "data.resize=40", f"data.crop={SIDE}", "data.workers=0"]
        config = load(None, [*small, "evaluation.batch=4", "evaluation.bootstrap=20", *settings])
        return Scorer(ShotIndex.open(sparse_shards, "test"), config, workers, 50)

    return make


SETTINGS = [
    *("data.resize=48", "data.crop=40", "data.workers=0", "model.encoder=resnet18", "model.weights=none"),
    *("model.output_stride=16", "model.decoder_channels=[8,8,8,8,8]", "engine.device=cpu"),
    *("evaluation.thresholds=20", "evaluation.bootstrap=10", "run.name=made"),
    "evaluation.consistency.frames=none",
]


@pytest.fixture
def made_run(tiny_shards: Path, tmp_path: Path) -> RunFolder:
    """A run of both stages on the tiny shards."""
    config = load(None, [f"data.shards={tiny_shards}", f"run.folder={tmp_path}", *SETTINGS])
    folder = RunFolder.create(config)
    classes = Splits.open(config.data).train.classes
    folder.write_json("classes.json", classes)
    classifier = build_classifier(config, len(classes))
    torch.manual_seed(5)
    classifier.head.weight.data.normal_()
    save_weights(folder.weights("classifier", "best-localization"), classifier, {})
    save_weights(folder.weights("localizer", "best-localization"), build_localizer(config, classifier), {})
    return folder
