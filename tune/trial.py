"""A trial as Ray Tune sees it: an actor that only waits for figures; the work is done by processes or jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.search.repeater import TRIAL_INDEX

from tune.running import OpenStudy, TrialRunner
from tune.space import SEED

__all__ = ["StudyTrial", "point_of"]


class StudyTrial(ray_tune.Trainable):
    """Gives one row for each validation of a run.

    ``setup`` gets the point as its config, the folder of the study, and the working folder of the driver.
    """

    def setup(self, config: dict[str, Any], folder: str, working_folder: str) -> None:
        """Begin a trial in a new actor."""
        os.chdir(working_folder)
        self._study = OpenStudy.at(Path(folder))
        self._take(config)

    def _take(self, config: dict[str, Any]) -> None:
        self._point = point_of(config)
        self._parent: str | None = None
        self._runner: TrialRunner | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same actor, which is much faster than a new one."""
        self.cleanup()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next row."""
        if self._runner is None:
            member = f"{len(self._study.folder.sessions())} {self.trial_id}"
            self._runner = TrialRunner(self._study, self._point, self._parent, member)
        return self._runner.next()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """What a trial has done is in its run's folder; what PBT copies only has to say which."""
        return {"id": None if self._runner is None else self._runner.record.id}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Begin with the checkpoint of another trial, if this one is a new copy of it."""
        self._parent = (checkpoint or {}).get("id")

    def cleanup(self) -> None:
        """Let processes save and leave. Jobs are left alone: this is also called when the driver was killed."""
        if self._runner is not None:
            self._runner.leave()


def point_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a Ray config: a grid has it nested, and a repeating searcher gives the place of the seed."""
    point = dict(config.get("point", config))
    if "seeds" in point:
        point[SEED] = point.pop("seeds")[point.pop(TRIAL_INDEX)]
    return point
