"""Variables of MATLAB files (version 5), through SciPy."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import ConfigError, DataError

__all__ = ["read_boxes", "read_variable"]


def read_variable(path: Path, name: str) -> NDArray[Any]:
    """One variable: numbers as they are, cells as an array of objects, structs as a structured array.

    Raises:
        ConfigError: SciPy is not installed.
        DataError: the file cannot be read, or does not have the variable.
    """
    try:
        from scipy import io
    except ImportError as error:
        raise ConfigError(
            "MATLAB files need SciPy", where=path, fix='pip install -e ".[youtube-objects]" -c constraints.txt'
        ) from error
    try:
        content = BytesIO(path.read_bytes())
    except OSError as error:
        raise DataError("a MATLAB file cannot be read", where=path, got=error.strerror) from error
    try:
        variables = io.loadmat(content, variable_names=[name])
    except Exception as error:  # SciPy raises whatever its parser meets in damaged bytes
        raise DataError("a MATLAB file is damaged", where=path, got=f"{type(error).__name__}: {error}") from error
    if name not in variables:
        found = sorted(key for key in _names(path) if not key.startswith("__"))
        raise DataError("a MATLAB file lacks a variable", where=path, got=", ".join(found) or "none", wanted=name)
    return np.asarray(variables[name])


def read_boxes(values: Any, where: str) -> list[tuple[float, float, float, float]]:
    """Boxes from an N x 4 array, or from cells of four numbers each; negative corners become 0.

    Raises:
        ValueError: the values are something else; says ``where``.
    """
    array = np.asarray(values)
    try:
        if array.dtype == object:
            array = np.array([np.asarray(cell, np.float64).ravel() for cell in array.ravel()]).reshape(array.size, -1)
        array = np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:  # cells of different lengths, or text
        raise ValueError(f"{where}: wanted boxes of four numbers, got something else ({error})") from error
    if array.size == 0:
        return []
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise ValueError(f"{where}: wanted boxes of four numbers, got an array of shape {array.shape}")
    return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in np.maximum(array, 0.0)]


def _names(path: Path) -> list[str]:
    from scipy import io

    return [str(name) for name, _, _ in io.whosmat(str(path))]
