"""Rows of a clip: the boxes of evaluation's functions on the same maps, without holding pictures or maps."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from colocam_dist.config.evaluation import Evaluation
from colocam_dist.errors import ConfigError
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.evaluation.iou import scale_boxes
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.clip_rows import BoxOptions, BoxRule, SeenFrame, clip_rows, in_picture
from colocam_dist.inference.instances import instance_boxes
from colocam_dist.inference.rows import FramePrediction
from colocam_dist.inference.smoothing import smooth_maps
from colocam_dist.inference.timeline import Timeline, color_histograms, make_timeline
from colocam_dist.inference.viterbi import path_boxes
from colocam_dist.inference.ways import clip_boxes, clip_instances

pytestmark = pytest.mark.usefixtures("green_maps")
Picture = Callable[[int, int, int], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def localizer(small_run: Path) -> Localizer:
    return Localizer.load(small_run, device="cpu")


@pytest.fixture
def frames(picture: Picture) -> NDArray[np.uint8]:
    """Thirteen frames whose colors slowly change, with a cut before the eighth."""
    skies = [picture(seed, 99, 47) for seed in (1, 2)]
    return np.stack([skies[t >= 7][:, 3 * t : 3 * t + 61] // (2 if t >= 7 else 1) for t in range(13)])


def in_pixels(boxes_T4: NDArray[Any]) -> list[tuple[float, ...]]:
    ends = np.array([0, 0, 1, 1])
    found = (boxes_T4 + ends) * (np.array([61, 47, 61, 47]) / 40) - ends
    return [tuple(box) for box in np.round(np.where(boxes_T4.any(1, keepdims=True), found, 0.0), 2).tolist()]


@pytest.fixture
def seen(localizer: Localizer, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Timeline]:
    """The maps of the frames, and their timeline as evaluation makes it."""
    found = list(localizer.see(frames))
    histograms = color_histograms(np.stack([frame.square_CHW for frame in found]))
    timeline = make_timeline(np.arange(13), histograms, 0.6)
    assert timeline.segments_T.tolist() == [0] * 7 + [1] * 6
    return np.stack([frame.map_SS for frame in found]), timeline


@pytest.mark.parametrize("smoothing", ["none", "maps", "viterbi"])
@pytest.mark.parametrize("batch", [2, 32])
def test_boxes_are_those_of_evaluation_on_the_same_maps(
    smoothing: str, batch: int, localizer: Localizer, frames: NDArray[np.uint8], seen: Any
) -> None:
    maps_THW, timeline = seen
    tau, settings = 0.8, Evaluation.model_validate({"smoothing": smoothing})
    truth = {
        "none": lambda: np.array([box_at(map_HW, tau) for map_HW in maps_THW]),
        "maps": lambda: np.array([box_at(map_HW, tau) for map_HW in smooth_maps(maps_THW, timeline, 2.0)]),
        "viterbi": lambda: path_boxes(maps_THW, timeline, tau, settings.viterbi),
    }[smoothing]()
    assert np.array_equal(clip_boxes(maps_THW, timeline, tau, settings), truth)
    rows = localizer.predict(frames, smoothing=smoothing, threshold=tau, batch=batch)
    assert [row.box for row in rows] == in_pixels(truth)
    plain = localizer.predict(frames, threshold=tau)
    assert [(row.frame, row.cls, row.score) for row in rows] == [(row.frame, row.cls, row.score) for row in plain]
    assert ([row.box for row in rows] == [row.box for row in plain]) == (smoothing == "none")


@pytest.mark.parametrize("smoothing", ["maps", "viterbi"])
def test_nothing_crosses_a_cut(smoothing: str, localizer: Localizer, frames: NDArray[np.uint8]) -> None:
    whole = [row.box for row in localizer.predict(frames, smoothing=smoothing, threshold=0.7)]
    parts = [localizer.predict(part, smoothing=smoothing, threshold=0.7) for part in (frames[:7], frames[7:])]
    assert whole == [row.box for part in parts for row in part]


def test_all_boxes_have_a_row_each(localizer: Localizer, frames: NDArray[np.uint8], seen: Any) -> None:
    wanted = [found.boxes_k4 for found in clip_instances(seen[0], 0.8, Evaluation())]
    assert all(len(boxes_k4) for boxes_k4 in wanted)
    rows = localizer.predict(frames, boxes="all", threshold=0.8, maps=True)
    expected = [(t, place) for t, boxes_k4 in enumerate(wanted) for place in range(len(boxes_k4))]
    assert [(row.frame, row.instance) for row in rows] == expected
    assert len(rows) > len(frames), "some frame has several"
    assert [row.box for row in rows] == in_pixels(np.concatenate(wanted))
    plain = localizer.predict(frames)
    assert all((row.cls, row.score) == (plain[row.frame].cls, plain[row.frame].score) for row in rows)
    assert all(row.map_HW is not None and row.map_HW.shape == (47, 61) for row in rows)
    assert list(rows[0].to_row())[-1] == "instance"
    assert "instance" not in plain[0].to_row()


def test_a_frame_without_any_box_has_a_row_of_zeros() -> None:
    rule = BoxRule(0.5, "given", Evaluation(boxes="all"))
    speck = np.zeros((40, 40), np.float32)
    speck[3, 4] = 1.0
    assert len(instance_boxes(speck, 0.5, Evaluation().instances).boxes_k4) == 0, "too small to count"
    row = FramePrediction("a", 0, "cat", 0.5, 0.0, 0.0, 0.0, 0.0)
    frame = SeenFrame(np.zeros((9, 7, 3), np.uint8), np.zeros((3, 40, 40), np.uint8), speck, row)
    (found,) = clip_rows([frame], rule)
    assert (found.box, found.instance, found.cls) == ((0, 0, 0, 0), 0, "cat")


@pytest.mark.parametrize(
    ("smoothing", "boxes", "most"),
    [("none", "largest", 2), ("none", "all", 2), ("maps", "largest", 15), ("viterbi", "largest", 2)],
)
def test_pictures_and_maps_are_not_held(smoothing: str, boxes: str, most: int) -> None:
    alive: list[list[weakref.ref[Any]]] = [[], []]

    def frames() -> Iterator[SeenFrame]:
        draw = np.random.default_rng(0)
        for number in range(40):
            arrays = np.zeros((4, 4, 3), np.uint8), draw.random((9, 9)).astype(np.float32)
            for kept, array in zip(alive, arrays, strict=True):
                kept.append(weakref.ref(array))
            row = FramePrediction("", number, "cat", 0.5, 0.0, 0.0, 0.0, 0.0)
            yield SeenFrame(arrays[0], np.zeros((3, 9, 9), np.uint8), arrays[1], row)
            del arrays, array
            pictures, maps = (sum(ref() is not None for ref in kept) for kept in alive)
            assert pictures <= 2
            assert maps <= most

    rule = BoxRule(0.5, "given", Evaluation.model_validate({"smoothing": smoothing, "boxes": boxes}))
    assert {row.frame for row in clip_rows(frames(), rule)} == set(range(40))


def test_pictures_of_different_sizes_have_boxes_in_their_own_pixels(localizer: Localizer, picture: Picture) -> None:
    sizes = [(61, 47), (40, 40), (200, 31)]
    rows = localizer.predict([picture(1, *size) for size in sizes], smoothing="viterbi", threshold=0.01)
    for row, (width, height) in zip(rows, sizes, strict=True):
        assert row.x1 <= width
        assert row.y1 <= height
    assert rows[2].x1 > 70


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"smoothing": "median"}, ["unknown word", "smoothing", "median", "viterbi"]),
        ({"boxes": "two"}, ["unknown word", "boxes", "two", "largest"]),
        ({"boxes": "all", "smoothing": "maps"}, ["not followed over time", "smoothing=maps", "boxes=largest"]),
    ],
)
def test_unknown_and_contradicting_words_are_refused(given: Any, parts: list[str], localizer: Localizer) -> None:
    with pytest.raises(ConfigError) as caught:
        localizer.predict([np.zeros((4, 5, 3), np.uint8)], **given)
    assert all(part in str(caught.value) for part in parts)


FOR_MAPS = {"threshold": 0.55, "thresholds": 1000, "sigma": 2.0, "cut": 0.6, "method": "localizer"}


@pytest.mark.parametrize(
    ("known", "threshold", "origin"),
    [
        (FOR_MAPS, 0.55, "smoothed maps"),
        (None, 0.7, "single frames"),
        (FOR_MAPS | {"sigma": 4.0}, 0.7, "single frames"),
        (FOR_MAPS | {"cut": 0.0}, 0.7, "single frames"),
    ],
)
def test_smoothed_maps_have_a_threshold_of_their_own_or_a_warning(
    known: Any, threshold: float, origin: str, small_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    validated = json.loads((run / "validation.json").read_text())
    (run / "validation.json").write_text(json.dumps(validated | ({"localizer+maps": known} if known else {})))
    localizer = Localizer.load(run, device="cpu")
    rule = localizer.rule(BoxOptions(smoothing="maps"))
    assert (rule.threshold, rule.origin) == (threshold, origin)
    assert ("that of single frames is taken, 0.7" in caplog.text) == (origin == "single frames")
    caplog.clear()
    for smoothing in ("none", "viterbi"):
        assert localizer.rule(BoxOptions(smoothing=smoothing)).threshold == 0.7
    given = localizer.rule(BoxOptions(0.3, "maps"))
    assert (given.threshold, given.origin) == (0.3, "given")
    assert caplog.text == ""


def test_settings_that_decide_are_told_and_others_are_not(localizer: Localizer) -> None:
    def facts(**given: str) -> dict[str, Any]:
        return localizer.rule(BoxOptions(0.5, **given)).facts()

    assert facts() == {}
    assert facts(smoothing="maps") == {"smoothing": "maps", "cut": 0.6, "maps": {"sigma": 2.0}}
    viterbi = facts(smoothing="viterbi")
    assert list(viterbi) == ["smoothing", "cut", "viterbi"]
    assert viterbi["viterbi"]["pairwise"] == 1.0
    assert list(facts(boxes="all")) == ["boxes", "instances"]


def test_boxes_end_with_the_last_pixel_of_the_picture() -> None:
    boxes = np.array([[0, 0, 111, 111], [0, 0, 0, 0], [56, 28, 83, 55]], np.int16)
    wide = np.array([320, 240, 320, 240]) / 112
    found = in_picture(boxes, wide)
    assert np.allclose(found, [[0, 0, 319, 239], [0, 0, 0, 0], [160, 60, 239, 119]])
    assert np.array_equal(scale_boxes(found, 320, 240, 112), boxes), "evaluation reads them back"
    tiny = in_picture(np.array([[5, 5, 5, 9]]), np.full(4, 0.25))
    assert np.allclose(tiny, [[1.25, 1.25, 1.25, 1.5]])
