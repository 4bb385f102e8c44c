"""Settings of a study: what is refused, what overrides mean, and that the written file repeats the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import dump, load
from colocam_dist.errors import ConfigError
from tune.settings import Range, as_overrides, load_study

RANGE = {"localizer.optimizer.lr": {"low": 0.01, "high": 0.1}}


def refused(desk: Any, *overrides: str, **study: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        desk.file(*overrides, **study)
    return str(caught.value)


@pytest.mark.parametrize(
    ("study", "why"),
    [
        ({"search": "random", "space": RANGE}, "study.samples is wanted with study.search random or tpe"),
        ({"search": "tpe", "space": RANGE}, "study.samples is wanted with study.search random or tpe"),
        ({"samples": 3}, "study.samples is of no use with study.search=grid"),
        ({"space": RANGE}, "a grid wants lists of values, but localizer.optimizer.lr has low and high"),
        ({"seeds": [0, 1, 0]}, "study.seeds has a seed twice ([0, 1, 0])"),
        ({"seeds": []}, "study.seeds is empty"),
        ({"seeds": [-1]}, "study.seeds.0"),
        ({"search": "tpe", "samples": 3, "seeds": [0, 1], "scheduler": {"name": "asha"}}, "take one seed"),
        ({"search": "tpe", "samples": 3, "scheduler": {"name": "pbt"}}, "pbt is a search of its own"),
        ({"seeds": [0, 1], "scheduler": {"name": "pbt"}}, "pbt is a search of its own"),
        ({"scheduler": {"name": "ahsa"}}, "study.scheduler.name"),
        ({"scheduler": {"name": "asha", "reduction": 1.0}}, "study.scheduler.reduction"),
        ({"scheduler": {"name": "pbt", "quantile": 0.6}}, "study.scheduler.quantile"),
        ({"name": "../elsewhere"}, "study.name"),
        ({"space": {}}, "study.space"),
        ({"ask_slurm_every": 0.1}, "study.ask_slurm_every"),
        ({"executor": "cloud"}, "study.executor"),
        ({"resources": {"gpu": 1}}, "study.resources.gpu"),
        ({"samplse": 3}, "did you mean study.samples"),
    ],
)
def test_what_makes_no_sense_is_refused(study: dict[str, Any], why: str, desk: Any) -> None:
    message = refused(desk, **study)
    assert why in message
    assert message.startswith("1 problem in the settings")
    assert str(desk.path) in message


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (3, ["study.space.x [", "wanted a list of values, {low: ..., high: ...}, or choices with names", "got 3"]),
        ({"low": 1.0, "hihg": 2.0}, ["study.space.x.range.high [", "required", "study.space.x.range.hihg ["]),
        ({"low": 3, "high": 2}, ["study.space.x.range [", "low (3) is not below high (2)"]),
        ({"low": 2, "high": 2}, ["low (2) is not below high (2)"]),
        ({"low": 0.0, "high": 2.0, "log": True}, ["a logarithmic range begins above 0 (got low 0)"]),
        ({"low": 1.5, "high": 3.0, "integer": True}, ["integers as bounds (got 1.5 and 3)"]),
        ({"a": {"data.n_frames": 1}, "b": 2}, ["study.space.x.choices.b [", "valid dictionary", "got 2"]),
        ({4: {"data.n_frames": 4}}, ["study.space.x.choices.4", "valid string", "got 4"]),
    ],
)
def test_a_dimension_in_a_wrong_form_is_told_by_that_form(written: Any, lines: list[str], desk: Any) -> None:
    message = refused(desk, space={"x": written})
    assert all(line in message for line in lines), message
    assert "function-after" not in message
    assert message.count("\n  - ") == message.count("study.space.x")


def test_everything_that_is_wrong_is_said_at_once(desk: Any) -> None:
    message = refused(desk, "study.retries=-1", "junk", name="..", seeds=["x"])
    assert message.startswith("4 problems in the settings")
    for part in ("study.retries [command line]", "junk: not an override", "study.name [", "study.seeds.0 ["):
        assert part in message


def test_settings_that_runs_share_are_checked_with_the_study(desk: Any) -> None:
    assert "data.nframes [study]: unknown setting; did you mean data.n_frames" in refused(desk, "data.nframes=3")
    assert "data.crop (128) is larger than data.resize (64)" in refused(desk, "data.crop=128")
    assert "data is a value, not a section" not in refused(desk, "data.n_frames.x=3")
    assert "data.n_frames is a value, not a section" in refused(desk, "data.n_frames.x=3")


def test_a_file_without_a_study_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {shards: here}\n")
    with pytest.raises(ConfigError, match=r"study .*: required setting is missing"):
        load_study(path)


def test_study_is_for_the_study_and_the_rest_for_its_runs(desk: Any) -> None:
    overrides = ("study.seeds=[3,4]", "study.scheduler.name=asha", "localizer.optimizer.lr=0.5", "data.resize=80")
    file = desk.file(*overrides)
    assert file.study.seeds == (3, 4)
    assert file.study.scheduler.name == "asha"
    config = file.config()
    assert config.localizer.optimizer.lr == 0.5
    assert (config.data.resize, config.data.crop) == (80, 48), "the file wins over the recipe, overrides over the file"
    assert config.localizer.epochs == 3
    assert file.config(["localizer.epochs=7"]).localizer.epochs == 7


def test_the_sections_of_the_file_win_over_the_recipe(desk: Any) -> None:
    desk.recipe.write_text(desk.recipe.read_text() + "localizer: {epochs: 9, optimizer: {lr: 0.25}}\n")
    config = desk.file().config()
    assert (config.localizer.epochs, config.localizer.optimizer.lr) == (3, 0.25)
    assert "cannot be read" in refused(desk, base=str(desk.folder / "nowhere.yaml"))


def test_without_a_recipe_the_file_says_all(desk: Any) -> None:
    shards = desk.file().config().data.shards
    file = desk.file(f"data.shards={shards}", base=None)
    assert file.config() == load(None, list(file.run_settings))
    assert file.config().data.n_frames == 4, "the default"
    assert "data [defaults]: required setting is missing" in refused(desk, base=None)


def test_the_command_line_widens_a_space(desk: Any) -> None:
    file = desk.file("study.space.data.n_frames=[1, 2, 4, 8]", "study.space.x={low: 1, high: 2}", "study.search=random",
                     "study.samples=2")  # fmt: skip
    assert file.study.space == {"data.n_frames": [1, 2, 4, 8], "x": Range(low=1, high=2)}
    assert desk.file("study.space={data.resize: [64]}").study.space.keys() == {"data.n_frames", "data.resize"}


def test_the_dump_of_a_study_is_the_study(desk: Any) -> None:
    space = {
        "data.n_frames": [1, 2, None],
        "localizer.optimizer.lr": {"low": 1e-4, "high": 0.1, "log": True},
        "method": {"a": {"localizer.loss": {"frame_crf.weight": 0.0}}, "b": {}},
    }
    file = desk.file(space=space, search="random", samples=5, scheduler={"name": "median"})
    again = desk.folder / "again.yaml"
    again.write_text(dump(file))
    assert load_study(again) == file
    assert isinstance(load_study(again).study.space["localizer.optimizer.lr"], Range)
    assert load_study(again).config() == file.config()


def test_powers_of_ten_are_numbers(desk: Any) -> None:
    desk.write()
    desk.path.write_text(
        desk.path.read_text().replace("space:\n", "space:\n    lr: [1e-4, 2.5E-3, 1.0e-2, sgd, '1-2']\n")
    )
    assert load_study(desk.path).study.space["lr"] == [0.0001, 0.0025, 0.01, "sgd", "1-2"]


@pytest.mark.parametrize(
    ("resources", "ranks"),
    [({}, 1), ({"gpus": 0.5}, 1), ({"gpus": 2}, 2), ({"gpus": 2, "ranks": 1}, 1), ({"cpus": 2, "ranks": 2}, 2)],
)
def test_a_trial_has_a_rank_for_each_whole_gpu(resources: dict[str, Any], ranks: int, desk: Any) -> None:
    assert desk.file(resources=resources).study.ranks == ranks


def test_nested_settings_become_overrides_that_load_to_the_same(desk: Any) -> None:
    tree = {"a": {"b.c": 1, "d": {}}, "e": [1, {"f": None}], "g": "1e3", "h": True, "i": {"j": {"k": 1e-5}}}
    assert list(as_overrides(tree)) == ["a.b.c=1", "a.d={}", 'e=[1, {"f": null}]', 'g="1e3"', "h=true", "i.j.k=1e-05"]
    config = desk.file('slurm.sbatch={comment: "a b"}', "data.caveats=['x: y']", "slurm.time='1:30:00'").config()
    assert config.slurm.sbatch == {"comment": "a b"}
    assert config.data.caveats == ("x: y",)
    assert config.slurm.time == "1:30:00"
