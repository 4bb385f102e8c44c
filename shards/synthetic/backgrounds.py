"""Photographs to put behind the objects: those that scikit-image ships, or the user's own."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import DataError

__all__ = ["load_photo", "photo_files"]

# Grass, gravel and brick are gray; the scene tints them.
_SHIPPED = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_LONGEST_SIDE = 1024


def photo_files(folder: Path | None) -> tuple[Path, ...]:
    """The photographs of a folder (JPEG, PNG), sorted; without a folder, those that scikit-image brings along.

    scikit-image itself is not imported: only its data files are used.

    Raises:
        DataError: scikit-image is not installed or has no such files; the folder has no photographs.
    """
    if folder is not None:
        files = tuple(sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in _SUFFIXES))
        if not files:
            raise DataError("there are no photographs for the backgrounds", where=folder, wanted=" ".join(_SUFFIXES))
        return files
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "synthetic clips need the photographs that scikit-image ships, and it is not installed",
            fix='pip install -e ".[synthetic]" -c constraints.txt, or give photographs of your own by --backgrounds',
        )
    data = Path(package.submodule_search_locations[0]) / "data"
    files = tuple(data / name for name in _SHIPPED)
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise DataError(
            "the installed scikit-image lacks photographs",
            where=data,
            got=f"no {', '.join(absent)}",
            fix="install another release of scikit-image, or give photographs of your own with --backgrounds DIR",
        )
    return files


@lru_cache(maxsize=64)
def load_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photograph: uint8 BGR [H, W, 3], at most 1024 pixels long.

    Raises:
        DataError: not a picture.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError("a background cannot be decoded", where=path, fix="remove it or replace it")
    shrink = _LONGEST_SIDE / max(image.shape[:2])
    return cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else image
