"""Shot cuts: the built-in detector, and that of PySceneDetect.

The built-in one compares color histograms. It is good for hard cuts; dissolves and fades are seen only when they are
quick. A cut lies where the histogram changes much more than it does in the frames around, and where none of the three
frames after it looks like one before it or the reverse: that leaves camera motion, objects that pass by, and flashes
alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import ConfigError

__all__ = ["find_cuts", "find_cuts_by_scenedetect", "scenedetect_version"]

_LEAST_CHANGE = 0.25  # half the L1 distance of two histograms that sum to 1; 0 = equal, 1 = disjoint
_RATIO = 3.0  # to the median change of the neighborhood
_NEIGHBORS = 8  # frames on each side
_FLASH = 3  # longest flash, in frames


def find_cuts(images_BGR: Iterable[NDArray[np.uint8]]) -> list[int]:
    """Numbers of the frames (counted from 0) that begin a new shot; never holds 0.

    Args:
        images_BGR: uint8 [H, W, 3] each, all of one video in order.
    """
    found = [_histogram(image) for image in images_BGR]
    if not found:
        return []
    histograms = np.stack(found)
    changes = _distance(histograms[:-1], histograms[1:])  # changes[t - 1] is that from frame t - 1 to frame t
    cuts = []
    for t in np.flatnonzero(changes >= _LEAST_CHANGE) + 1:
        around = np.delete(changes, t - 1)[max(t - 1 - _NEIGHBORS, 0) : t - 1 + _NEIGHBORS]
        usual = float(np.median(around)) if len(around) else 0.0
        after = _distance(histograms[t - 1], histograms[t : t + _FLASH + 1])
        before = _distance(histograms[max(t - 1 - _FLASH, 0) : t], histograms[t])
        if changes[t - 1] >= _RATIO * usual and min(after.min(), before.min()) >= _LEAST_CHANGE:
            cuts.append(int(t))
    return cuts


def scenedetect_version() -> str | None:
    """Version of PySceneDetect; None if it is not installed."""
    try:
        import scenedetect
    except ImportError:
        return None
    return str(scenedetect.__version__)


def find_cuts_by_scenedetect(images_BGR: Iterable[NDArray[np.uint8]], fps: float) -> list[int]:
    """As :func:`find_cuts`, by PySceneDetect's AdaptiveDetector, whose shots have 15 frames at least.

    It is given our frames instead of the file, so that the numbers are ours.

    Args:
        images_BGR: uint8 [H, W, 3] each, all of one video in order.
        fps: frames per second, above 0; only a scale here.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError as error:
        raise ConfigError(
            "PySceneDetect is not installed",
            where="--cuts scenedetect",
            fix='pip install -e ".[shots]" -c constraints.txt, or take --cuts histogram',
        ) from error
    detector, last, cuts = AdaptiveDetector(), None, []
    for number, image in enumerate(images_BGR):
        last = FrameTimecode(number, fps)
        cuts += detector.process_frame(last, image)
    if last is not None:
        cuts += detector.post_process(last)
    return sorted({int(cut.frame_num) for cut in cuts} - {0})


def _histogram(image_BGR: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Hue with saturation, and brightness, of the picture shrunk to 64 x 48: float32 [160], sums to 1."""
    hsv = cv2.cvtColor(cv2.resize(image_BGR, (64, 48), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2HSV)
    color = cv2.calcHist([hsv], [0, 1], None, [18, 8], [0, 180, 0, 256]).ravel()
    light = cv2.calcHist([hsv], [2], None, [16], [0, 256]).ravel()
    both: NDArray[np.float32] = np.concatenate([color, light])
    return both / both.sum()


def _distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.abs(first - second).sum(-1) / 2
