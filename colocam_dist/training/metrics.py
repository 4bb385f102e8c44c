"""What a run reports while it goes on: ``metrics.jsonl``, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import logging
import math
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from colocam_dist.files import WholeLines

__all__ = ["MetricsLog", "StepClock", "peak_memory_gib"]

log = logging.getLogger(__name__)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far, in GiB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class StepClock:
    """Splits wall time into waiting for data and working, and counts frames, since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._start = self._mark = time.perf_counter()
        self._wait = 0.0
        self._frames = 0

    def working(self) -> None:
        """Call when work on a batch begins: the time since the last call was waiting for data."""
        now = time.perf_counter()
        self._wait += now - self._mark
        self._mark = now

    def waiting(self, frames: int) -> None:
        """Call when work on a batch of `frames` frames ends."""
        self._mark = time.perf_counter()
        self._frames += frames

    def read(self, world: int) -> dict[str, float]:
        """Frames per second over all ranks and the share of time spent waiting for data; starts a new interval."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        rates = {"frames_per_s": world * self._frames / elapsed, "data_wait": self._wait / elapsed}
        self._reset()
        return rates


class MetricsLog:
    """Writes rows on the main rank; a no-op on the others.

    Each row is ``{"stage", "kind", "epoch", "step", **values}``; `kind` is "train", "validation" or "stage".
    Non-finite numbers are written as strings, because JSON has none. A row that cannot be written, because the disk is
    full, is lost with a warning: a run is worth more than its curves.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool) -> None:
        self._file: WholeLines | None = None
        self._board = None
        self._lost = 0
        if folder is not None:
            self._file = WholeLines(folder / "metrics.jsonl")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, stage: str, kind: str, epoch: int, step: int, values: Mapping[str, Any]) -> None:
        """Append one row; numbers also go to TensorBoard as ``stage/kind/name``."""
        if self._file is None:
            return
        row = {"stage": stage, "kind": kind, "epoch": epoch, "step": step}
        row.update({name: _json_number(value) for name, value in values.items()})
        try:
            self._file.write(json.dumps(row))
            if self._board is not None:
                for name, value in values.items():
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        self._board.add_scalar(f"{stage}/{kind}/{name}", value, step)
        except OSError as error:
            self._lost += 1
            if self._lost in (1, 10, 100) or self._lost % 1000 == 0:
                log.warning("%d rows of metrics could not be written: %s", self._lost, error.strerror)

    def progress(self, stage: str, epochs: int, epoch: int, steps: int, done: int) -> tqdm[Any]:
        """A bar over one epoch's optimizer steps; silent on other ranks and when the output is no terminal."""
        return tqdm(
            desc=f"{stage} {epoch + 1}/{epochs}",
            total=steps,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            disable=None if self._file is not None else True,
        )

    def close(self) -> None:
        """Flush and close both sinks."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._board is not None:
            self._board.close()
            self._board = None


def _json_number(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value
