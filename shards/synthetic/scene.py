"""One clip: a photograph under a moving camera, an object with a shadow that moves over it, sometimes a bar before it.

Everything is drawn at twice the final size and averaged down. Boxes are those of the pixels of the object that are
seen: more than half covered by it and not behind the bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.synthetic.sprites import Kind, draw_sprite

__all__ = ["Scene", "render"]

_SUPER = 2
_LEAST_SEEN = 0.01  # of the frame's area; slivers of an object that leaves the picture get no box

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """What a clip shows.

    Attributes:
        kind: class of the object.
        photo: background, uint8 BGR [H, W, 3].
        bar_photo: what the bar in the foreground is cut from.
        frames: number of frames.
        width: pixels.
        height: pixels.
    """

    kind: Kind
    photo: NDArray[np.uint8]
    bar_photo: NDArray[np.uint8]
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class _Path:
    """Where the object is in every frame: position in -1..1 of the half frame, size, rotation, width factor."""

    x: Floats
    y: Floats
    scale: Floats
    degrees: Floats
    squeeze: Floats


def render(scene: Scene, rng: np.random.Generator) -> tuple[list[NDArray[np.uint8]], list[Box | None]]:
    """Draw a clip.

    Returns:
        Frames, uint8 BGR [height, width, 3]; and for each the object's box x0, y0, x1, y1 in pixels (outer edges), or
        None where it is out of sight.
    """
    width, height = scene.width * _SUPER, scene.height * _SUPER
    sprite = draw_sprite(scene.kind, round(height * 0.95), rng)
    path = _object_path(scene, float(sprite[..., 3].mean()), rng)
    canvas = _background(scene.photo, (width, height), rng)
    camera = _camera_path(scene.frames, rng)
    bar = _bar(scene, rng) if rng.random() < 0.25 else None
    light = 1 + rng.uniform(0.03, 0.12) * np.sin(np.linspace(0, rng.uniform(1, 5), scene.frames) + rng.uniform(0, 6))
    shadow_side = rng.choice((-1, 1))
    images, boxes = [], []
    for frame in range(scene.frames):
        zoom, pan_x, pan_y = camera[frame]
        image = _view(canvas, (width, height), zoom, pan_x, pan_y)
        layer = _place(sprite, (width, height), path, frame)
        alpha = layer[..., 3:]
        shadow = cv2.GaussianBlur(np.roll(alpha[..., 0], (height // 24, shadow_side * height // 30), (0, 1)), (0, 0), 7)
        image = image * (1 - 0.4 * shadow[..., None])
        image = image * (1 - alpha) + layer[..., :3]
        seen = alpha[..., 0]
        if bar is not None:
            moved = _view(bar, (width, height), zoom, 1.4 * pan_x, 1.4 * pan_y)
            image = image * (1 - moved[..., 3:]) + moved[..., :3]
            seen = seen * (1 - moved[..., 3])
        small = cv2.resize(image * light[frame], (scene.width, scene.height), interpolation=cv2.INTER_AREA)
        small += rng.normal(0, 2.0, small.shape)
        images.append(np.clip(np.rint(small), 0, 255).astype(np.uint8))
        boxes.append(_box(cv2.resize(seen, (scene.width, scene.height), interpolation=cv2.INTER_AREA) > 0.5))
    return images, boxes


def _object_path(scene: Scene, coverage: float, rng: np.random.Generator) -> _Path:
    """A smooth way through the picture; in one clip of six the object comes in from outside, or leaves."""
    t = np.linspace(0, 1, scene.frames, dtype=np.float32)
    share = rng.uniform(0.08, 0.24)  # of the frame's area
    sprite_share = coverage * 0.95**2 * scene.height / scene.width  # at scale 1
    scale = np.sqrt(share / sprite_share) * (1 + rng.uniform(-0.16, 0.16) * (2 * t - 1))
    reach = np.clip(1.15 - 0.75 * float(scale.max()), 0.1, 0.6)
    start, end = rng.uniform(-reach, reach, (2, 2))
    if rng.random() < 1 / 6:
        start = np.array([rng.choice((-1, 1)) * 2.0, start[1]])
    x, y = (start[i] + (end[i] - start[i]) * t + 0.08 * np.sin(5 * t + rng.uniform(0, 6)) for i in (0, 1))
    degrees = rng.uniform(-1, 1) * scene.kind.tilt + rng.uniform(-30, 30) * min(scene.kind.tilt / 45, 1) * t
    squeeze = 1 - scene.kind.flap * (0.5 + 0.5 * np.sin(rng.uniform(9, 16) * t + rng.uniform(0, 6)))
    if rng.random() < 0.5:
        squeeze = -squeeze  # mirrored
    if rng.random() < 0.5:
        x, y = x[::-1], y[::-1]
    return _Path(x, y, scale, degrees, squeeze)


def _camera_path(frames: int, rng: np.random.Generator) -> Floats:
    """Zoom (1 = the canvas fills the frame with room to pan), and pan as a share of the frame: float32 [frames, 3]."""
    t = np.linspace(-1, 1, frames, dtype=np.float32)
    zoom = 1.2 + rng.uniform(-0.09, 0.09) * t
    shake = 0.006 * np.sin(rng.uniform(4, 9, (2, 1)) * t + rng.uniform(0, 6, (2, 1)))
    pan = rng.uniform(-0.06, 0.06, (2, 1)) * t + shake
    return np.stack([zoom, *pan], -1).astype(np.float32)


def _background(photo: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A random piece of the photograph with its colors shifted: float32 BGR of the given size (width, height)."""
    width, height = size
    largest = min(photo.shape[1] / width, photo.shape[0] / height)
    crop_width, crop_height = (round(side * largest * rng.uniform(0.55, 1.0)) for side in (width, height))
    left = rng.integers(photo.shape[1] - crop_width + 1)
    top = rng.integers(photo.shape[0] - crop_height + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if crop_width > width else cv2.INTER_CUBIC)
    hsv = cv2.cvtColor(crop, cv2.COLOR_BGR2HSV).astype(np.float32)
    if hsv[..., 1].mean() < 4:  # gray photograph: tinted
        hsv[..., 0], hsv[..., 1] = rng.uniform(0, 180), rng.uniform(40, 110)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-14, 14)) % 180
    hsv[..., 1] *= rng.uniform(0.5, 1.0)
    hsv[..., 2] = hsv[..., 2] * rng.uniform(0.6, 0.95) + rng.uniform(0, 35)
    color = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR).astype(np.float32)
    return cv2.GaussianBlur(color, (0, 0), rng.uniform(0.8, 2.0) * _SUPER / 2)


def _bar(scene: Scene, rng: np.random.Generator) -> Floats:
    """A dark slanted bar in the foreground: float32 [height, width, 4], BGR times alpha, and alpha."""
    width, height = scene.width * _SUPER, scene.height * _SUPER
    color = _background(scene.bar_photo, (width, height), rng) * 0.55
    middle, slant = rng.uniform(0.25, 0.75) * width, rng.uniform(-0.25, 0.25) * width
    half = rng.uniform(0.035, 0.06) * width
    far = 0.3 * height  # beyond the frame, so that panning does not show its ends
    ends = [(middle - slant - half, -far), (middle - slant + half, -far)]
    ends += [(middle + slant + half, height + far), (middle + slant - half, height + far)]
    alpha = np.zeros((height, width), np.uint8)
    cv2.fillPoly(alpha, [np.rint(ends).astype(np.int32)], 255, cv2.LINE_AA)
    soft = cv2.GaussianBlur(alpha.astype(np.float32) / 255, (0, 0), 1.5)[..., None]
    return np.concatenate([color * soft, soft], -1)


def _view(canvas: Floats, size: tuple[int, int], zoom: float, pan_x: float, pan_y: float) -> Floats:
    width, height = size
    matrix = np.array(
        [[zoom, 0, width * ((1 - zoom) / 2 + pan_x)], [0, zoom, height * ((1 - zoom) / 2 + pan_y)]], np.float32
    )
    return cv2.warpAffine(canvas, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _place(sprite: Floats, size: tuple[int, int], path: _Path, frame: int) -> Floats:
    """The object where it is in this frame: float32 [height, width, 4]."""
    middle = (sprite.shape[0] - 1) / 2
    angle, scale = np.deg2rad(path.degrees[frame]), path.scale[frame]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([scale * path.squeeze[frame], scale])
    to = np.array([size[0] * (1 + path.x[frame]) / 2, size[1] * (1 + path.y[frame]) / 2])
    matrix = np.column_stack([turn, to - turn @ (middle, middle)])
    return cv2.warpAffine(sprite, matrix, size, flags=cv2.INTER_LINEAR)


def _box(seen: NDArray[np.bool_]) -> Box | None:
    if seen.mean() < _LEAST_SEEN:
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
