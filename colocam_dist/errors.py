"""Errors for users: every message says what is wrong, where, what was found, what was wanted and how to fix it."""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "ColocamError",
    "ConfigError",
    "DataError",
    "MemoryLimitError",
    "PreemptedError",
    "RankLostError",
    "ReportedElsewhereError",
    "RunError",
    "WeightsError",
]


class ColocamError(ValueError):
    """Base of all errors that a user can cause and mend.

    Args:
        what: one sentence that names the problem.
        where: file, setting or frame where it was found.
        got: the offending value.
        wanted: what would have been accepted.
        fix: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        wanted: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = got
        self.wanted = wanted
        self.fix = fix
        facts = {"where": where, "got": got, "wanted": wanted, "fix": fix}
        super().__init__("\n".join([what, *(f"  {name}: {fact}" for name, fact in facts.items() if fact is not None)]))


class ConfigError(ColocamError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class DataError(ColocamError):
    """Shards, videos, annotations or archives are missing, damaged or inconsistent."""


class WeightsError(ColocamError):
    """Pretrained weights are missing, damaged, or do not fit the model."""


class RunError(ColocamError):
    """A run folder cannot be created, resumed or read."""


class ClusterError(ColocamError):
    """SLURM is absent, cannot be reached, or refuses what it was asked for."""


class PreemptedError(RunError):
    """The run was asked to stop and has saved its state; resumed, it goes on as if nothing had happened."""


class RankLostError(RunError):
    """Another rank died or hung, so this one cannot go on; the newest checkpoint is whole."""


class MemoryLimitError(RunError):
    """The device or the machine has too little memory for the micro-batch."""


class ReportedElsewhereError(ColocamError):
    """Rank 0 raised the error itself; the other ranks stop with it, silently."""
