"""The package as it was when a run was submitted, copied into the run's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import colocam_dist

__all__ = ["code_facts", "take_snapshot"]

_PACKAGE = Path(colocam_dist.__file__).parent


def take_snapshot(folder: Path, packages: Sequence[str] = (_PACKAGE.name,)) -> None:
    """Copy packages to ``folder``, which then is fit for PYTHONPATH; an older copy there is replaced as a whole.

    Args:
        folder: where to.
        packages: names of the project's packages.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    former = folder.with_name(f".{folder.name}.{os.getpid()}.former")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name in packages:
            shutil.copytree(
                _PACKAGE.parent / name,
                partial / name,
                ignore=shutil.ignore_patterns("__pycache__", ".*"),
                symlinks=False,
            )
        if folder.exists():
            folder.rename(former)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def code_facts() -> dict[str, Any]:
    """Version of the package; commit and whether it was changed since, where it lies in a git checkout."""
    facts: dict[str, Any] = {"version": colocam_dist.__version__}
    try:
        commit = _git("rev-parse", "HEAD")
        facts |= {"commit": commit, "changed": bool(_git("status", "--porcelain", "--", _PACKAGE.name))}
    except (OSError, subprocess.SubprocessError):
        pass
    return facts


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
