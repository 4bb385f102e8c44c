"""Maps that wait in a file come back as they were, and take no name on the disk; frames of odd sizes become videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from colocam_dist.errors import DataError
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.overlay import MapStore
from colocam_dist.inference.predict import predict


def test_maps_come_back_in_order_to_half_a_gray_level(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((5, 31, 31), np.float32)
    maps[0] = 0.0
    maps[1] = 1.0
    with MapStore(tmp_path) as store:
        for map_SS in maps:
            store.append(map_SS)
        assert list(tmp_path.iterdir()) == []
        back = np.stack(list(store))
        assert np.array_equal(np.stack(list(store)), back), "more than once"
    assert back.dtype == np.float32
    assert np.abs(back - maps).max() <= 0.5001 / 255
    assert np.array_equal(back[:2], maps[:2])


def test_frames_without_a_video_fail_alone_and_large_ones_are_scaled(
    small_run: Path, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for name, (width, height) in {"line": (40, 1), "usual": (40, 30), "wide": (9001, 31)}.items():
        (source / name).mkdir(parents=True)
        cv2.imwrite(str(source / name / "0.png"), picture(3, width, height))
    with pytest.raises(DataError, match="1 of 3 clips failed") as caught:
        predict(small_run, source, output, device="cpu")
    assert f"frames cannot be encoded as a video: {output / 'line.mp4'}" in str(caught.value)
    assert sorted(path.name for path in (output / "clips").glob("*.json")) == ["usual.json", "wide.json"]
    sizes = {}
    for name in ("usual", "wide"):
        good, frame = cv2.VideoCapture(str(output / f"{name}.mp4")).read()
        assert good
        sizes[name] = frame.shape[1::-1]
    assert sizes == {"usual": (40, 30), "wide": (4096, 14)}
    (row,) = json.loads((output / "clips" / "wide.json").read_text())["frames"]
    (wanted,) = Localizer.load(small_run, device="cpu").predict(source / "wide")
    assert [row[end] for end in ("x0", "y0", "x1", "y1")] == list(wanted.box)
    assert row["x1"] > 4096, "pixels of the frame"
    assert predict(small_run, source, output, device="cpu", overlays=False).complete
