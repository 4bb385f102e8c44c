"""A record by torch's profiler of a few steps of a stage: ``RUN/profile/<stage>.json.gz`` and ``<stage>.txt``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from colocam_dist.files import write_atomically

__all__ = ["StepProfiler"]

log = logging.getLogger(__name__)

BEFORE = 10  # steps that are not recorded, if the epoch has that many: the first ones allocate, compile and warm up
_ROWS = 40  # of the table of operators


class StepProfiler:
    """Records some steps of the epoch in progress, on the main rank; results do not change.

    Args:
        folder: where the files go; None = record nothing.
        stage: their name.
        steps: how many steps to record, fewer if the epoch has not that many.
        left: optimizer steps that are left of the epoch; recording ends with it, so that no validation is in it.
        device: what the rank computes on.
    """

    def __init__(self, folder: Path | None, stage: str, *, steps: int, left: int, device: torch.device) -> None:
        self._profile: profile | None = None
        if folder is None or steps == 0:
            return
        steps = min(steps, left - 1)
        if steps < 1:
            log.warning("%s: nothing is profiled, because the epoch has only %d step left", stage, left)
            return
        before = min(BEFORE, left - steps)
        warm = min(2, before)  # recorded and thrown away
        self._folder, self._stage, self._steps = folder, stage, steps
        self._left = before + steps
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        times = schedule(wait=before - warm, warmup=warm, active=steps, repeat=1)
        self._profile = profile(activities=activities, schedule=times, on_trace_ready=self._write, acc_events=True)
        self._profile.start()

    def step(self) -> None:
        """Call after each optimizer step."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if self._left == 0:
            self.close()

    def close(self) -> None:
        """Stop; a recording that is not complete is thrown away."""
        if self._profile is not None:
            recorder, self._profile = self._profile, None
            if self._left > 0:
                recorder.on_trace_ready = None
            recorder.stop()

    def _write(self, recorder: profile) -> None:
        """Both files, complete or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / f"{self._stage}.json.gz"
        partial = self._folder / f".{self._stage}.{os.getpid()}.json.gz"  # torch compresses by the name's ending
        try:
            recorder.export_chrome_trace(str(partial))
            partial.replace(trace)
        finally:
            partial.unlink(missing_ok=True)
        order = "self_device_time_total" if ProfilerActivity.CUDA in recorder.activities else "self_cpu_time_total"
        table = recorder.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=60)
        head = f"{self._steps} steps of stage {self._stage}, operators with the most time of their own first\n"
        write_atomically(trace.with_name(f"{self._stage}.txt"), head + table)
        log.info("%s: %d steps were profiled, see %s", self._stage, self._steps, trace)
