"""Differences stand beside figures of the paper's own test sets, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tune.paper.files import read_clip_es
from tune.paper.published import published
from tune.paper.studies import CONFIGS, PaperStudy
from tune.paper.tables import DOUBTFUL, Block, Line, PrintedTable, Sources, assemble
from tune.settings import load_study

PAPER = published()


def made(key: str, *paths: Path, rule: str = "per_class", **sources: Any) -> PrintedTable:
    return assemble(key, PAPER, Sources([PaperStudy(path) for path in paths], **sources), rule)


def row(block: Block, name: str) -> Line:
    return next(line for line in block.lines if line.name == name)


@pytest.mark.parametrize("key", PAPER.tables)
def test_without_anything_there_is_the_paper(key: str) -> None:
    table = made(key)
    assert [block.title for block in table.blocks] == PAPER.tables[key].datasets
    assert all(block.of_paper and not block.why_not for block in table.blocks)
    cells = [cell for block in table.blocks for line in block.lines for cell in line.cells]
    assert all(cell.ours is None and cell.difference is None for cell in cells)
    count = sum(len(one.values) for one in PAPER.tables[key].rows)
    assert sum(len(block.lines) for block in table.blocks) == count
    assert table.remarks == ()


def test_means_over_seeds_and_their_differences(paper_desk: Any) -> None:
    (block,) = made("5", paper_desk.sampling([81.0, 79.0, 78.0, 83.0])).blocks
    cells = [line.cells[0] for line in block.lines]
    assert [cell.published for cell in cells] == [82.1, 80.2, 79.8]
    assert [cell.ours.mean if cell.ours else None for cell in cells] == [82.0, 79.0, 78.0]
    assert [cell.difference for cell in cells] == pytest.approx([-0.1, -1.2, -1.8])
    assert cells[0].ours is not None
    assert (cells[0].ours.runs, cells[0].ours.std) == (2, pytest.approx(2**0.5))


def test_the_rule_can_be_chosen(paper_desk: Any) -> None:
    path = paper_desk.sampling([81.0])
    for rule, value in (("validation", 76.0), ("pooled", 79.0), ("per_class", 81.0)):
        cell = made("5", path, rule=rule).blocks[0].lines[0].cells[0]
        assert cell.ours is not None
        assert cell.ours.mean == value


@pytest.mark.parametrize("dataset", ["YTOv2.2", "mine"])
def test_other_data_have_a_block_of_their_own(paper_desk: Any, dataset: str) -> None:
    paper, other = made("5", paper_desk.sampling([81.0, 79.0], dataset=dataset)).blocks
    assert not any(cell.ours for line in paper.lines for cell in line.cells)
    assert not other.of_paper
    assert [line.name for line in other.lines] == ["adjacent", "gaussian"]
    assert all(cell.published is None and cell.difference is None for line in other.lines for cell in line.cells)
    assert other.why_not == (("the paper has no such figures",) if dataset == "YTOv2.2" else other.why_not)
    assert other.why_not


def test_both_datasets_and_the_first_study_that_has_a_row(paper_desk: Any, metrics: Any) -> None:
    paths = []
    for name, dataset, values in (("a", "YTOv1", [80.0]), ("b", "YTOv2.2", [70.0, 60.0]), ("c", "YTOv1", [1.0, 2.0])):
        choices: dict[str, Any] = {
            "CoLo-CAM": {},
            "F-CAM": {"data.n_frames": 1, "localizer.loss.colocalization.weight": 0.0},
        }
        study = paper_desk.begin({"method": choices}, name=name)
        for label, value in zip(choices, values, strict=False):
            paper_desk.trial(study, {"method": label}, metrics(dataset, localizer=value))
        paths.append(study.folder.path)
    first, second = made("3", *paths).blocks

    def ours(block: Block, name: str) -> float | None:
        found = row(block, name).cells[0].ours
        return None if found is None else found.mean

    assert [ours(block, "CoLo-CAM") for block in (first, second)] == [80.0, 70.0]
    assert [ours(block, "F-CAM") for block in (first, second)] == [2.0, 60.0]
    assert row(second, "CoLo-CAM").cells[0].difference == pytest.approx(70.0 - 77.1)


def test_classes_of_table_1(paper_desk: Any, metrics: Any) -> None:
    choices = load_study(CONFIGS / "table1.yaml").study.space["method"]
    study = paper_desk.begin({"method": choices})
    content = metrics(layercam=60.0, cam=50.0, xgradcam=55.0)
    paper_desk.trial(study, {"method": "CAM methods"}, content)
    block = made("1", study.folder.path).blocks[0]
    layercam = row(block, "LayerCAM (IEEE 2021)")
    assert [cell.ours.mean if cell.ours else None for cell in layercam.cells[:3]] == [60.0, 61.0, 62.0]
    cat, average, time = layercam.cells[4], layercam.cells[10], layercam.cells[11]
    assert (cat.published, cat.doubtful, cat.difference) == (75.5, True, None)
    assert average.difference == pytest.approx(60.0 - 65.6)
    assert time.ours is not None
    assert (time.published, time.ours.mean, time.difference) == (17.9, pytest.approx(12.3), None)
    assert DOUBTFUL in layercam.notes
    assert [line.name for line in block.lines if line.run] == [
        *("CAM (CVPR 2016)", "XGradCAM (BMVC 2020)", "LayerCAM (IEEE 2021)"),
    ]


def test_rows_that_nobody_can_run_say_why() -> None:
    block = made("1").blocks[0]
    assert row(block, "POD (CVPR 2016)").missing == PAPER.reasons["authors"]
    assert row(made("7").blocks[0], "m = 50").missing == PAPER.reasons["shots"]
    assert row(made("7").blocks[0], "m = 40").missing == ""


def test_standard_deviations_of_table_7(paper_desk: Any, metrics: Any) -> None:
    study = paper_desk.begin({"data.drop_shots": [1], "data.drop_seed": [0, 1, 2]})
    for seed, value in enumerate((77.0, 78.0, 79.0)):
        point = {"data.drop_shots": "1", "data.drop_seed": str(seed)}
        paper_desk.trial(study, point, metrics(localizer=value))
    mean, std = made("7", study.folder.path).blocks[0].lines[0].cells
    assert mean.ours is not None
    assert std.ours is not None
    assert (mean.ours.mean, mean.ours.runs, std.ours.mean) == (78.0, 3, pytest.approx(1.0))
    assert (mean.difference, std.difference) == (pytest.approx(-0.68), pytest.approx(-0.72))


def test_costs_and_times_from_files() -> None:
    costs = {"localizer_parameters": 32_541_740.0, "localizer_step_ms": 500.0, "layercam_flops": 38.229e9}
    (block,) = made("4", costs=costs).blocks
    parameters = row(block, "parameters (M)").cells
    assert parameters[0].ours is None
    assert parameters[1].ours is not None
    assert parameters[1].ours.mean == pytest.approx(32.54174)
    assert parameters[1].difference == pytest.approx(0.04174)
    step = row(block, "one training step, 32 frames (s)").cells[1]
    assert step.ours is not None
    assert (step.ours.mean, step.difference) == (0.5, None)
    assert row(block, "GFLOPs, one frame").cells[0].difference == pytest.approx(-0.001)
    (block,) = made("fig2d", crf={"64": [40.0, 50.0]}).blocks
    time = row(block, "n = 64").cells[0]
    assert time.ours is not None
    assert (time.published, time.ours.mean, time.ours.runs, time.difference) == (81.0, 45.0, 2, None)


def test_clip_es_from_files(clip_es: Any, tmp_path: Path) -> None:
    files = []
    for content in (clip_es("YTOv1", GT_initial=66.0, PR_list=71.0), clip_es("mine", AVG_refined=50.0)):
        path = tmp_path / f"{len(files)}.json"
        path.write_text(json.dumps(content))
        files.append(read_clip_es(path))
    first, second, other = made("8", clip_es=files).blocks
    assert row(first, "GT").cells[0].difference == pytest.approx(0.9)
    assert row(first, "PR + background list").cells[0].difference == pytest.approx(0.1)
    assert not any(line.run for line in second.lines)
    assert [(other.of_paper, line.name) for line in other.lines] == [(False, "AVG + background list + refinement")]
    average, time = row(made("1", clip_es=files).blocks[0], "CLIP-ES (CVPR 2023)").cells[10:]
    assert average.difference == pytest.approx(0.9)
    assert time.ours is not None
    assert (time.published, time.ours.mean) == (49.9, 40.0)


def test_where_ours_is_highest(paper_desk: Any, metrics: Any) -> None:
    study = paper_desk.begin({"data.n_frames": [2, 4, 8]}, "localizer.loss.colocalization.weight=5.0")
    for n, value in (("2", 60.0), ("4", 61.5), ("8", 61.0)):
        paper_desk.trial(study, {"data.n_frames": n}, metrics(localizer=value))
    (block,) = made("fig2a", study.folder.path).blocks
    assert block.statements[0].endswith("Ours is highest at n = 4 (61.5), of 3 rows that were run.")
    assert block.statements[1] == "TCAM has its peak at n = 2 (73.0, Table 1) and loses much with more frames."


def test_studies_say_what_they_are(paper_desk: Any) -> None:
    path = paper_desk.sampling([81.0])
    (remark,) = made("5", path).remarks
    assert remark.startswith(f"{path}: 1 trials (1 finished); settings other than those of configs/paper/table5.yaml: ")
