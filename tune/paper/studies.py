"""Trials of studies that are rows of a table: those that compute what the table's own study file says of the row.

Names of studies, dimensions and choices do not matter, so that tables can share trials.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colocam_dist.config import Config
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.runs.folder import differences
from tune.folder import Record, content_hash, settings_of_results
from tune.paper.figures import Data, Found, data_of, found_in
from tune.paper.published import published
from tune.report.points import identity
from tune.running import OpenStudy
from tune.settings import StudyFile, load_study
from tune.space import SEED, Space

__all__ = ["CONFIGS", "PaperStudy"]

CONFIGS = Path("configs/paper")
"""Where the tables' study files are."""

_NAMED = 6  # settings that a remark names


class PaperStudy:
    """A study, finished or not, of which trials are rows.

    Args:
        path: its folder.

    Raises:
        RunError: there is no study.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "study.yaml").is_file():
            raise RunError(
                "there is no such study",
                where=path,
                wanted="a folder with study.yaml",
                fix=f"python -m tune.study --config {CONFIGS}/table1.yaml makes studies/table1",
            )
        self.path = path
        self._study = OpenStudy.at(path)
        self._records = {content_hash(self._config(record)): record for record in self._begun()}
        self._spaces: dict[str, Space] = {}
        self._points: dict[tuple[str, str], list[Record]] = {}
        self._evaluated: dict[str, tuple[Mapping[str, Any], Data] | None] = {}

    def _begun(self) -> list[Record]:
        """Its trials, without those that began with the weights of others."""
        return [record for record in self._study.folder.records("trial") if record.facts["parent"] is None]

    def _config(self, record: Record) -> Config:
        return self._study.file.config(record.facts["settings"])

    @property
    def trials(self) -> int:
        """How many were begun."""
        return len(self._records)

    @property
    def states(self) -> str:
        """What became of them, in a few words."""
        states = Counter((record.end or {}).get("state", "not over") for record in self._records.values())
        counted = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"{self.trials} trials" + (f" ({counted})" if counted else "")

    def other_settings(self, study: str) -> str:
        """Settings of all its runs that are not those of a table's study file, in a few words; "" = none."""
        theirs = settings_of_results(self._shipped(study).config())
        ours = settings_of_results(self._study.file.config())
        for settings in (theirs, ours):
            settings["data"].pop("shards")  # the data tell by their figures what they are
        changed = sorted(differences(theirs, ours))
        more = [f"and {len(changed) - _NAMED} more"] if len(changed) > _NAMED else []
        return ", ".join(changed[:_NAMED] + more)

    def records(self, study: str, point: Mapping[str, Any]) -> list[Record]:
        """The trials of a point, of all seeds and of all values of dimensions that it does not have.

        Args:
            study: stem of the table's file in configs/paper.
            point: shown values, by dimension of that file.
        """
        key = (study, identity(dict(point)))
        if key not in self._points:
            self._points[key] = self._lookup(study, point)
        return self._points[key]

    def _lookup(self, study: str, point: Mapping[str, Any]) -> list[Record]:
        space = self._space(study)
        axes = [
            [(name, label) for label, shown in one.values.items() if name not in point or shown == point[name]]
            for name, one in space.dimensions.items()
        ]
        seeds = sorted({record.facts["seed"] for record in self._records.values()})
        found: dict[str, Record] = {}
        for seed, corner in itertools.product(seeds, itertools.product(*axes)):
            with contextlib.suppress(ConfigError):  # the row contradicts what the study's runs share: it has none
                hashed = content_hash(space.config({**dict(corner), SEED: seed}))
                if hashed in self._records:
                    found[hashed] = self._records[hashed]
        return list(found.values())

    def found(self, study: str, point: Mapping[str, Any], figure: str, of: str, rule: str) -> list[Found]:
        """The numbers of those of a point's trials that were evaluated."""
        evaluated = [self._metrics(record) for record in self.records(study, point)]
        numbers = [found_in(*one, figure, of, rule) for one in evaluated if one is not None]
        return [one for one in numbers if one is not None]

    def _metrics(self, record: Record) -> tuple[Mapping[str, Any], Data] | None:
        if record.id not in self._evaluated:
            path = record.run / "metrics.json"
            content = json.loads(path.read_text()) if path.is_file() else None
            self._evaluated[record.id] = None if content is None else (content, data_of(content, published()))
        return self._evaluated[record.id]

    def _space(self, study: str) -> Space:
        """That of a table's file, over the settings that this study's runs share."""
        if study not in self._spaces:
            settings = self._shipped(study).study.model_copy(update={"base": self._study.file.study.base})
            file = StudyFile(study=settings, **(self._study.file.model_extra or {}))
            self._spaces[study] = Space(file, checked=True)
        return self._spaces[study]

    def _shipped(self, study: str) -> StudyFile:
        return load_study(CONFIGS / f"{study}.yaml")
