"""Which video belongs to a clip's results, whatever else lies there and whenever a prediction ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colocam_dist.errors import RunError
from colocam_dist.inference import predict as prediction
from colocam_dist.inference.clip_rows import BoxOptions
from colocam_dist.inference.predict import predict


@pytest.mark.parametrize("source", ["fish.mov", "fish"], ids=["video", "pictures"])
def test_an_overlay_never_replaces_a_file_of_someone_else(
    source: str, small_run: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    write_video(tmp_path / "fish.mov", 3, 1)
    (tmp_path / "fish").mkdir()
    cv2.imwrite(str(tmp_path / "fish" / "0.png"), np.zeros((30, 40, 3), np.uint8))
    output = tmp_path / "out"
    other = output / "fish.mp4"
    output.mkdir()
    other.write_bytes(b"mine")
    for threshold in (0.3, 0.6):
        with pytest.raises(RunError, match="the name of an overlay is taken") as caught:
            predict(small_run, tmp_path / source, output, device="cpu")
        assert str(other) in str(caught.value)
        options = BoxOptions(threshold)
        assert predict(small_run, tmp_path / source, output, device="cpu", overlays=False, options=options).complete
        assert other.read_bytes() == b"mine"


def test_a_clip_that_is_made_anew_may_be_interrupted_at_any_time(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_video: Callable[..., Path]
) -> None:
    source, output = write_video(tmp_path / "fish.mov", 3, 1), tmp_path / "out"
    video, record = output / "fish.mp4", output / "clips" / "fish.json"
    real = prediction.draw_overlay

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def stop_before_results(*given: Any) -> None:
        real(*given[:-1], stop)

    def stop_before_the_name(*given: Any) -> None:
        real(*given[:-1], lambda: [given[-1](), stop()])

    predict(small_run, source, output, device="cpu")
    for number, (stopper, has_results) in enumerate(
        ((stop, False), (stop_before_results, False), (stop_before_the_name, True)), start=1
    ):
        options = BoxOptions(number / 10)
        monkeypatch.setattr(prediction, "draw_overlay", stopper)
        with pytest.raises(KeyboardInterrupt):
            predict(small_run, source, output, device="cpu", options=options)
        monkeypatch.setattr(prediction, "draw_overlay", real)
        assert (video.exists(), record.exists()) == (False, has_results)
        assert sorted(path.name for path in output.rglob(".*")) == [".claims"]
        assert predict(small_run, source, output, device="cpu", options=options).clips == 1
        assert (video.exists(), record.exists()) == (True, True)
    predict(small_run, source, output, device="cpu", overlays=False)
    assert not video.exists(), "its boxes are others"
    assert predict(small_run, source, output, device="cpu").clips == 1
