"""The kernels can be lifted out of the project: they import nothing else of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "colocam_dist" / "kernels"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_imports_stay_inside(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for name in names:
            root = name.split(".")[0]
            assert root != "colocam_dist" or name.startswith("colocam_dist.kernels"), f"{path.name}: {name}"
            assert root not in ("shards", "launchers", "tune", "deepspeed", "webdataset"), f"{path.name}: {name}"
