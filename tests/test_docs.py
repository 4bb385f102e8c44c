"""README and docs stay true: links, recipes, settings and options in them exist."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.config import load, setting_names
from tune.settings import StudySettings, load_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = re.compile(
    r"^(?:deepspeed(?: -[-\w]+(?: \d+)?)*|python) ((?:launchers|benchmarks)/\w+\.py|-m (?:shards|tune)\.\w+)(.*)$",
    re.MULTILINE,
)

SUBCOMMANDS = ("cancel", "logs", "resume", "status")  # of launchers/submit.py, with options of their own


def commands() -> list[tuple[str, str, str]]:
    """(page, program, arguments) of every command of ours in a bash block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            found += [(page.name, program, rest.split(" #")[0]) for program, rest in COMMANDS.findall(block)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_are_found() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "program", "arguments"), commands())
def test_commands_name_existing_programs_options_recipes_and_settings(page: str, program: str, arguments: str) -> None:
    words = shlex.split(arguments)
    overrides = [word for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+=.*", word)]
    known = {*setting_names(), *(f"study.{name}" for name in setting_names(StudySettings))}
    assert {word.partition("=")[0] for word in overrides} <= known
    axes = [word for before, word in itertools.pairwise(words) if before == "--array"]
    for word in words:
        if word.startswith("configs/tune/"):
            load_study(ROOT / word, overrides)
        elif word.startswith("configs/"):
            load(ROOT / word, [override for override in overrides if override not in axes])
    start = program.split() if program.startswith("-m") else [program]
    start += words[:1] if words[:1] and words[0] in SUBCOMMANDS else []
    shown = subprocess.run(
        [sys.executable, *start, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.stdout, f"{page}: {program} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_settings_named_in_the_text_exist(page: Path) -> None:
    sections = {name.partition(".")[0] for name in setting_names()}
    known = set(setting_names())
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", page.read_text()):
        if name.partition(".")[0] in sections and not name.endswith((".json", ".py", ".md", ".yaml", ".jsonl")):
            assert name in known, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_python_examples_run(page: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(example, page.name, "exec"), {})


def test_every_shipped_study_is_in_the_docs_and_its_settings_are_right() -> None:
    page = (ROOT / "docs/studies.md").read_text()
    files = sorted((ROOT / "configs/tune").glob("*.yaml"))
    assert len(files) == 11
    for file in files:
        assert f"configs/tune/{file.name}" in page
        load_study(file)
