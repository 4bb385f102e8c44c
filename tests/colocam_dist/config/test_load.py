"""Settings: round trip, overrides, and errors that name everything at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from colocam_dist.config import dump, load, parse, setting_names
from colocam_dist.config.command_line import Supervision
from colocam_dist.config.load import load_model
from colocam_dist.config.section import Section
from colocam_dist.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_its_dump_repeats_it(recipe: Path, tmp_path: Path) -> None:
    config = load(recipe)
    again = tmp_path / "config.yaml"
    again.write_text(dump(config))
    assert load(again) == config


def test_the_recipes_of_the_readme_exist() -> None:
    names = {path.stem for path in RECIPES}
    assert {"demo", "mini_yto22", "youtube_objects_v1_resnet50", "youtube_objects_v1_vit_small"} <= names
    assert {f"youtube_objects_v2.2_{encoder}" for encoder in ("resnet50", "vgg16", "inceptionv3")} <= names


def test_overrides_win_over_the_file_and_are_applied_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {shards: here, n_frames: 2}\nlocalizer: {optimizer: {lr: 1e-3}}\n")
    config = load(path, ["data.n_frames=3", "data.n_frames=5", "localizer.loss.colocalization.weight=7"])
    assert config.data.n_frames == 5
    assert config.localizer.optimizer.lr == 1e-3, "YAML reads 1e-3 as text; the schema must still see a number"
    assert config.localizer.loss.colocalization.weight == 7


def test_what_an_alias_repeats_is_changed_in_one_place_only(tmp_path: Path) -> None:
    recipe = tmp_path / "aliases.yaml"
    recipe.write_text("classifier: {optimizer: &o {lr: 0.1}}\nlocalizer: {optimizer: *o}\ndata: {shards: x}\n")
    config = load(recipe, ["localizer.optimizer.lr=0.5"])
    assert (config.classifier.optimizer.lr, config.localizer.optimizer.lr) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("text", "seconds"), [("060", "060"), ("60", 60), ("-0", 0), ("0", 0), ("0.5", 0.5), ("1e-4", "1e-4"), ("0x1f", 31)]
)
def test_numbers_that_begin_with_a_zero_are_not_read_in_base_8(text: str, seconds: object) -> None:
    config = load(None, ["data.shards=x", f"slurm.environment={{A: '{text}'}}", f"slurm.sbatch={{a: {text}}}"])
    assert config.slurm.sbatch["a"] == seconds


def test_home_is_known_in_paths_though_no_shell_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    given = ["data.shards=~/shards", "run.folder=~/runs", "cams.folder=~/cams", "classifier.from_run=~/runs/a"]
    config = load(None, [*given, "data.caveats=['~ is no path here']"])
    assert config.data.shards == "/home/someone/shards"
    assert config.run.folder == Path("/home/someone/runs")
    assert config.cams.folder == Path("/home/someone/cams")
    assert config.classifier.from_run == Path("/home/someone/runs/a")
    assert config.data.caveats == ("~ is no path here",)


def test_all_errors_come_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {shards: here, nframes: 2}\n")
    overrides = [
        "data.crop=wide",
        "classifier.epochs=-1",
        "localizer.loss.colocalisation.weight=3",
        "junk",
        "modle.x=1",
    ]
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert message.startswith("6 problems")
    assert f"data.nframes [{path}]: unknown setting; did you mean data.n_frames" in message
    assert "data.crop [command line]: Input should be a valid integer" in message
    assert "'wide'" in message
    assert "classifier.epochs [command line]" in message
    assert "did you mean localizer.loss.colocalization" in message
    assert "junk: not an override" in message
    assert "modle [command line]: unknown setting; did you mean model" in message


def test_an_unknown_section_of_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("localizer: {epochs: 2}\n")
    with pytest.raises(ConfigError, match=r"localizer\.los \[command line\]: unknown setting"):
        load(path, ["localizer.los.frame_crf.weight=1"])


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.crop=512"], "larger than data.resize"),
        (["data.n_frames=40"], "smaller than one window"),
        (["localizer.seeds.dilation=4"], "must be odd"),
        (["localizer.seeds.temporal_frames=0"], "localizer.seeds.temporal_frames"),
        (["data.drop_shots=-1"], "data.drop_shots"),
        (["data.drop_seed=-1"], "data.drop_seed"),
        (["localizer.presence.mode=drop", "localizer.presence.threshold=0"], "threshold above 0"),
        (["localizer.presence.power=0"], "localizer.presence.power"),
        (["localizer.seeds.refresh_share=0"], "localizer.seeds.refresh_share"),
        (["localizer.loss.frame_crf.scale_epochs=2"], "belong together"),
        (["localizer.loss.frame_crf={scale: 0.5, scale_initial: 0.7, scale_epochs: 2}"], "larger than scale"),
        (["engine.window_ranks=3"], "cannot share windows of data.n_frames (4) frames"),
        (["engine.window_ranks=2", "localizer.loss.colocalization.backend=torch:exact"], "needs histograms"),
        (["engine.window_ranks=2", "localizer.loss.colocalization.mode=normalized_cut"], "needs its windows whole"),
        (["run.name=../evil"], "run.name"),
        (["data.n_frames=[1"], "not YAML"),
        (["data.n_frames=2", "data.n_frames.x=1"], "is a value, not a section"),
    ],
)
def test_contradictions_are_named(overrides: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=r"problems? in the settings") as caught:
        load(None, ["data.shards=here", *overrides])
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"), [("a: [", "not YAML"), ("- 1\n", "not a mapping"), (None, "cannot be read")]
)
def test_a_file_that_is_no_configuration_is_refused(content: str | None, part: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=part) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_the_command_line_takes_what_launchers_add() -> None:
    command = parse("x", ["--local_rank=1", "data.n_frames=4", "--config", "a.yaml", "run.seed=2", "--print-config"])
    assert command.config == Path("a.yaml")
    assert command.overrides == ("data.n_frames=4", "run.seed=2")
    assert command.print_config


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], None),
        (["--ranks", "3"], Supervision(ranks=3)),
        (["--max-restarts=2", "--grace", "0.5"], Supervision(max_restarts=2, grace=0.5)),
    ],
)
def test_this_process_starts_ranks_only_if_told_to(words: list[str], wanted: Supervision | None) -> None:
    command = parse("x", ["--config", "a.yaml", *words, "run.seed=2"])
    assert command.supervision == wanted
    assert command.overrides == ("run.seed=2",)


@pytest.mark.parametrize(("words", "named"), [(["--confg", "a.yaml"], "--confg"), (["--grace", "3"], "--ranks")])
def test_bad_options_end_with_status_2(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("x", words)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_setting_names_are_unique_and_reach_the_leaves() -> None:
    names = list(setting_names())
    assert len(names) == len(set(names))
    assert "localizer.loss.size_barrier.t_factor" in names


class Small(Section):
    """Settings of something else than a run."""

    length: int = 1
    color: str = "red"


class Other(Section):
    small: Small = Small()


def test_other_settings_are_read_and_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("small: {length: 2}\n")
    assert load_model(Other, path, ["small.color=blue"]) == Other(small=Small(length=2, color="blue"))
    again = tmp_path / "again.yaml"
    again.write_text(dump(load_model(Other, path)))
    assert load_model(Other, again) == load_model(Other, path)
    with pytest.raises(ConfigError) as caught:
        load_model(Other, path, ["small.lenght=3", "small.length=x", "small.color.deep=1", "small.length=[", "junk"])
    message = str(caught.value)
    assert message.startswith("5 problems")
    assert "small.length [command line]: value is not YAML" in message
    assert "small.lenght [command line]: unknown setting; did you mean small.length?" in message
    assert "data" not in message.partition("fix:")[0].replace("data.n_frames=4", ""), "not the names of runs"


def test_errors_say_where_overrides_stand() -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(Other, None, ["small.length=x", "small.color=[", "small.length.deep=1"], source="study")
    message = str(caught.value)
    assert "command line" not in message
    for problem in (
        "small.length [study]: Input",
        "small.color [study]: value is not YAML",
        "small.length.deep [study]",
    ):
        assert problem in message


def test_names_of_other_settings() -> None:
    assert list(setting_names(Other)) == ["small", "small.length", "small.color"]
