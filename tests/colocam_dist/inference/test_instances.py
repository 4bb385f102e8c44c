"""Several boxes from one map: regions, divided or not."""

from __future__ import annotations

import numpy as np
import pytest

from colocam_dist.config.evaluation import Instances
from colocam_dist.evaluation.boxes import box_at
from colocam_dist.inference.instances import divide_region, instance_boxes, suppress_overlaps

EVERY = Instances(min_area=0.0, min_share=0.0, min_score=0.0, overlap=1.0)


def blobs(*centers: tuple[float, float, float], size: tuple[int, int] = (41, 53), radius: float = 4.0) -> np.ndarray:
    """The largest of Gaussians, each given by y, x and height."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    parts = [h * np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * radius**2)) for y, x, h in centers]
    return np.max(parts, axis=0).astype(np.float32)


def disks(*centers: tuple[int, int], radius: float, size: tuple[int, int] = (41, 53)) -> np.ndarray:
    """Bool: the union of disks."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    return np.any([(ys - y) ** 2 + (xs - x) ** 2 <= radius**2 for y, x in centers], axis=0)


def test_one_region_has_the_published_box() -> None:
    map_HW = blobs((17, 21, 0.9))
    found = instance_boxes(map_HW, 0.4, EVERY)
    assert found.boxes_k4.tolist() == [box_at(map_HW, 0.4).tolist()]
    assert found.boxes_k4.dtype == np.int16
    inside = map_HW[(map_HW * 255).astype(np.uint8) > int(0.4 * int(map_HW.max() * 255))]
    assert found.scores_k == pytest.approx([inside.mean()])


def test_all_regions_are_found_strongest_first() -> None:
    found = instance_boxes(blobs((10, 10, 0.7), (30, 15, 1.0), (20, 42, 0.8)), 0.4, EVERY)
    assert found.boxes_k4[:, [0, 2]].mean(1) == pytest.approx([15, 42, 10], abs=1)
    assert (np.diff(found.scores_k) < 0).all()


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, 3),
        ({"min_area": 25 / (41 * 53)}, 2),
        ({"min_share": 0.2}, 2),
        ({"min_score": 0.8}, 2),
        ({"min_area": 1.0}, 0),
    ],
)
def test_limits(limits: dict[str, float], left: int) -> None:
    map_HW = np.zeros((41, 53), np.float32)
    map_HW[2:12, 3:13] = 1.0
    map_HW[20:30, 10:20] = 0.7
    map_HW[20:24, 40:44] = 0.9
    assert len(instance_boxes(map_HW, 0.5, EVERY.model_copy(update=limits)).boxes_k4) == left


def test_empty_and_flat_maps() -> None:
    empty = instance_boxes(np.zeros((5, 7), np.float32), 0.5, EVERY)
    assert empty.boxes_k4.shape == (0, 4)
    assert empty.scores_k.shape == (0,)
    for split in ("none", "peaks", "distance"):
        flat = instance_boxes(np.full((5, 7), 0.5, np.float32), 0.5, EVERY.model_copy(update={"split": split}))
        assert flat.boxes_k4.tolist() == [[0, 0, 6, 4]]
    with pytest.raises(ValueError, match="finite map in"):
        instance_boxes(np.full((5, 7), np.nan, np.float32), 0.5, EVERY)


def test_fused_instances_come_apart_at_the_dip_between_their_peaks() -> None:
    map_HW = blobs((20, 15, 1.0), (20, 30, 0.9), radius=5.5)
    assert len(instance_boxes(map_HW, 0.2, EVERY).boxes_k4) == 1
    found = instance_boxes(map_HW, 0.2, EVERY.model_copy(update={"split": "peaks"}))
    assert sorted(found.boxes_k4[:, [0, 2]].mean(1).tolist()) == pytest.approx([14.5, 31], abs=1.5)
    deep = EVERY.model_copy(update={"split": "peaks", "depth": 0.9})
    assert len(instance_boxes(map_HW, 0.2, deep).boxes_k4) == 1, "the dip is less deep than that"


def test_fused_instances_come_apart_at_a_waist() -> None:
    map_HW = disks((20, 14), (20, 32), radius=10).astype(np.float32)
    assert len(instance_boxes(map_HW, 0.5, EVERY.model_copy(update={"split": "peaks"})).boxes_k4) == 1, "no dip"
    found = instance_boxes(map_HW, 0.5, EVERY.model_copy(update={"split": "distance"}))
    assert sorted(found.boxes_k4[:, [0, 2]].mean(1).tolist()) == pytest.approx([14, 33], abs=1)


@pytest.mark.parametrize("seed", range(4))
def test_parts_make_up_the_region_and_hold_one_peak_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centers = [(9, 9), (9, 27), (9, 45), (30, 18), (30, 36)]
    heights = rng.uniform(0.7, 1.0, 5).tolist()
    map_HW = blobs(*((y, x, h) for (y, x), h in zip(centers, heights, strict=True)), radius=6.0)
    region = map_HW > 0.05
    parts = divide_region(region, map_HW, 0.25)
    assert np.array_equal(np.sum(parts, axis=0), region)
    assert sorted([sum(bool(part[y, x]) for y, x in centers) for part in parts]) == [1] * 5


def test_three_levels_of_passes() -> None:
    """Two near peaks beside a third one: the deeper pass divides first, then the other one."""
    row = np.array([0.2, 0.9, 0.6, 1.0, 0.3, 0.8, 0.2], np.float32)
    height = np.repeat(np.repeat(row[None], 3, 0), 3, 1)
    whole = np.ones(height.shape, bool)
    ends = [
        sorted({int(x) for x in np.flatnonzero(part.any(0))[[0, -1]]}) for part in divide_region(whole, height, 0.25)
    ]
    assert sorted(ends) == [[0, 7], [8, 13], [14, 20]]
    assert len(divide_region(whole, height, 9 / 32)) == 3, "as far as the left one stands out of the middle one"
    assert len(divide_region(whole, height, 10 / 32)) == 2
    assert len(divide_region(whole, height, 0.9)) == 1


def test_overlaps_are_suppressed_in_order() -> None:
    boxes = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [20, 0, 29, 9], [0, 0, 9, 9]], np.int16)
    assert suppress_overlaps(boxes, 0.5).tolist() == [0, 2]
    assert suppress_overlaps(boxes, 0.9).tolist() == [0, 1, 2]
    assert suppress_overlaps(boxes, 1.0).tolist() == [0, 1, 2, 3]
    assert suppress_overlaps(boxes[:0], 0.5).tolist() == []
