"""Maps averaged over time: the paper's answer for a frame looks at this frame alone (its section 5).

T frames, H and W the map's size in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from colocam_dist.inference.timeline import Timeline

__all__ = ["smooth_maps"]

_REACH = 3.0  # sigmas after which a weight is below 1.2 %


def smooth_maps(maps_THW: NDArray[np.float32], timeline: Timeline, sigma: float) -> NDArray[np.float32]:
    """Each map becomes a mean of those around it, with Gaussian weights in the distance of frame numbers.

    Frames farther away than three sigmas, or behind a cut, have no weight; the others' weights sum to 1, also at the
    ends. Nothing follows the motion of objects, so sigma must be short beside the time in which they cross themselves.

    Args:
        maps_THW: float32 ``[T, H, W]``; all frames of a shot or clip, in order.
        timeline: when they were taken.
        sigma: in frames of the video; 0 leaves the maps as they are.

    Returns:
        float32 ``[T, H, W]``, within the range of the input.

    Raises:
        ValueError: sigma is negative, or the numbers of frames differ.
    """
    if len(maps_THW) != len(timeline):
        raise ValueError(f"smooth_maps: wanted one map for each frame, got {len(maps_THW)} for {len(timeline)}")
    if sigma < 0.0:
        raise ValueError(f"smooth_maps: wanted a sigma of 0 or more frames, got {sigma}")
    if sigma == 0.0:
        return maps_THW
    numbers_T, segments_T = timeline.numbers_T, timeline.segments_T
    smooth_THW = np.empty_like(maps_THW)
    first_T = np.searchsorted(numbers_T, numbers_T - _REACH * sigma, "left")
    last_T = np.searchsorted(numbers_T, numbers_T + _REACH * sigma, "right")
    for t, (first, last) in enumerate(zip(first_T.tolist(), last_T.tolist(), strict=True)):
        distance_N = (numbers_T[first:last] - numbers_T[t]) / sigma
        weights_N = np.exp(-0.5 * distance_N**2) * (segments_T[first:last] == segments_T[t])
        smooth_THW[t] = np.tensordot(weights_N / weights_N.sum(), maps_THW[first:last].astype(np.float64), 1)
    return smooth_THW
