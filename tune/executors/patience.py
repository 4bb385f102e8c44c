"""Starts processes of runs although the controller of SLURM is down or busy for a while."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from colocam_dist.config import Config
from colocam_dist.errors import ClusterError
from tune.executors import Work

__all__ = ["begin"]

log = logging.getLogger(__name__)

_FIRST, _LONGEST = 5.0, 60.0  # seconds between attempts
_PATIENCE = 600.0  # seconds
_LOOK_EVERY = 0.2  # seconds

_PASSES = re.compile(
    r"does not answer|contact slurm controller|slurm_load|zero bytes|timed out|temporarily|try again|connection refused"
    r"|submit limit|MaxSubmit|MaxJobs",
    re.IGNORECASE,
)
"""What SLURM says when the same job may be taken later."""


def begin(work: Work, config: Config, leaving: Callable[[], None]) -> None:
    """As ``work.begin(config)``, tried again for ten minutes while what SLURM says will pass.

    Args:
        work: of the run.
        config: of the run.
        leaving: called while it waits; raises when there is no point in that.

    Raises:
        ClusterError: SLURM refuses the job, or does not take it for ten minutes.
    """
    began, pause = time.monotonic(), _FIRST
    while True:
        try:
            return work.begin(config)
        except ClusterError as error:
            if time.monotonic() - began > _PATIENCE or not _PASSES.search(f"{error.what} {error.got}"):
                raise
            log.warning("%s: %s; tried again in %.0f s", error.what, error.got, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            leaving()
            time.sleep(_LOOK_EVERY)
        pause = min(2 * pause, _LONGEST)
