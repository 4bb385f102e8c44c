"""Every method and experiment of the paper has commands in README and docs/paper.md, and they would run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from colocam_dist.config import load
from colocam_dist.training.preflight import check_run
from tune.paper.__main__ import parser
from tune.paper.published import published
from tune.settings import load_study
from tune.space import Space

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECTION = README.split("## Methods and experiments of the paper\n")[1].split("\n## ")[0]
METHODS = (
    *("CAM", "Grad-CAM", "Grad-CAM++", "Smooth Grad-CAM++", "XGrad-CAM", "LayerCAM", "another CAM method", "ViT"),
    *(
        "F-CAM",
        "TCAM",
        "CoLo-CAM",
        "to the letter",
        "VGG-16",
        "Inception-v3",
        "EfficientNet-Lite0",
        "timm",
        "(PL)",
        "CRF",
    ),
    *("(ASC)", "constant lambda_c", "adjacent (default), interval, Gaussian", "without random training shots"),
)
EXPERIMENTS = (
    *(f"Table {number}" for number in range(1, 9)),
    *(f"Fig. 2{part}" for part in "abcd"),
    "Fig. 3",
    "Figs. 4, 5, 7, 8",
    "accuracy (4.4)",
)


def commands(text: str, program: str) -> list[list[str]]:
    """Words of each command of a program behind its name, in a table or a bash block."""
    found = re.findall(rf"^python {re.escape(program)} (.*)$", text, re.MULTILINE)
    found += re.findall(rf"`python {re.escape(program)} ([^`]+)`", text)
    return [shlex.split(rest) for rest in dict.fromkeys(found)]


def split(words: list[str]) -> tuple[Path, list[str]]:
    """The file behind --config, and the overrides."""
    at = words.index("--config")
    return ROOT / words[at + 1], [word for word in words[:at] + words[at + 2 :] if not word.startswith("--")]


PAGES = SECTION + (ROOT / "docs/paper.md").read_text()
TRAININGS = commands(SECTION, "launchers/train.py")
STUDIES = commands(PAGES, "-m tune.study")
PRINTED = commands(PAGES, "-m tune.paper")


def test_methods_and_experiments_have_rows() -> None:
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| ")]
    for name in (*METHODS, *EXPERIMENTS):
        assert any(name in row for row in rows), name
    assert len(TRAININGS) >= 16
    assert len(STUDIES) >= 14
    assert len(PRINTED) >= 16


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_trainings_would_start(words: list[str], tiny_shards: Path) -> None:
    path, overrides = split(words)
    check_run(load(path, [*overrides, f"data.shards={tiny_shards}"]), world=1)


def test_trainings_have_names_of_their_own() -> None:
    names = [load(*split(words)).run.name for words in TRAININGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("words", STUDIES, ids=" ".join)
def test_studies_would_start(words: list[str], tiny_shards: Path) -> None:
    path, overrides = split(words)
    space = Space(load_study(path, [*overrides, f"data.shards={tiny_shards}"]))
    assert len(space.points()) > 2


@pytest.mark.parametrize("words", PRINTED, ids=" ".join)
def test_tables_are_printed_from_studies_that_are_run(words: list[str]) -> None:
    given = parser().parse_args(words)
    paths = {load_study(*split(study)).study.path for study in STUDIES} | {Path("studies/table5")}
    assert set(given.study) <= paths
    for key in given.table:
        table = published().tables[key]
        if given.study:
            assert "study" in table.sources


def test_every_table_is_printed_and_every_study_file_is_run() -> None:
    printed = {key for words in commands(SECTION, "-m tune.paper") for key in parser().parse_args(words).table}
    assert printed == set(published().tables)
    run = {split(words)[0].name for words in commands(SECTION, "-m tune.study")}
    assert run == {path.name for path in (ROOT / "configs/paper").glob("*.yaml")}
