"""Which methods are scored, under which thresholds, and what is left of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from colocam_dist.cams import CAM_METHODS
from colocam_dist.config import load
from colocam_dist.data.index import ShotIndex
from colocam_dist.distributed import Workers
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.inference.evaluate import evaluate_run
from colocam_dist.inference.score import Scorer
from colocam_dist.inference.summary_page import DESCRIPTIONS
from colocam_dist.report.overlays import METHOD_COLORS
from colocam_dist.runs.folder import RunFolder

ALONE = Workers(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(split, thresholds) of each scoring."""
    calls: list[tuple[str, int]] = []
    score = Scorer.score

    def watch(self: Scorer, *given: Any) -> Any:
        calls.append((self.index.split, len(self.thresholds)))
        return score(self, *given)

    monkeypatch.setattr(Scorer, "score", watch)
    return calls


def evaluated(run: RunFolder, *overrides: str) -> dict[str, Any]:
    target = evaluate_run(load(run.config_path, overrides), run, ALONE)
    return json.loads((target / "metrics.json").read_text())


def test_layercam_and_localizer_are_scored_unless_others_are_asked_for(made_run: RunFolder) -> None:
    metrics = evaluated(made_run)
    assert list(metrics["methods"]) == ["layercam", "localizer"]
    assert metrics["method"] == "localizer"


def test_caveats_of_data_and_settings_are_said_with_the_figures(
    made_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ShotIndex.open
    monkeypatch.setattr(ShotIndex, "open", lambda *given, **more: replace(opened(*given, **more), caveats=("Drawn.",)))
    metrics = evaluated(made_run, "data.caveats=[Few.]")
    assert metrics["caveats"] == ["Drawn.", "Few."]
    page = made_run.file("report.html").read_text()
    assert all(f'<p class="note">{caveat}</p>' in page for caveat in metrics["caveats"])


def test_every_method_is_scored_by_its_name_and_shown(made_run: RunFolder) -> None:
    metrics = evaluated(made_run, f"evaluation.cams=[{','.join(CAM_METHODS)}]")
    assert set(metrics["methods"]) == {*CAM_METHODS, "localizer"}
    validation = made_run.read_json("validation.json")
    page = made_run.file("report.html").read_text()
    for name, figures in metrics["methods"].items():
        assert figures["thresholds"]["validation"] == validation[name]["threshold"]
        assert figures["seconds_per_frame"] > 0
        assert f"<td>{name}</td>" in page.replace(' class="text"', "")
    with_head = {name: figures["classification"] for name, figures in metrics["methods"].items()}
    assert len({with_head[name] for name in CAM_METHODS}) == 1, "all of them are of the same classifier"
    for first, second, same in (("gradcam", "xgradcam", True), ("cam", "layercam", False)):
        one, other = ({**metrics["methods"][name], "seconds_per_frame": 0} for name in (first, second))
        assert (one["per_class"] == other["per_class"]) == same


def test_thresholds_are_kept_by_method_and_made_again_when_its_settings_change(
    made_run: RunFolder, scored: list[tuple[str, int]]
) -> None:
    evaluated(made_run)
    assert scored == [("val", 20)] * 2 + [("test", 20)] * 2
    first = made_run.read_json("validation.json")
    scored.clear()
    evaluated(made_run, "evaluation.cams=[gradcam, smoothgradcam++, layercam]", "evaluation.thresholds=30")
    assert scored == [("val", 20)] * 2 + [("test", 30)] * 4, "the run's own thresholds on validation, once"
    second = made_run.read_json("validation.json")
    assert second.keys() == {"layercam", "localizer", "gradcam", "smoothgradcam++"}
    assert {name: second[name] for name in first} == first
    scored.clear()
    evaluated(made_run, "evaluation.cams=[smoothgradcam++]", "cams.smooth.samples=1")
    assert scored == [("val", 20), ("test", 20), ("test", 20)]
    assert made_run.read_json("validation.json")["smoothgradcam++"]["method"].startswith(
        "smoothgradcam++(samples=1, noise=0.068"
    )
    assert made_run.read_json("validation.json")["gradcam"] == second["gradcam"]


def test_thresholds_of_earlier_versions_are_taken(
    made_run: RunFolder, monkeypatch: pytest.MonkeyPatch, scored: list[tuple[str, int]]
) -> None:
    old = {name: {"threshold": 0.25, "corloc": 1.0, "thresholds": 20} for name in ("layercam", "localizer")}
    made_run.write_json("validation.json", old)
    metrics = evaluated(made_run)
    assert [split for split, _ in scored] == ["test", "test"]
    assert metrics["methods"]["layercam"]["thresholds"]["validation"] == 0.25


def test_networks_are_those_of_the_run_and_other_splits_have_a_folder(made_run: RunFolder) -> None:
    evaluated(made_run, "data.split=val", "evaluation.cams=[cam]", "model.encoder=vgg16")
    assert not made_run.file("metrics.json").exists()
    (found,) = made_run.file("evaluations").iterdir()
    assert list(json.loads((found / "metrics.json").read_text())["methods"]) == ["cam", "localizer"]


def test_thresholds_off_the_grid_are_refused_before_anything_is_scored(
    made_run: RunFolder, scored: list[tuple[str, int]]
) -> None:
    alone, smoothed = "evaluation.cams=[]", "evaluation.smoothing=maps"
    fact = {"threshold": 0.35, "corloc": 1.0, "thresholds": 20, "method": "localizer"}
    made_run.write_json("validation.json", {"localizer": fact})
    with pytest.raises(ConfigError, match=r"30, which lacks 0\.35\n  wanted: 20, the run's own, or a multiple"):
        evaluated(made_run, alone, "evaluation.thresholds=30")
    assert scored == []
    metrics = evaluated(made_run, alone, "evaluation.thresholds=40")
    assert metrics["thresholds"]["validation"] == 0.35

    maps = {**fact, "threshold": 0.85, "sigma": 2.0, "cut": 0.6}
    made_run.write_json("validation.json", {"localizer": {**fact, "threshold": 0.5}, "localizer+maps": maps})
    scored.clear()
    with pytest.raises(ConfigError, match=r"30, which lacks 0\.85\n"):
        evaluated(made_run, alone, "evaluation.thresholds=30", smoothed)
    assert scored == []
    metrics = evaluated(made_run, alone, "evaluation.thresholds=30")
    assert metrics["thresholds"]["validation"] == 0.5, "those of smoothed maps do not matter"
    metrics = evaluated(made_run, alone, "evaluation.thresholds=60", smoothed)
    assert metrics["methods"]["localizer+maps"]["thresholds"]["validation"] == 0.85


def test_another_measure_leaves_the_figures_of_the_run_alone(made_run: RunFolder) -> None:
    alone = "evaluation.cams=[]"
    evaluated(made_run, alone)
    own = made_run.file("metrics.json").read_bytes()
    assert evaluated(made_run, alone, "evaluation.iou=0.3")["iou"] == 0.3
    assert evaluated(made_run, alone, "data.crop=32", "evaluation.iou=0.3")["size"] == 32
    evaluated(made_run, alone, "data.split=val", "data.crop=36")
    assert made_run.file("metrics.json").read_bytes() == own
    shards = Path(load(made_run.config_path).data.shards).name
    found = sorted(path.name for path in made_run.file("evaluations").iterdir())
    assert found == [f"{shards}-test-iou0.3", f"{shards}-test-iou0.3-crop32", f"{shards}-val-crop36"]
    evaluated(made_run, alone, "data.resize=50")
    assert len(list(made_run.file("evaluations").iterdir())) == 3, "scoring does not resize to that"


def test_data_of_one_name_do_not_replace_the_figures_of_each_other(
    made_run: RunFolder,
    tiny_shards: Path,
    tmp_path: Path,
    scored: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (tmp_path / version / "clips" for version in ("v1", "v2"))
    for place in (first, second):
        shutil.copytree(tiny_shards, place)
    evaluated(made_run, "evaluation.cams=[]", f"data.shards={first}")
    path = made_run.file("evaluations") / "clips-test" / "metrics.json"
    before = path.read_bytes()
    scored.clear()
    with pytest.raises(RunError, match="figures of other shards with the same name") as caught:
        evaluated(made_run, "evaluation.cams=[]", f"data.shards={second}")
    assert f"got: {first}\n  wanted: {second}" in str(caught.value)
    assert scored == []
    assert path.read_bytes() == before
    monkeypatch.chdir(tmp_path)
    evaluated(made_run, "evaluation.cams=[]", "data.shards=v1/clips")
    assert json.loads(path.read_text())["shards"] == "v1/clips", "the same place"
    (tmp_path / "clips-2").symlink_to(second)
    evaluated(made_run, "evaluation.cams=[]", f"data.shards={tmp_path / 'clips-2'}")
    assert len(list(made_run.file("evaluations").iterdir())) == 2


@pytest.mark.parametrize(("given", "told"), [("[cam, cam]", "named twice"), ("[scorecam]", "'gradcam++'")])
def test_wrong_lists_of_methods_are_refused(given: str, told: str, made_run: RunFolder) -> None:
    with pytest.raises(ConfigError) as refused:
        load(made_run.config_path, [f"evaluation.cams={given}"])
    assert told in str(refused.value)
    assert "evaluation.cams" in str(refused.value)


def test_a_localizer_can_be_scored_alone_but_not_nothing(made_run: RunFolder) -> None:
    assert list(evaluated(made_run, "evaluation.cams=[]")["methods"]) == ["localizer"]
    made_run.weights("localizer", "best-localization").unlink()
    with pytest.raises(RunError, match="nothing to score"):
        evaluated(made_run, "evaluation.cams=[]")


def test_pictures_have_a_color_and_words_for_every_method() -> None:
    assert METHOD_COLORS.keys() == DESCRIPTIONS.keys() == {*CAM_METHODS, "localizer"}
    assert len(set(METHOD_COLORS.values())) == len(METHOD_COLORS)
