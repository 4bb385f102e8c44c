"""From settings to Ray Tune's schedulers and searchers, without a Ray cluster."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search import Repeater
from ray.tune.search.optuna import OptunaSearch

from tune.search import metric, param_space, scheduler, searcher
from tune.space import BORN, Space
from tune.trial import point_of

LR = "localizer.optimizer.lr"
SPACE = {
    LR: {"low": 0.001, "high": 0.1, "log": True},
    "data.n_frames": [1, 2, 4],
    "localizer.seeds.n_fg": {"low": 3, "high": 9, "integer": True},
}
TPE = {"space": SPACE, "search": "tpe", "samples": 8}


def made(desk: Any, **study: Any) -> tuple[Any, Space]:
    file = desk.file(**study)
    return file.study, Space(file, checked=True)


def test_without_a_scheduler_trials_end_by_themselves(desk: Any) -> None:
    study, space = made(desk)
    assert type(scheduler(study, space)) is FIFOScheduler
    assert metric(study) == "best_corloc"
    assert searcher(study, space, []) is None


def test_asha_ends_at_the_longest_trial(desk: Any) -> None:
    settings = {"name": "asha", "grace": 2, "reduction": 4}
    study, space = made(desk, scheduler=settings, space={"localizer.epochs": [3, 32]})
    found = scheduler(study, space)
    assert isinstance(found, ASHAScheduler)
    assert (found._time_attr, found._max_t, found._reduction_factor) == ("epoch", 32, 4)
    assert [milestone for milestone, _ in found._brackets[0]._rungs] == [32, 8, 2]
    assert metric(study) == "best_corloc"
    study, space = made(desk, scheduler={"name": "asha", "grace": 9})
    assert scheduler(study, space)._max_t == 9  # type: ignore[attr-defined]


def test_the_median_rule_waits_for_grace_and_for_trials(desk: Any) -> None:
    found = scheduler(*made(desk, scheduler={"name": "median", "grace": 2, "min_trials": 5}))
    assert isinstance(found, MedianStoppingRule)
    assert (found._time_attr, found._grace_period, found._min_samples_required) == ("epoch", 2, 5)
    assert found._hard_stop


PBT = {"name": "pbt", "every": 2, "quantile": 0.4}
ON_THE_WAY = {
    LR: SPACE[LR],
    "localizer.seeds.n_fg": SPACE["localizer.seeds.n_fg"],
    "localizer.loss.colocalization.weight": [1, 2, 4],
}


def test_pbt_changes_the_point_and_names_what_it_has_made(desk: Any) -> None:
    study, space = made(desk, scheduler=PBT, space=ON_THE_WAY, search="random", samples=4)
    found = scheduler(study, space)
    assert isinstance(found, PopulationBasedTraining)
    assert (found._time_attr, found._perturbation_interval, found._quantile_fraction) == ("epoch", 2, 0.4)
    assert metric(study) == "corloc", "it copies weights as they are, not as they were"
    (point, *_) = space.points()

    trial = SimpleNamespace(config={"point": point}, evaluated_params={})
    born, changed = set(), set()
    for _ in range(60):
        config, _ = found._get_new_config(trial, trial)
        new = config["point"]
        assert new.keys() == {*space.dimensions, "run.seed", BORN}
        assert new["run.seed"] == point["run.seed"]
        assert new["localizer.loss.colocalization.weight"] in ("1", "2", "4")
        checked = space.config(new)
        assert 0.001 <= checked.localizer.optimizer.lr <= 0.1
        assert 3 <= checked.localizer.seeds.n_fg <= 9
        born.add(new[BORN])
        changed |= {name for name in space.dimensions if new[name] != point[name]}
    assert len(born) == 60
    assert changed == set(space.dimensions)
    assert point == space.points()[0], "the old one stays as it is"


def test_tpe_proposes_points_of_the_space(desk: Any, caplog: pytest.LogCaptureFixture) -> None:
    study, space = made(desk, **TPE)
    found = searcher(study, space, [])
    assert isinstance(found, OptunaSearch)
    assert not [record for record in caplog.records if record.name.startswith("ray")], "it has nothing to complain of"
    points = [found.suggest(f"t{number}") for number in range(12)]
    for point in points:
        assert point is not None
        assert all(one.has(point[name]) for name, one in space.dimensions.items())
        space.config({**point, "run.seed": 0})
    assert {point["localizer.seeds.n_fg"] for point in points if point} <= set(range(3, 10))
    again = searcher(study, space, [])
    assert again is not None
    assert [again.suggest(f"t{number}") for number in range(12)] == points, "by its seed"
    other = searcher(study.model_copy(update={"search_seed": 1}), space, [])
    assert other is not None
    assert other.suggest("t0") != points[0]


def test_all_bounds_of_a_range_of_integers_can_come(desk: Any) -> None:
    for log in (False, True):
        written = {"low": 1, "high": 2, "integer": True, "log": log}
        study, space = made(desk, search="tpe", samples=2, space={"localizer.seeds.n_fg": written})
        found = searcher(study, space, [])
        assert found is not None
        assert {(found.suggest(f"t{n}") or {})["localizer.seeds.n_fg"] for n in range(20)} == {1, 2}


KNOWN = [
    {LR: 0.012345678901234567, "data.n_frames": "4", "localizer.seeds.n_fg": 5, "run.seed": 0},
    {LR: 0.1, "data.n_frames": "1", "localizer.seeds.n_fg": 9, "run.seed": 0},
]


def test_known_points_are_proposed_again_first_and_exactly(desk: Any) -> None:
    study, space = made(desk, **TPE)
    known = [KNOWN[0], {**KNOWN[0], "run.seed": 1}, KNOWN[1]]
    found = searcher(study, space, known)
    assert found is not None
    wanted = [{name: point[name] for name in space.dimensions} for point in KNOWN]
    assert [found.suggest(f"t{number}") for number in range(2)] == wanted
    third = found.suggest("t2")
    assert third is not None
    assert third not in wanted


@pytest.mark.parametrize(
    "changed",
    [
        {LR: 0.5},
        {"data.n_frames": "3"},
        {"localizer.seeds.n_fg": 10},
        {"localizer.seeds.n_fg": "5"},
        {"localizer.seeds.n_fg": None},
    ],
)
def test_points_of_a_space_that_has_changed_are_not_proposed(changed: dict[str, Any], desk: Any) -> None:
    study, space = made(desk, **TPE)
    former = {name: value for name, value in {**KNOWN[0], **changed}.items() if value is not None}
    found = searcher(study, space, [former, KNOWN[1]])
    assert found is not None
    assert found.suggest("t0") == {name: KNOWN[1][name] for name in space.dimensions}


def test_with_seeds_each_point_is_repeated_and_learned_from_by_its_mean(desk: Any) -> None:
    study, space = made(desk, **TPE, seeds=[7, 8])
    found = searcher(study, space, [*KNOWN, {**KNOWN[0], "run.seed": 8}])
    assert isinstance(found, Repeater)
    shared = param_space(study, [])
    points = []
    for number in range(4):
        suggested = found.suggest(f"t{number}")
        assert suggested is not None
        points.append(point_of({**suggested, **(shared or {})}))
    assert points == [{**point, "run.seed": seed} for point in KNOWN for seed in (7, 8)]
    told: list[tuple[str, float]] = []
    found.searcher.on_trial_complete = lambda id, result, **more: told.append((id, result["best_corloc"]))  # type: ignore[method-assign]
    for number, corloc in enumerate((10.0, 30.0)):
        found.on_trial_complete(f"t{number}", {"best_corloc": corloc, "epoch": 3})
    assert told == [("t0", 20.0)]


def test_what_ray_varies_are_points_and_seeds(desk: Any) -> None:
    study, space = made(desk)
    points = space.points()
    assert param_space(study, points) == {"point": {"grid_search": points}}
    assert param_space(made(desk, **TPE, seeds=[5])[0], []) == {"run.seed": 5}
    assert param_space(made(desk, **TPE, seeds=[5, 6])[0], []) == {"seeds": [5, 6]}
    assert point_of({"point": points[1]}) == points[1]
    config = {LR: 0.5, "seeds": [5, 6], "__trial_index__": 1}
    assert point_of(config) == {LR: 0.5, "run.seed": 6}
    assert config["seeds"] == [5, 6], "Ray's own is left as it is"


def test_a_logarithmic_range_is_searched_on_its_scale(desk: Any) -> None:
    study, space = made(desk, search="tpe", samples=2, space={LR: SPACE[LR]})
    found = searcher(study, space, [])
    assert found is not None
    levels = [math.log10((found.suggest(f"t{number}") or {})[LR]) for number in range(60)]
    assert -2.25 < sum(levels) / len(levels) < -1.75, "about the middle of -3 and -1"
