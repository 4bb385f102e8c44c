"""README and docs stay true: links, recipes, settings and options in them exist."""

from __future__ import annotations

import functools
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

STUDIES = ("configs/tune/", "configs/paper/")
SUBCOMMANDS = ("cancel", "logs", "resume", "status")  # of launchers/submit.py, with options of their own


def commands() -> list[tuple[str, str, str]]:
    """(page, program, arguments) of every command of ours in a bash block or in a table."""
    found = []
    for page in PAGES:
        text = page.read_text()
        rows = [line for line in text.splitlines() if line.startswith("|")]
        in_tables = [command for row in rows for command in re.findall(r"`([^`]+)`", row)]
        for block in [*re.findall(r"```bash\n(.*?)```", text, re.DOTALL), *in_tables]:
            found += [(page.name, program, rest.split(" #")[0]) for program, rest in COMMANDS.findall(block)]
    return found


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def help_of(start: tuple[str, ...]) -> str:
    """What a program says of its options."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *start, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there.read_text()), f"{page.name}: {target}"


def test_commands_are_found() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "program", "arguments"), commands())
def test_commands_name_existing_programs_options_recipes_and_settings(page: str, program: str, arguments: str) -> None:
    words = shlex.split(arguments)
    overrides = [word for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+=.*", word)]
    known = {*setting_names(), *(f"study.{name}" for name in setting_names(StudySettings))}
    named = {word.partition("=")[0] for word in overrides}
    assert {name for name in named if not name.startswith("study.space.")} <= known
    axes = [word for before, word in itertools.pairwise(words) if before == "--array"]
    for word in words:
        if word.startswith(STUDIES):
            load_study(ROOT / word, overrides)
        elif word.startswith("configs/"):
            load(ROOT / word, [override for override in overrides if override not in axes])
    start = program.split() if program.startswith("-m") else [program]
    start += words[:1] if words[:1] and words[0] in SUBCOMMANDS else []
    shown = help_of(tuple(start))
    for option in (word for word in words if word.startswith("--")):
        assert option in shown, f"{page}: {program} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_settings_named_in_the_text_exist(page: Path) -> None:
    sections = {name.partition(".")[0] for name in setting_names()}
    known = set(setting_names())
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", page.read_text()):
        if name.partition(".")[0] in sections and not name.endswith((".json", ".py", ".md", ".yaml", ".jsonl")):
            assert name in known, f"{page.name}: {name}"


# Those of inference.md need a run: tests/colocam_dist/inference/test_commands_of_docs.py.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "inference.md"], ids=lambda path: path.name)
def test_python_examples_run(page: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(example, page.name, "exec"), {})


@pytest.mark.parametrize(("folder", "page", "count"), [("tune", "studies.md", 6), ("paper", "paper.md", 8)])
def test_every_shipped_study_is_in_the_docs_and_its_settings_are_right(folder: str, page: str, count: int) -> None:
    text = (ROOT / "docs" / page).read_text()
    files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    assert len(files) == count
    for file in files:
        assert file.name in text
        load_study(file)
