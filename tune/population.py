"""What population-based training adds: trials that begin with the weights of others, and replace them."""

from __future__ import annotations

import shutil
import time
from typing import Any

from tune.folder import Record, StudyFolder

__all__ = ["end_replaced", "inherit", "points_of_members"]


def inherit(parent: Record, child: Record) -> None:
    """Give a run that has not begun the checkpoints and best weights of another one, which may be going on."""
    source, target = (record.run / "checkpoints" / "localizer" for record in (parent, child))
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(".localizer.partial")
    for patience in (0.2, 1.0, 5.0, None):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".*"))
            break
        except (shutil.Error, FileNotFoundError):  # the parent has removed an old checkpoint on the way
            if patience is None:
                raise
            time.sleep(patience)
    partial.rename(target)


def end_replaced(folder: StudyFolder) -> None:
    """Of what a member of a population has done, only the newest goes on."""
    newest: dict[str, Record] = {}
    for record in folder.records("trial"):
        if record.member and record.member in newest:
            newest[record.member].finish("stopped", replaced=True)
        newest[record.member] = record


def points_of_members(folder: StudyFolder) -> list[dict[str, Any]]:
    """Where the members of a population are now: the points of trials that nothing has stopped or replaced."""
    living = [record for record in folder.records("trial") if (record.end or {}).get("state") != "stopped"]
    return [record.facts["point"] for record in living]
