from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.errors import ConfigError, DataError
from shards.sources.matlab import read_boxes, read_variable

io = pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")


def test_numbers_cells_and_structs(tmp_path: Path) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([[1.5, 2, 3, 4]]), np.array([[5.0], [6], [7], [8]])
    table = np.empty((1, 1), [("id", object), ("bb", object)])
    table[0, 0] = ("cat00000001", np.array([[1, 2, 3, 4]]))
    io.savemat(tmp_path / "a.mat", {"numbers": np.arange(6).reshape(3, 2), "cells": cells, "table": table})
    assert read_variable(tmp_path / "a.mat", "numbers").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert read_boxes(read_variable(tmp_path / "a.mat", "cells"), "a") == [(1.5, 2, 3, 4), (5, 6, 7, 8)]
    (entry,) = read_variable(tmp_path / "a.mat", "table").ravel()
    assert (str(entry[0][0]), read_boxes(entry[1], "a")) == ("cat00000001", [(1, 2, 3, 4)])


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    io.savemat(tmp_path / "a.mat", {"other": 1})
    with pytest.raises(DataError, match=r"lacks a variable(.|\n)*got: other(.|\n)*wanted: coor"):
        read_variable(tmp_path / "a.mat", "coor")
    with pytest.raises(DataError, match="No such file"):
        read_variable(tmp_path / "b.mat", "coor")
    (tmp_path / "c.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:140])
    with pytest.raises(DataError, match="is damaged"):
        read_variable(tmp_path / "c.mat", "coor")


def test_boxes_of_other_shapes() -> None:
    assert read_boxes(np.zeros((0, 4)), "x") == []
    assert read_boxes([[-1, -2, 3, 4]], "x") == [(0, 0, 3, 4)]
    for values in ([1, 2, 3, 4], [[1, 2, 3]], [[1, 2, np.nan, 4]]):
        with pytest.raises(ValueError, match="x: wanted boxes of four numbers"):
            read_boxes(values, "x")
    for cell in (np.ones((1, 3)), np.array(["text"])):
        cells = np.empty((1, 2), object)
        cells[0, 0], cells[0, 1] = np.ones((1, 4)), cell
        with pytest.raises(ValueError, match="x: wanted boxes of four numbers"):
            read_boxes(cells, "x")


def test_scipy_is_named_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[youtube-objects\]" -c constraints\.txt'):
        read_variable(tmp_path / "a.mat", "coor")
