"""What a stage will cost, said before it and after its first steps, and what it did cost."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from colocam_dist.errors import RunError
from colocam_dist.training.metrics import peak_memory_gib

__all__ = ["StageCost"]

log = logging.getLogger(__name__)

_FIRST_STEPS = 20  # after which the time is foretold; the first of them is slower and does not count


class StageCost:
    """Steps, disk, time and memory of one stage on this rank.

    Args:
        name: of the stage.
        epochs: of the stage.
        steps_per_epoch: optimizer steps.
        first_step: optimizer steps that earlier processes did.
        device: whose memory counts.
    """

    def __init__(self, name: str, epochs: int, steps_per_epoch: int, first_step: int, device: torch.device) -> None:
        self._name = name
        self._total = epochs * steps_per_epoch
        self._first = self._done = first_step
        self._epochs, self._steps = epochs, steps_per_epoch
        self._device = device
        self._began = self._counted_from = time.perf_counter()
        self._saving = 0.0

    def before(self, folder: Path, checkpoint_bytes: int, keep: int | None, *, must_fit: bool = True) -> str:
        """A line about what is to come; ``keep`` checkpoints stay, None = all that are written.

        Raises:
            RunError: there are steps to do, and the checkpoints that stay, and the one being written, cannot fit on the
                disk, those of earlier processes included. Without `must_fit` this is a warning.
        """
        at_once = (keep if keep is not None else self._epochs) + 1
        place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        free = shutil.disk_usage(place).free
        there = sum(file.stat().st_size for file in folder.glob("step-*/*"))
        left = self._total - self._first
        if left and at_once * checkpoint_bytes > free + there:
            no_space = RunError(
                "there is too little space for the checkpoints",
                where=folder,
                got=f"{free / 1e9:.2f} GB free" + (f", {there / 1e9:.2f} GB of checkpoints" if there else ""),
                wanted=f"about {at_once * checkpoint_bytes / 1e9:.2f} GB: {at_once} of {checkpoint_bytes / 1e6:.1f} MB",
                fix="free some space, set run.folder to another disk, or lower checkpoint.keep",
            )
            if must_fit:
                raise no_space
            log.warning("%s", no_space)
        return (
            f"{self._name}: {left} of {self._total} steps to do ({self._epochs} epochs of {self._steps}); checkpoints "
            f"of about {checkpoint_bytes / 1e6:.1f} MB, at most {at_once} at once, {free / 1e9:.1f} GB free"
        )

    def step(self) -> str | None:
        """Count a step; after the first ones, a line about the time that the others will take (without validation)."""
        self._done += 1
        here = self._done - self._first
        if here == 1:
            self._counted_from = time.perf_counter()
        if here != _FIRST_STEPS or self._done >= self._total:
            return None
        seconds = (time.perf_counter() - self._counted_from) / (here - 1)
        left = (self._total - self._done) * seconds
        return (
            f"{self._name}: {seconds * 1000:.0f} ms a step, so about {_duration(left)} of training are left, "
            f"validation not counted; {peak_memory_gib(self._device):.2f} GiB of memory at most so far"
        )

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count the time spent inside as time for checkpoints."""
        began = time.perf_counter()
        yield
        self._saving += time.perf_counter() - began

    def after(self) -> dict[str, float]:
        """What it did cost in this process: seconds with validation, those for checkpoints, steps, peak memory."""
        return {
            "seconds": time.perf_counter() - self._began,
            "saving_seconds": self._saving,
            "steps": float(self._done - self._first),
            "memory_gib": peak_memory_gib(self._device),
        }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
