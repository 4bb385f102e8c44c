"""From the settings of a study to Ray Tune's schedulers and searchers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Repeater, Searcher
from ray.tune.search.optuna import OptunaSearch

from tune.settings import StudySettings
from tune.space import BORN, SEED, Dimension, Space

__all__ = ["metric", "param_space", "scheduler", "searcher"]

TIME = "epoch"


def metric(study: StudySettings) -> str:
    """What trials are compared by: their best epoch so far; for PBT, which copies weights as they are, the last one."""
    return "corloc" if study.scheduler.name == "pbt" else "best_corloc"


def scheduler(study: StudySettings, space: Space) -> TrialScheduler:
    """Who ends trials early."""
    settings = study.scheduler
    if settings.name == "asha":
        return ASHAScheduler(
            time_attr=TIME,
            max_t=max(space.epochs, settings.grace),
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
        )
    if settings.name == "median":
        return MedianStoppingRule(
            time_attr=TIME, grace_period=settings.grace, min_samples_required=settings.min_trials, hard_stop=True
        )
    if settings.name == "pbt":
        return PopulationBasedTraining(
            time_attr=TIME,
            perturbation_interval=settings.every,
            quantile_fraction=settings.quantile,
            hyperparam_mutations={
                "point": {
                    name: _domain(one) if one.range else list(one.choices) for name, one in space.dimensions.items()
                }
            },
            custom_explore_fn=_born,
            log_config=False,
        )
    return FIFOScheduler()


def _born(config: dict[str, Any]) -> dict[str, Any]:
    """Give what PBT has made of a trial a name of its own, even if none of its settings has changed."""
    return {**config, "point": {**config["point"], BORN: secrets.token_hex(4)}}


def searcher(study: StudySettings, space: Space, known: Sequence[dict[str, Any]]) -> Searcher | None:
    """What proposes points; None if there is a list of them.

    Args:
        study: its settings.
        space: likewise.
        known: points of earlier sessions, which are proposed again, in their order, so that it learns from them.
    """
    if study.search != "tpe":
        return None
    points = [
        {name: point[name] for name in space.dimensions}
        for point in known
        if all(name in point and one.has(point[name]) for name, one in space.dimensions.items())
    ]
    unique = list({tuple(point.items()): point for point in points}.values())
    proposer = OptunaSearch(
        OptunaSearch.convert_search_space({name: _domain(one) for name, one in space.dimensions.items()}),
        metric=metric(study),
        mode="max",
        points_to_evaluate=unique or None,
        seed=study.search_seed,
    )
    return Repeater(proposer, repeat=len(study.seeds)) if len(study.seeds) > 1 else proposer


def _domain(dimension: Dimension) -> Any:
    bounds = dimension.range
    if bounds is None:
        return ray_tune.choice(list(dimension.choices))
    if bounds.integer:
        low, high = int(bounds.low), int(bounds.high) + 1  # Ray's upper bound is not part of the range
        return ray_tune.lograndint(low, high) if bounds.log else ray_tune.randint(low, high)
    return ray_tune.loguniform(bounds.low, bounds.high) if bounds.log else ray_tune.uniform(bounds.low, bounds.high)


def param_space(study: StudySettings, points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What Ray is to vary: a list of points, or, for a searcher, the seed only."""
    if study.search != "tpe":
        return {"point": ray_tune.grid_search(list(points))}
    return {SEED: study.seeds[0]} if len(study.seeds) == 1 else {"seeds": list(study.seeds)}
