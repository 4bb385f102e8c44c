"""The copy of the package that a job runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import colocam_dist
from colocam_dist.slurm import snapshot
from colocam_dist.slurm.snapshot import code_facts, take_snapshot

PACKAGE = Path(colocam_dist.__file__).parent


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_has_the_whole_package_and_nothing_that_python_made(tmp_path: Path) -> None:
    take_snapshot(tmp_path / "slurm/code")
    copied = files(tmp_path / "slurm/code")
    ours = {f"colocam_dist/{name}": data for name, data in files(PACKAGE).items() if "__pycache__" not in name}
    assert copied == ours
    assert {"colocam_dist/py.typed", "colocam_dist/slurm/job.py"} < copied.keys()
    assert any(name.endswith(".html.j2") for name in copied)
    assert [path.name for path in (tmp_path / "slurm").iterdir()] == ["code"]


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one module in place of ours."""
    package = tmp_path / "checkout/colocam_dist"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("new = True\n")
    monkeypatch.setattr(snapshot, "_PACKAGE", package)
    return package


def test_an_older_copy_is_replaced_as_a_whole(small_package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slurm/code"
    (folder / "colocam_dist").mkdir(parents=True)
    (folder / "colocam_dist/gone.py").write_text("old = True\n")
    take_snapshot(folder)
    assert files(folder) == {"colocam_dist/__init__.py": b"new = True\n"}
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_a_copy_that_cannot_be_made_leaves_the_older_one(
    small_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "slurm/code"
    take_snapshot(folder)
    monkeypatch.setattr(snapshot, "_PACKAGE", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        take_snapshot(folder)
    assert files(folder) == {"colocam_dist/__init__.py": b"new = True\n"}
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_python_takes_it_in_place_of_the_installed_package(tmp_path: Path) -> None:
    take_snapshot(tmp_path / "code")
    code = "import colocam_dist.slurm.record as record; print(record.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "code/colocam_dist/slurm/record.py"


@pytest.mark.parametrize(
    ("git", "facts"),
    [
        ('case "$3" in rev-parse) echo abc ;; status) echo " M file" ;; esac', {"commit": "abc", "changed": True}),
        ('[ "$3" = status ] || echo abc', {"commit": "abc", "changed": False}),
        ("echo 'fatal: not a git repository' >&2; exit 128", {}),
        (None, {}),
    ],
    ids=["changed", "clean", "no checkout", "no git"],
)
def test_the_code_is_described(git: str | None, facts: dict[str, Any], fake_slurm: Any) -> None:
    if git is not None:
        fake_slurm.add("git", git)
    assert code_facts() == {"version": colocam_dist.__version__, **facts}
    assert all(call[:2] == ["-C", str(PACKAGE.parent)] for call in fake_slurm.calls("git"))


def test_other_packages_of_the_project_can_come_with_it(small_package: Path, tmp_path: Path) -> None:
    other = small_package.parent / "tune"
    (other / "__pycache__").mkdir(parents=True)
    (other / "__pycache__/study.pyc").touch()
    (other / "study.py").write_text("new = True\n")
    take_snapshot(tmp_path / "code", packages=("colocam_dist", "tune"))
    assert files(tmp_path / "code").keys() == {"colocam_dist/__init__.py", "tune/study.py"}
    with pytest.raises(FileNotFoundError):
        take_snapshot(tmp_path / "code", packages=("colocam_dist", "nowhere"))
    assert files(tmp_path / "code").keys() == {"colocam_dist/__init__.py", "tune/study.py"}, "all or nothing"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
