"""Maps averaged over time: the paper's answer for a frame looks at this frame alone (its section 5).

T frames, N of them near each other, H and W the map's size in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from colocam_dist.inference.timeline import TimedMap, Timeline

__all__ = ["smooth_each", "smooth_maps"]

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
    _check(sigma)
    if sigma == 0.0:
        return maps_THW
    smooth_THW = np.empty_like(maps_THW)
    frames = map(TimedMap, timeline.numbers_T.tolist(), timeline.segments_T.tolist(), maps_THW)
    for t, smooth_HW in enumerate(smooth_each(frames, sigma)):
        smooth_THW[t] = smooth_HW
    return smooth_THW


def smooth_each(frames: Iterable[TimedMap], sigma: float) -> Iterator[NDArray[np.float32]]:
    """The same for maps that come one after another; those within three sigmas are held, 6 sigma + 2 at most.

    Args:
        frames: in the order of time.
        sigma: as for :func:`smooth_maps`.

    Yields:
        float32 ``[H, W]``, one map for each.

    Raises:
        ValueError: sigma is negative.
    """
    _check(sigma)
    if sigma == 0.0:
        yield from (frame.map_HW for frame in frames)
        return
    reach = _REACH * sigma
    near: deque[TimedMap] = deque()
    place = 0  # in `near`, of the first frame that has no mean yet
    for frame in chain(frames, (None,)):
        while place < len(near) and (frame is None or frame.number > near[place].number + reach):
            while near[0].number < near[place].number - reach:
                near.popleft()
                place -= 1
            yield _mean(near, place, sigma)
            place += 1
        if frame is not None:
            near.append(frame)


def _mean(near: deque[TimedMap], place: int, sigma: float) -> NDArray[np.float32]:
    """Of the maps of `near`, which are those within reach of the one at `place`."""
    numbers_N, segments_N = (np.array([frame[column] for frame in near]) for column in (0, 1))
    weights_N = np.exp(-0.5 * ((numbers_N - numbers_N[place]) / sigma) ** 2) * (segments_N == segments_N[place])
    maps_NHW = np.array([frame.map_HW for frame in near], np.float64)
    return np.tensordot(weights_N / weights_N.sum(), maps_NHW, 1).astype(np.float32)


def _check(sigma: float) -> None:
    if sigma < 0.0:
        raise ValueError(f"smooth_maps: wanted a sigma of 0 or more frames, got {sigma}")
