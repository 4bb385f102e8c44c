"""Search spaces: labels, points and their order, and everything that is refused before the first trial."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from colocam_dist.errors import ConfigError
from tune.settings import Range
from tune.space import Dimension, Space

LR = "localizer.optimizer.lr"
WEIGHT = "localizer.loss.colocalization.weight"
LOG_LR = {LR: {"low": 0.001, "high": 0.1, "log": True}}
METHOD = {
    "PL": {"localizer.loss": {"frame_crf.weight": 0.0, "colocalization": {"weight": 0.0}}},
    "all": {},
}


def refused(desk: Any, *overrides: str, **study: Any) -> str:
    file = desk.file(*overrides, **study)
    with pytest.raises(ConfigError) as caught:
        Space(file).points()
    return str(caught.value)


def test_a_list_has_labels_and_shows_its_values() -> None:
    one = Dimension.of("model.output_stride", [8, "16", None, 0.5, True, {"a": 1}])
    assert list(one.choices) == ["8", "16", "null", "0.5", "true", '{"a": 1}']
    assert [one.shown(label) for label in one.choices] == [8, "16", None, 0.5, True, {"a": 1}]
    assert one.settings("16", {}) == ['model.output_stride="16"']
    assert one.settings('{"a": 1}', {}) == ["model.output_stride.a=1"]
    assert [one.has(value) for value in ("8", 8, "9")] == [True, False, False]
    assert [one.at(share) for share in (0.0, 0.16, 0.17, 0.999)] == ["8", "8", "16", '{"a": 1}']


def test_named_choices_set_several_settings_and_show_their_names() -> None:
    one = Dimension.of("method", METHOD)
    assert one.settings("PL", {}) == ["localizer.loss.frame_crf.weight=0.0", f"{WEIGHT}=0.0"]
    assert one.settings("all", {}) == []
    assert one.shown("PL") == "PL"


@pytest.mark.parametrize(
    ("written", "why"),
    [([], "has no values"), ([1, 2, 1], "has a value twice"), ([1, "1"], "has a value twice"), ({}, "has no choices")],
)
def test_a_dimension_needs_different_values(written: Any, why: str, desk: Any) -> None:
    assert f"data.n_frames: {why}" in refused(desk, space={"data.n_frames": written})


@pytest.mark.parametrize(
    ("bounds", "shares"),
    [
        ({"low": 1.0, "high": 3.0}, {0.0: 1.0, 0.25: 1.5, 0.5: 2.0}),
        ({"low": 0.01, "high": 1.0, "log": True}, {0.0: 0.01, 0.5: 0.1, 0.25: 10**-1.5}),
        ({"low": -2.0, "high": 2.0}, {0.0: -2.0, 0.5: 0.0}),
    ],
)
def test_a_range_is_uniform_on_its_scale(bounds: dict[str, Any], shares: dict[float, float]) -> None:
    one = Dimension.of("x", Range(**bounds))
    for share, wanted in shares.items():
        assert one.at(share) == pytest.approx(wanted, rel=1e-12)
    assert (one.whole(-99.0), one.whole(99.0)) == (bounds["low"], bounds["high"])
    assert (one.has(bounds["high"]), one.has(99.0), one.has("2")) == (True, False, False)
    assert one.settings(1.25 * bounds["high"], {}) == [f"x={bounds['high']}"], "PBT leaves the range, settings do not"


@pytest.mark.parametrize("log", [False, True])
def test_integers_of_a_range_have_equal_shares_at_its_ends(log: bool) -> None:
    one = Dimension.of("x", Range(low=1, high=4, log=log, integer=True))
    counts = dict.fromkeys((1, 2, 3, 4), 0)
    for step in range(4000):
        value = one.at(step / 4000)
        assert isinstance(value, int)
        counts[value] += 1
    low, high = 0.5, 4.5
    for value, count in counts.items():  # the interval that rounds to it, on the scale
        below, above = value - 0.5, value + 0.5
        wanted = math.log(above / below) / math.log(high / low) if log else (above - below) / (high - low)
        assert count == pytest.approx(4000 * wanted, abs=2)


def test_the_points_of_a_grid_come_seed_by_seed_in_the_order_of_the_file(desk: Any) -> None:
    space = Space(desk.file(space={"data.n_frames": [4, 1], "method": METHOD}, seeds=[7, 3]))
    wanted = [
        {"data.n_frames": n, "method": method, "run.seed": seed}
        for seed, n, method in itertools.product((7, 3), ("4", "1"), ("PL", "all"))
    ]
    assert space.points() == wanted
    config = space.config(wanted[5])
    assert (config.run.seed, config.data.n_frames) == (3, 4)
    assert config.localizer.loss.colocalization.weight == 9.0
    assert space.config(wanted[4]).localizer.loss.colocalization.weight == 0.0
    assert space.shown(wanted[4]) == {"data.n_frames": 4, "method": "PL"}


def test_random_points_stay_when_samples_seeds_and_dimensions_are_added(desk: Any) -> None:
    space = {**LOG_LR, "data.n_frames": [1, 2, 4]}
    few = Space(desk.file(space=space, search="random", samples=4)).points()
    more = Space(desk.file(space=space, search="random", samples=9)).points()
    assert more[:4] == few
    assert len({point[LR] for point in more}) == 9
    assert {point["data.n_frames"] for point in more} == {"1", "2", "4"}
    wider = Space(desk.file(space={WEIGHT: {"low": 1, "high": 9}, **space}, search="random", samples=4)).points()
    assert [{name: point[name] for name in few[0]} for point in wider] == few
    seeds = Space(desk.file(space=space, search="random", samples=4, seeds=[0, 1])).points()
    assert seeds == [*few, *({**point, "run.seed": 1} for point in few)]
    other = Space(desk.file(space=space, search="random", samples=4, search_seed=1)).points()
    assert not {point[LR] for point in other} & {point[LR] for point in few}


def test_a_random_point_that_comes_again_is_done_once(desk: Any) -> None:
    points = Space(desk.file(search="random", samples=30)).points()
    assert sorted(point["data.n_frames"] for point in points) == ["1", "2", "4"]


def test_random_numbers_cover_a_range_evenly(desk: Any) -> None:
    values = sorted(point[LR] for point in Space(desk.file(space=LOG_LR, search="random", samples=100)).points())
    levels = [math.log(value / 0.001) / math.log(100) for value in values]
    worst = max(abs(level - (place + 0.5) / 100) for place, level in enumerate(levels))
    assert worst < 0.163, "Kolmogorov-Smirnov distance, 1 % level for 100 numbers"


def test_dimensions_are_random_by_themselves(desk: Any) -> None:
    space = {"localizer.loss.colocalization.sigma_rgb": {"low": 1, "high": 2}, WEIGHT: {"low": 1, "high": 2}}
    points = Space(desk.file(space=space, search="random", samples=100), checked=True).points()
    one, other = np.array([[point[name] for name in space] for point in points]).T
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.26, "1 % level for 100 pairs"


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({"data.n_frmes": [1, 2]}, "data.n_frmes=1: data.n_frmes [study]: unknown setting; did you mean data.n_frames"),
        ({"localizer.optimizer.rl": {"low": 0.1, "high": 1.0}}, "unknown setting; did you mean localizer.optimizer"),
        ({"m": {"a": {"data.nframes": 1}}}, "m=a: data.nframes [study]: unknown setting; did you mean data.n_frames"),
        ({"data.n_frames": [1, "many"]}, "data.n_frames=many: data.n_frames [study]: Input should be a valid integer"),
        ({"data.n_frames": [1, 9]}, "data.n_frames=9: localizer.global_batch (8 frames) is smaller than one window"),
        ({"model.encoder": ["resnet18", "resnet51"]}, "unknown encoder"),
        ({LR: {"low": -1.0, "high": 1.0}}, "localizer.optimizer.lr=-1.0: localizer.optimizer.lr [study]"),
        ({"model.weights": ["none", "nowhere.pt"]}, "there is no such file of weights"),
        ({"data.train_split": ["train", "nowhere"]}, "data.train_split=nowhere: "),
        ({"m": {"a": {"data.n_frames": "$k"}}}, "$k is not a dimension"),
    ],
)
def test_a_typo_is_found_before_the_first_trial(space: dict[str, Any], why: str, desk: Any) -> None:
    study = {"space": space}
    if any("low" in written for written in space.values()):
        study |= {"search": "random", "samples": 2}
    file = desk.file(**study)
    with pytest.raises(ConfigError, match="1 problem in the search space") as caught:
        Space(file)
    assert why in str(caught.value)
    assert caught.value.where == "study.space"


def test_what_is_checked_already_is_not_opened_again(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(config: Any, world: int) -> None:
        raise AssertionError("the data is opened")

    monkeypatch.setattr("tune.space.check_run", check)
    file = desk.file()
    with pytest.raises(AssertionError):
        Space(file)
    assert Space(file, checked=True).points() == [{"data.n_frames": n, "run.seed": 0} for n in ("1", "2", "4")]
    with pytest.raises(ConfigError, match=r"run\.seed is set by the study itself"):
        Space(desk.file(space={"run.seed": [1, 2]}), checked=True)


def test_all_problems_of_a_space_are_said_at_once(desk: Any) -> None:
    message = refused(desk, space={"data.nframes": [1], "data.flip": ["perhaps"], "data.n_frames": [2, 64]})
    assert message.startswith("3 problems in the search space")


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({"run.seed": [0, 1]}, "run.seed is set by the study itself"),
        ({"run.name": ["a", "b"]}, "run.name is set by the study itself"),
        ({"m": {"a": {"run": {"folder": "x"}}}}, "m: run.folder is set by the study itself"),
        ({"data.n_frames": [1], "m": {"a": {"data.n_frames": 2}}}, "m: data.n_frames is set by data.n_frames as well"),
        (
            {"localizer.loss.colocalization": [{"weight": 1.0}], WEIGHT: [1.0]},
            f"{WEIGHT}: {WEIGHT} is set by localizer.loss.colocalization as well",
        ),
    ],
)
def test_a_setting_belongs_to_one_dimension(space: dict[str, Any], why: str, desk: Any) -> None:
    assert why in refused(desk, space=space)


@pytest.mark.parametrize(
    "space",
    [{"data.workers": [0, 1]}, {"m": {"a": {"data.flip": True}, "b": {}}}, {"checkpoint.keep": [1, 2]}],
)
def test_values_that_compute_the_same_are_refused(space: dict[str, Any], desk: Any) -> None:
    ((name, (first, second)),) = space.items()
    assert f"{name}={first} and {name}={second} compute the same" in refused(desk, space=space)


def test_values_that_contradict_each_other_only_together_are_named(desk: Any) -> None:
    space = {"data.resize": [64, 96], "data.crop": [48, 64], "localizer.global_batch": [8, 12]}
    assert len(Space(desk.file(space=space)).points()) == 8
    space = {"data.n_frames": [1, 4], "localizer.global_batch": [8, 2]}
    message = refused(desk, "data.n_frames=1", space=space, seeds=[0, 1])
    assert message.startswith("1 point of the search space cannot be run")
    assert "data.n_frames=4, localizer.global_batch=2: localizer.global_batch (2 frames) is smaller" in message
    message = refused(desk, resources={"ranks": 2}, space={"data.n_frames": [2, 4], "localizer.global_batch": [8, 4]})
    assert "data.n_frames=4, localizer.global_batch=4: the global batch cannot be divided over the ranks" in message


def test_devices_that_jobs_of_trials_would_not_have_are_named(desk: Any) -> None:
    message = refused(desk, "engine.precision=bf16", executor="slurm")
    assert "the run's precision wants GPUs and the job has none" in message
    file = desk.file("engine.precision=bf16", "slurm.gpus_per_node=1", executor="slurm")
    assert len(Space(file).points()) == 3


def test_of_many_points_that_cannot_be_run_ten_are_named(desk: Any) -> None:
    space = {"data.n_frames": [1, 8], "localizer.global_batch": [4, 5, 6, 7], "classifier.epochs": [1, 2, 3]}
    message = refused(desk, "data.n_frames=1", space=space)
    assert message.startswith("12 points of the search space cannot be run")
    assert message.count("smaller than one window") == 10
    assert "and 2 more" in message


def test_with_slurm_the_ranks_are_those_of_the_jobs(desk: Any) -> None:
    study = {"space": {"data.n_frames": [4, 8]}, "executor": "slurm"}
    assert len(Space(desk.file(**study)).points()) == 2
    message = refused(desk, "slurm.tasks_per_node=2", **study)
    assert "data.n_frames=8: the global batch cannot be divided over the ranks" in message
    assert "over 2 ranks" in message


def test_a_variable_stands_for_the_value_of_another_dimension(desk: Any) -> None:
    method = {"CoLo": {"data.n_frames": "$n"}, "TCAM": {"data.n_frames": 1, "localizer.seeds.temporal_frames": "$n"}}
    space = Space(desk.file(space={"n": [1, 4], "method": method}))
    found = {
        (point["n"], point["method"]): (config.data.n_frames, config.localizer.seeds.temporal_frames)
        for point in space.points()
        for config in [space.config(point)]
    }
    assert found == {("1", "CoLo"): (1, 1), ("4", "CoLo"): (4, 1), ("4", "TCAM"): (1, 4)}, "twins are done once"
    message = refused(desk, space={"n": [1, 64], "method": method})
    assert "method=CoLo, n=64: localizer.global_batch (8 frames) is smaller" in message


PBT = {"scheduler": {"name": "pbt"}, "search": "random", "samples": 2}


def test_pbt_takes_only_what_may_change_on_the_way(desk: Any) -> None:
    Space(desk.file(space={**LOG_LR, "localizer.seeds.n_fg": [10, 20], "m": METHOD}, **PBT))
    for space, key in (
        ({"data.n_frames": [1, 2]}, "data.n_frames"),
        ({"localizer.epochs": [1, 2]}, "localizer.epochs"),
        ({"m": {"a": {"model.encoder": "vgg16"}}}, "model.encoder"),
    ):
        message = refused(desk, space=space, **PBT)
        assert f"pbt cannot change {key} between epochs; wanted localizer.optimizer.*" in message


def test_the_longest_run_is_known(desk: Any) -> None:
    assert Space(desk.file()).epochs == 3
    assert Space(desk.file(space={"localizer.epochs": [2, 9, 4]})).epochs == 9
    study = {"space": {"localizer.epochs": {"low": 1, "high": 7, "integer": True}}, "search": "random", "samples": 2}
    assert Space(desk.file(**study)).epochs == 7
    assert Space(desk.file(space={"m": {"a": {"localizer.epochs": 1}, "b": {"localizer.epochs": 2}}})).epochs == 3
