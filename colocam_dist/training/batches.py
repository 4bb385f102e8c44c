"""From a global batch to what each rank computes at a time; the only place that derives a micro-batch."""

from __future__ import annotations

from colocam_dist.config import Config
from colocam_dist.errors import ConfigError

__all__ = ["micro_batch", "ranks_per_window", "stage_batch", "trained_stages"]


def micro_batch(global_batch: int, n_frames: int, world: int, accumulation: int, setting: str) -> tuple[int, int]:
    """Windows per optimizer step over all ranks, and per micro-batch on one rank.

    Args:
        global_batch: frames per optimizer step (the public code's 32). Windows = global_batch // n_frames; the rest
            is not filled with copies, as the public code does.
        n_frames: frames per window.
        world: number of ranks.
        accumulation: micro-batches per optimizer step on each rank.
        setting: name of the setting, for the error.

    Raises:
        ConfigError: the windows do not divide by world x accumulation.
    """
    windows = global_batch // n_frames
    share = world * accumulation
    if windows < 1 or windows % share:
        good = max(share, round(windows / share) * share) * n_frames
        raise ConfigError(
            "the global batch cannot be divided over the ranks",
            where=setting,
            got=f"{global_batch} frames = {windows} windows of {n_frames}, over {world} ranks x {accumulation} "
            "accumulation steps",
            wanted=f"a multiple of {share * n_frames} frames",
            fix=f"use {setting}={good}, or change engine.accumulation or the number of ranks",
        )
    return windows, windows // share


def ranks_per_window(config: Config, stage: str) -> int:
    """Ranks that have the same windows in this stage and share their frames."""
    return config.engine.window_ranks if stage == "localizer" else 1


def stage_batch(config: Config, stage: str, world: int) -> tuple[int, int]:
    """:func:`micro_batch` for the stage "classifier", whose windows are single frames, or "localizer".

    Raises:
        ConfigError: the windows do not divide, or the ranks do not among whom each is shared.
    """
    n_frames, settings = (1, config.classifier) if stage == "classifier" else (config.data.n_frames, config.localizer)
    together = ranks_per_window(config, stage)
    if world % together:
        raise ConfigError(
            "the ranks cannot be put into groups that share windows",
            where="engine.window_ranks",
            got=f"{together}, with {world} ranks",
            wanted=f"a multiple of {together} ranks",
            fix="change engine.window_ranks or the number of ranks",
        )
    groups, accumulation = world // together, config.engine.accumulation
    return micro_batch(settings.global_batch, n_frames, groups, accumulation, f"{stage}.global_batch")


def trained_stages(config: Config) -> list[str]:
    """The stages with training steps that the run does."""
    own = [] if config.classifier.from_run is not None else ["classifier"]
    return [stage for stage in (*own, "localizer") if stage in config.run.stages]
