from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from shards.cuts import find_cuts, find_cuts_by_scenedetect, scenedetect_version


def pan(image: np.ndarray, frames: int, step: int = 3) -> Iterator[np.ndarray]:
    for frame in range(frames):
        yield np.ascontiguousarray(np.roll(image, step * frame, 1)[:, :77])


def scenes(picture: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Four pictures of different color: warm, green, dark blue, pale."""
    tints = ((0.3, 0.6, 1.0), (0.3, 1.0, 0.4), (0.6, 0.3, 0.1), (1.0, 0.9, 1.0))
    return [
        np.clip(picture(seed, 200, 61) * np.array(tint), 0, 255).astype(np.uint8) for seed, tint in enumerate(tints)
    ]


def test_hard_cuts_are_found_and_camera_motion_is_not(picture: Callable[..., np.ndarray]) -> None:
    lengths = (17, 5, 23, 9)
    video = [frame for scene, n in zip(scenes(picture), lengths, strict=True) for frame in pan(scene, n)]
    assert find_cuts(video) == [17, 22, 45]


def test_flashes_and_objects_that_pass_are_not_cuts(picture: Callable[..., np.ndarray]) -> None:
    video = [frame.copy() for frame in pan(scenes(picture)[0], 40)]
    video[11][:] = 255
    video[25][:], video[26][:] = 250, 255
    for number in range(30, 38):
        cv2.circle(video[number], (10 * (number - 30), 30), 12, (255, 0, 0), -1)
    assert find_cuts(video) == []


def test_a_slow_change_of_light_is_not_a_cut(picture: Callable[..., np.ndarray]) -> None:
    scene = scenes(picture)[3][:, :77]
    video = [(scene * (1 - 0.02 * number)).astype(np.uint8) for number in range(40)]
    assert find_cuts(video) == []


def test_very_short_videos(picture: Callable[..., np.ndarray]) -> None:
    first, second = (scene[:, :77] for scene in scenes(picture)[:2])
    assert find_cuts([]) == []
    assert find_cuts([first]) == []
    assert find_cuts([first, second]) == [1]


def test_scenedetect_numbers_frames_as_we_do(picture: Callable[..., np.ndarray]) -> None:
    pytest.importorskip("scenedetect")
    lengths = (22, 17, 31)
    video = [frame for scene, n in zip(scenes(picture)[:3], lengths, strict=True) for frame in pan(scene, n)]
    assert find_cuts_by_scenedetect(video, 25.0) == [22, 39]
    assert find_cuts_by_scenedetect(video[:5], 25.0) == []
    assert find_cuts_by_scenedetect([], 25.0) == []
    assert scenedetect_version()
