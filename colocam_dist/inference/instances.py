"""Several boxes from one map: its regions above a threshold, if wanted divided where instances have grown together.

Dense and overlapping instances fuse into one region (paper section 4.5). A region is divided where a height over its
pixels has several peaks: the map itself ("peaks": the map must sink between two instances), or the distance to the
region's border ("distance": its outline must have a waist). A peak counts if it stands out from the pass to the next
one by `depth` of the largest height in the region. The region's pixels then go to the nearest peak.

H and W the map's size in pixels, k boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.config.evaluation import Instances
from colocam_dist.evaluation.boxes import above_threshold
from colocam_dist.evaluation.iou import iou_inclusive

__all__ = ["InstanceBoxes", "divide_region", "instance_boxes", "suppress_overlaps"]

Mask = NDArray[np.bool_]
Height = NDArray[np.float32]

_LEVELS = 32  # between 0 and the largest height; peaks are told apart at these


@dataclass(frozen=True)
class InstanceBoxes:
    """Boxes of one frame, the one with the highest score first.

    Attributes:
        boxes_k4: int16 ``[k, 4]`` as x0, y0, x1, y1 in pixels of the map; k is 0 where no region is large enough.
        scores_k: float64 ``[k]``, mean of the map over the region, in [0, 1].
    """

    boxes_k4: NDArray[np.int16]
    scores_k: NDArray[np.float64]


def instance_boxes(map_HW: NDArray[np.float32], threshold: float, rule: Instances) -> InstanceBoxes:
    """The boxes of all regions above a threshold, with ends as the published code puts them.

    Args:
        map_HW: float32 ``[H, W]`` in [0, 1].
        threshold: tau, relative to the map's own maximum, as for the published rule.
        rule: how regions are divided, which ones count, and how much boxes may overlap.

    Raises:
        ValueError: the map is not finite or not in [0, 1].
    """
    regions = _regions(above_threshold(map_HW, threshold))
    if rule.split != "none":
        regions = [part for region in regions for part in _divided(region, map_HW, rule)]
    areas_k = np.array([region.sum() for region in regions], np.float64)
    scores_k = np.array([map_HW[region].mean(dtype=np.float64) for region in regions], np.float64)
    large_k = areas_k >= max(rule.min_area * map_HW.size, rule.min_share * areas_k.max(initial=0.0))
    kept_k = np.flatnonzero(large_k & (scores_k >= rule.min_score * scores_k.max(initial=0.0, where=large_k)))
    order = kept_k[np.argsort(-scores_k[kept_k], kind="stable")]
    boxes_k4 = np.array([_bounding_box(regions[place]) for place in order.tolist()], np.int16).reshape(-1, 4)
    free = suppress_overlaps(boxes_k4, rule.overlap)
    return InstanceBoxes(boxes_k4[free], scores_k[order][free])


def divide_region(region_HW: Mask, height_HW: Height, depth: float) -> list[Mask]:
    """The parts of a region that belong to different peaks of a height; the region itself where there is one peak.

    Args:
        region_HW: bool ``[H, W]``, connected.
        height_HW: float32 ``[H, W]``, 0 or more.
        depth: how far a peak must stand out, as a share of the largest height in the region, in (0, 1].

    Returns:
        bool ``[H, W]`` each; without common pixels, together the region.
    """
    top = float(height_HW[region_HW].max())
    if top <= 0.0:
        return [region_HW]
    steps_HW = np.where(region_HW, np.ceil(height_HW / top * _LEVELS), 0.0).astype(np.int32)
    peaks = _peaks(steps_HW, 0, max(1, round(depth * _LEVELS)))
    if len(peaks) < 2:
        return [region_HW]
    nearest_HW = np.stack([_distance(~peak) for peak in peaks]).argmin(0)
    return [region_HW & (nearest_HW == place) for place in range(len(peaks))]


def suppress_overlaps(boxes_k4: NDArray[np.int16], overlap: float) -> NDArray[np.intp]:
    """Places of the boxes that stay when each box removes the later ones whose IoU with it is above `overlap`."""
    free: list[int] = []
    iou_kk = iou_inclusive(boxes_k4, boxes_k4)
    for place in range(len(boxes_k4)):
        if (iou_kk[place, free] <= overlap).all():
            free.append(place)
    return np.array(free, np.intp)


def _divided(region_HW: Mask, map_HW: NDArray[np.float32], rule: Instances) -> list[Mask]:
    return divide_region(region_HW, map_HW if rule.split == "peaks" else _distance(region_HW), rule.depth)


def _peaks(steps_HW: NDArray[np.int32], ground: int, least: int) -> list[Mask]:
    """The regions above the passes between peaks that stand out from them by `least` steps."""
    whole_HW = steps_HW > ground
    for level in range(ground, int(steps_HW.max())):
        parts = [part for part in _regions(steps_HW > level) if int(steps_HW[part].max()) - level >= least]
        if len(parts) > 1:
            return [peak for part in parts for peak in _peaks(np.where(part, steps_HW, 0), level, least)]
        if not parts:
            break
        steps_HW = np.where(parts[0], steps_HW, 0)
    return [whole_HW]


def _regions(mask_HW: Mask) -> list[Mask]:
    """The connected regions of a mask (8 neighbors), in reading order of their first pixels."""
    count, labels_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    return [labels_HW == label for label in range(1, count)]


def _distance(mask_HW: Mask) -> Height:
    """Distance of each pixel of a mask from the nearest one outside of it; there is no outside beyond the picture."""
    return np.asarray(cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _bounding_box(region_HW: Mask) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(region_HW.astype(np.uint8))
    return x, y, min(x + width, region_HW.shape[1] - 1), min(y + height, region_HW.shape[0] - 1)
