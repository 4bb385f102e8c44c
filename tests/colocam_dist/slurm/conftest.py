"""Folders of submissions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.slurm.record import Part, SlurmFolder, Submission


@pytest.fixture
def submitted(tmp_path: Path) -> Callable[..., SlurmFolder]:
    """Makes the folder of a submission: ``submitted(runs, parts, **limits)``; the first run's if there is one run."""

    def make(runs: tuple[str, ...] = ("a",), parts: tuple[Part, ...] = (), **limits: Any) -> SlurmFolder:
        folders = [tmp_path / run for run in runs]
        for folder in folders:
            folder.mkdir()
        made = SlurmFolder(folders[0] if len(runs) == 1 else tmp_path / "group")
        given = {"max_requeues": 100, "max_restarts": 3, "warning": 120, **limits}
        made.write(Submission(tuple(map(str, folders)), parts or (Part(("classifier",)),), str(tmp_path), **given))
        return made

    return make
