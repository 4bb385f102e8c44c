"""``python -m tune.paper`` prints, and says what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import ConfigError, RunError
from tune.paper.__main__ import main

Run = Any


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Gives what the command prints."""

    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["tune.paper", *map(str, words)])
        assert main() == 0
        return capsys.readouterr().out

    return call


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]


def test_everything_without_anything_that_was_run(run: Run) -> None:
    tables = [*"12345678", "fig2a", "fig2b", "fig2c", "fig2d"]
    console, markdown = run("--table", *tables), run("--table", *tables, "--markdown")
    for text in (console, markdown):
        assert text.count("not run") > 100
        for title in ("Table 1: CorLoc by class", "Table 7 and Fig. 3", "Fig. 2d: time"):
            assert title in text
        assert "75.5?" in text
        assert "±" not in text
    assert len(json.loads(run("--table", *tables, "--json"))) == len(tables)


def test_published_beside_ours(run: Run, paper_desk: Any) -> None:
    path = paper_desk.sampling([81.0, 79.0, 78.0, 83.0], interval=(70.0, 90.0))
    text = run("--table", 5, "--study", path, "--markdown")
    assert rows(text) == [
        ["", "published", "ours", "difference", "note"],
        ["---"] * 5,
        ["adjacent", "82.1", "82.0 ± 1.4 (2)", "-0.1", ""],
        ["gaussian", "80.2", "79.0 [70.0, 90.0]", "-1.2", "a"],
        ["interval", "79.8", "78.0 [70.0, 90.0]", "-1.8", ""],
    ]
    assert "threshold rule per_class" in text
    assert "- a: The published code's Gaussian is practically uniform" in text
    other = run("--table", 5, "--study", path, "--markdown", "--rule", "validation")
    assert "-5.1" in other
    assert "which is the rule per_class" in other


def test_a_partial_study(run: Run, paper_desk: Any) -> None:
    text = run("--table", 5, "--study", paper_desk.sampling([81.0]), "--markdown")
    assert [row[2] for row in rows(text)[2:]] == ["81.0", "not run", "not run"]
    study = paper_desk.begin({"data.sampling": ["adjacent"]}, name="empty")
    text = run("--table", 5, "--study", study.folder.path, "--markdown")
    assert [row[2] for row in rows(text)[2:]] == ["not run"] * 3
    assert "0 trials" in text


def test_other_data_are_not_compared(run: Run, paper_desk: Any) -> None:
    path = paper_desk.sampling([81.0, 79.0], dataset="mine")
    for form in ([], ["--markdown"]):
        text = run("--table", 5, "--study", path, *form)
        assert (
            "data/mine, split test, 224 pixels: not to be compared with the paper's figures (12 labeled frames" in text
        )
        assert "difference" not in text
    table = rows(run("--table", 5, "--study", path, "--markdown"))
    assert table[-4:] == [["", "ours", "note"], ["---"] * 3, ["adjacent", "81.0", ""], ["gaussian", "79.0", ""]]


def test_wide_tables_have_ours_below(run: Run, paper_desk: Any, metrics: Any) -> None:
    study = paper_desk.begin({"method": {"CoLo-CAM": {}}})
    paper_desk.trial(study, {"method": "CoLo-CAM"}, metrics(localizer=80.0))
    found = rows(run("--table", 1, "--study", study.folder.path, "--markdown"))
    start = next(place for place, row in enumerate(found) if row[0] == "CoLo-CAM")
    published, ours, difference = found[start : start + 3]
    assert published[:4] == ["CoLo-CAM", "published", "90.4", "74.0"]
    assert ours[:4] == ["", "ours", "80.0", "81.0"]
    assert difference[:4] == ["", "difference", "-10.4", "+7.0"]
    assert difference[-2:] == ["", ""]  # times are not compared
    assert [row[-1] for row in found if row[0].startswith("TCAM")] == ["not run"] * 2


def test_json_has_everything(run: Run, paper_desk: Any) -> None:
    (table,) = json.loads(run("--table", 5, "--study", paper_desk.sampling([81.0]), "--json"))
    assert (table["key"], table["rule"], table["columns"]) == ("5", "per_class", ["CorLoc"])
    cell = table["blocks"][0]["lines"][0]["cells"][0]
    assert (cell["published"], cell["ours"]["mean"]) == (82.1, 81.0)
    assert cell["difference"] == pytest.approx(-1.1)


def test_wrong_folders_are_refused(run: Run, paper_desk: Any, tmp_path: Path, metrics: Any) -> None:
    with pytest.raises(RunError, match="no such study"):
        run("--table", 5, "--study", tmp_path)
    study = paper_desk.begin({"data.flip": [False]})
    paper_desk.trial(study, {"data.flip": "false"}, metrics(localizer=1.0))
    with pytest.raises(RunError, match=r"no trial of the study is a row[\s\S]*configs/paper/table2.yaml"):
        run("--table", 2, 5, "--study", study.folder.path)


def test_sources_that_no_table_takes_are_refused(run: Run, tmp_path: Path) -> None:
    for option, table, wanted in (("--study", "4", "1, 2, 3"), ("--cost", "1", "4"), ("--clip-es", "2", "1, 8")):
        with pytest.raises(ConfigError, match=f"{option} is of no use[\\s\\S]*one of {wanted}"):
            run("--table", table, option, tmp_path)
    with pytest.raises(SystemExit):
        run("--table", "9")
