"""The Python API: the same boxes from arrays, lists and files; clear errors; a light import."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

import colocam_dist
from colocam_dist.errors import ConfigError, DataError, RunError
from colocam_dist.inference.api import Localizer

Picture = Callable[[int, int, int], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def localizer(small_run: Path) -> Localizer:
    return Localizer.load(small_run, device="cpu")


@pytest.fixture
def frames(picture: Picture) -> NDArray[np.uint8]:
    return np.stack([picture(seed, 61, 47) for seed in range(5)])


def test_importing_the_package_is_light() -> None:
    code = "import colocam_dist, sys; print(colocam_dist.__version__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, *modules = done.stdout.split()
    assert version == colocam_dist.__version__
    assert not {"torch", "numpy", "cv2", "pydantic", "deepspeed"} & set(modules)


def test_the_package_gives_the_class_that_works_and_nothing_unknown() -> None:
    assert colocam_dist.Localizer is Localizer
    with pytest.raises(AttributeError, match="no attribute 'Lokalizer'"):
        _ = colocam_dist.Lokalizer


def test_class_score_and_map_are_those_of_the_network(localizer: Localizer, frames: NDArray[np.uint8]) -> None:
    found = localizer.predict(frames, maps=True)
    squares = np.stack([cv2.resize(frame, (40, 40), interpolation=cv2.INTER_LINEAR) for frame in frames])
    with torch.no_grad():
        output = localizer.network(torch.from_numpy(squares.transpose(0, 3, 1, 2).copy()))
    probabilities = functional.softmax(output.class_logits_BK.double(), 1)
    maps = torch.sigmoid((output.map_logits_B2HW[:, 1] - output.map_logits_B2HW[:, 0]).double()).numpy()
    assert [row.frame for row in found] == list(range(5))
    assert [row.cls for row in found] == [("bird", "cat", "train")[k] for k in probabilities.argmax(1).tolist()]
    assert [row.score for row in found] == pytest.approx(probabilities.amax(1).tolist(), abs=6e-5)
    for row, map_SS in zip(found, maps, strict=True):
        assert row.map_HW is not None
        assert row.map_HW.shape == (47, 61)
        assert row.map_HW.dtype == np.float32
        wanted = cv2.resize(map_SS, (61, 47), interpolation=cv2.INTER_LINEAR)
        assert np.abs(row.map_HW - wanted).max() < 1e-5


def test_a_box_bounds_the_map_above_the_threshold(localizer: Localizer, frames: NDArray[np.uint8]) -> None:
    everything = (0, 0, 60, 46)
    for row in localizer.predict(frames, threshold=0.01):
        assert row.box == pytest.approx(everything, abs=0.006), "the whole map is above a low threshold"
    boxes = [row.box for row in localizer.predict(frames, threshold=0.9)]
    assert len(set(boxes)) > 1
    assert all(0 <= x0 <= x1 <= 61 and 0 <= y0 <= y1 <= 47 for x0, y0, x1, y1 in boxes)
    assert localizer.predict(frames) == localizer.predict(frames, threshold=0.7), "0.7 was fixed on validation"
    assert localizer.predict(frames) != localizer.predict(frames, threshold=0.9)


def test_no_frames_have_no_boxes(localizer: Localizer) -> None:
    assert localizer.predict([]) == []
    assert list(localizer.stream(iter(()))) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_arrays_lists_views_and_batches_give_the_same(
    batch: int, localizer: Localizer, frames: NDArray[np.uint8]
) -> None:
    wanted = localizer.predict(frames)
    assert localizer.predict(list(frames), batch=batch) == wanted
    assert localizer.predict((frame for frame in frames), batch=batch) == wanted
    bgr = np.ascontiguousarray(frames[..., ::-1])
    bgr.setflags(write=False)
    assert localizer.predict(bgr[..., ::-1], batch=batch) == wanted


def test_pictures_of_different_sizes_each_have_boxes_in_their_own_pixels(
    localizer: Localizer, picture: Picture
) -> None:
    pictures = [picture(1, 61, 47), picture(2, 40, 40), picture(3, 200, 31)]
    together = localizer.predict(pictures, maps=True)
    for number, single in enumerate(pictures):
        (alone,) = localizer.predict(single[None])
        assert (together[number].box, together[number].cls) == (alone.box, alone.cls)
        map_HW = together[number].map_HW
        assert map_HW is not None
        assert map_HW.shape == single.shape[:2]
    assert localizer.predict([]) == []


def test_a_video_and_a_folder_give_what_their_frames_give(
    localizer: Localizer, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    write_video(tmp_path / "in" / "a.mp4", 3, 1)
    write_video(tmp_path / "in" / "b.mp4", 4, 2)
    found = localizer.predict(tmp_path / "in")
    assert [(row.clip, row.frame) for row in found] == [*(("a", n) for n in range(3)), *(("b", n) for n in range(4))]
    capture = cv2.VideoCapture(str(tmp_path / "in" / "b.mp4"))
    decoded = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(4)]
    assert [row.box for row in localizer.predict(decoded)] == [row.box for row in found[3:]]
    assert localizer.predict(str(tmp_path / "in" / "b.mp4")) == found[3:]


def test_loading_leaves_the_random_numbers_alone(small_run: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Localizer.load(str(small_run), device=torch.device("cpu"))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(("initialized", "kept"), [(True, [0, 1]), (False, [])])
def test_loading_keeps_the_random_numbers_of_devices_that_are_in_use(
    initialized: bool, kept: list[int], small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices) or nullcontext())
    Localizer.load(small_run, device="cpu")
    assert asked == [kept]


@pytest.mark.gpu
def test_loading_leaves_the_random_numbers_of_a_gpu_alone(small_run: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3, device="cuda")
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        Localizer.load(small_run, device=device)
        assert torch.equal(torch.rand(3, device="cuda"), wanted)


FRAME = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (FRAME, ["four dimensions", "uint8 [4, 5, 3]", "picture[None]"]),
        (np.zeros((2, 4, 5, 4), np.uint8), ["frame 0", "uint8 [4, 5, 4]"]),
        ([FRAME, FRAME.astype(np.float32)], ["frame 1", "float32", "255 * frame"]),
        ([FRAME, FRAME[..., 0]], ["frame 1", "uint8 [4, 5]"]),
        ([FRAME[:0]], ["uint8 [0, 5, 3]"]),
        (["a.png"], ["frame 0", "str"]),
        (Path("nowhere"), ["does not exist"]),
    ],
)
def test_what_is_no_frame_is_refused(given: Any, parts: list[str], localizer: Localizer) -> None:
    with pytest.raises(DataError) as caught:
        localizer.predict(given)
    for part in parts:
        assert part in str(caught.value)


def test_bad_options_are_refused(localizer: Localizer, small_run: Path) -> None:
    with pytest.raises(RunError, match=r"threshold is out of range"):
        localizer.predict([FRAME], threshold=1.0)
    with pytest.raises(ConfigError, match="batch"):
        localizer.predict([FRAME], batch=0)
    with pytest.raises(ConfigError, match="unknown device"):
        Localizer.load(small_run, device="tpu")


def test_unfinished_runs(small_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        Localizer.load(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / "done.json").unlink()
    (run / "validation.json").unlink()
    early = Localizer.load(run, device="cpu")
    assert "is unfinished" in caplog.text
    assert early.threshold is None
    with pytest.raises(RunError, match=r"evaluate\.py"):
        early.predict([FRAME])
    assert len(early.predict([FRAME], threshold=0.5)) == 1
    (run / "checkpoints/localizer/best-localization.pt").unlink()
    with pytest.raises(RunError, match="no trained localizer") as caught:
        Localizer.load(run)
    assert "unfinished" in str(caught.value)


def test_rows_have_no_map(localizer: Localizer) -> None:
    (row,) = localizer.predict([FRAME], maps=True)
    assert list(json.loads(json.dumps(row.to_row()))) == ["clip", "frame", "cls", "score", "x0", "y0", "x1", "y1"]
