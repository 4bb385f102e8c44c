"""Objects as pictures with transparency: an outline per class, inflated and lit, with a texture on it.

The colors of one object stay close to each other, as those of most animals and things do: losses that compare colors
would take an object of two colors for two objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "draw_sprite"]

Floats = NDArray[np.float32]
Curves = Sequence[NDArray[np.floating[Any]]]
Outline = Callable[[Floats, np.random.Generator], Curves]
Texture = Callable[[Floats, Floats, np.random.Generator], Floats]


@dataclass(frozen=True)
class Kind:
    """A class of objects.

    Attributes:
        outline: closed curves [points, 2] in -1..1 (x right, y down) whose union is the object; the argument holds
            angles in 0..2 pi.
        texture: brightness pattern in about -1..1 from coordinates x, y.
        hue: range in OpenCV's 0..180.
        saturation: range in 0..255.
        tilt: largest rotation from upright, in degrees.
        flap: by how much the object's width shrinks and grows in time, 0..1.
        hole: radius of a round hole in the middle, 0 = none.
    """

    outline: Outline
    texture: Texture
    hue: tuple[float, float]
    saturation: tuple[float, float]
    tilt: float
    flap: float = 0.05
    hole: float = 0.0


def draw_sprite(kind: Kind, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one individual of a kind: float32 [side, side, 4], BGR in 0..255 times alpha, and alpha in 0..1."""
    angles = np.linspace(0, 2 * np.pi, 240, endpoint=False, dtype=np.float32)
    mask = np.zeros((2 * side, 2 * side), np.uint8)
    for curve in kind.outline(angles, rng):
        # 4 fractional bits; 0.94 leaves room for the antialiased edge
        points = np.rint((curve * 0.94 + 1) * side * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, shift=4)
    if kind.hole:
        radius = round(kind.hole * side * 16)
        cv2.circle(mask, (side * 16, side * 16), radius, 0, -1, cv2.LINE_AA, shift=4)
    mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    alpha = mask.astype(np.float32) / 255
    shade, gloss = _light(mask, rng)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    pattern = kind.texture(x, y, rng)
    grain = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 1.5)
    value = rng.uniform(165, 225) * shade * (1 + 0.13 * pattern + 0.22 * grain)
    hue = (rng.uniform(*kind.hue) + 3 * pattern) % 180
    saturation = np.full_like(x, rng.uniform(*kind.saturation)) * (1.05 - 0.2 * shade)
    hsv = np.stack([hue, np.clip(saturation, 0, 255), np.clip(value, 0, 255)], -1).astype(np.uint8)
    color = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(np.float32) + gloss[..., None]
    return np.dstack([np.clip(color, 0, 255) * alpha[..., None], alpha])


def _light(mask: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Brightness factor and added gloss of a body that is round at its rim, lit from above."""
    side = mask.shape[0]
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    rim = np.clip(depth / (0.75 * max(float(depth.max()), 1.0)), 0, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - (1 - rim) ** 2), (0, 0), side / 64)
    slope = 0.11 * side
    normal = np.dstack([-slope * cv2.Sobel(height, -1, 1, 0) / 8, -slope * cv2.Sobel(height, -1, 0, 1) / 8])
    normal = np.dstack([normal, np.ones_like(height)])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    sun = np.array([rng.uniform(-0.6, 0.6), -0.6, 0.75], np.float32)
    sun /= np.linalg.norm(sun)
    lit = np.clip(normal @ sun, 0, 1)
    return (0.45 + 0.65 * lit).astype(np.float32), (70 * lit**24).astype(np.float32)


def _polar(angles: Floats, radius: Floats, squeeze: float = 1.0) -> Floats:
    return np.stack([radius * np.sin(angles) * squeeze, -radius * np.cos(angles)], -1)


def _fish(angles: Floats, rng: np.random.Generator) -> Curves:
    fat = rng.uniform(0.38, 0.5)
    body = np.stack([0.62 * np.cos(angles) + 0.3, fat * np.sin(angles) * (1 + 0.25 * np.cos(angles))], -1)
    tail = np.array([[-0.15, 0], [-0.6, -0.32], [-0.95, -0.55], [-0.8, 0], [-0.95, 0.55], [-0.6, 0.32]], np.float32)
    fin = np.array([[0.55, -0.7 * fat], [0.1, -fat - 0.28], [-0.12, -fat - 0.22], [0, -0.6 * fat]], np.float32)
    return [body, tail, fin, fin * (0.9, -0.85)]


def _scales(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    pitch = rng.uniform(22, 28)
    eye = np.exp(-(((x - 0.68) ** 2 + (y + 0.1) ** 2) / 0.004))
    return np.sin(pitch * x + 2 * np.cos(9 * y)) * np.cos(pitch * y) - 5 * eye


def _leaf(angles: Floats, rng: np.random.Generator) -> Curves:
    width = rng.uniform(0.52, 0.64)
    t = angles / (2 * np.pi)
    along = np.where(t < 0.5, 4 * t - 1, 3 - 4 * t)  # -1 .. 1 .. -1
    bulge = width * (1 - along**2) ** 0.8 * (1 + 0.25 * along) * (1 + 0.05 * np.sin(40 * along))
    edge = np.stack([np.where(t < 0.5, bulge, -bulge), 0.85 * along - 0.12], -1)
    stem = np.array([[-0.05, 0.6], [0.05, 0.6], [0.07, 1.0], [-0.03, 1.0]], np.float32)
    return [edge.astype(np.float32), stem]


def _veins(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    ribs = np.cos((y + 0.75 * np.abs(x)) * rng.uniform(26, 32)) ** 8
    return 1.6 * np.exp(-((x / 0.03) ** 2)) + 0.9 * ribs - 0.4


def _starfish(angles: Floats, rng: np.random.Generator) -> Curves:
    sharp = rng.uniform(0.36, 0.44)
    wave = 0.5 + 0.5 * np.cos(5 * angles)
    return [_polar(angles, (1 - sharp * 1.5 + sharp * 1.5 * wave**1.4).astype(np.float32))]


def _bumps(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    phase = rng.uniform(0, 6, 2)
    return 1.1 * np.cos(24 * x + phase[0]) * np.cos(24 * y + phase[1]) + 0.5 * np.cos(5 * np.arctan2(x, -y))


def _balloon(angles: Floats, rng: np.random.Generator) -> Curves:
    down = np.clip(-np.cos(angles), 0, 1)
    envelope = _polar(angles, (0.74 + 0.1 * down**3).astype(np.float32), squeeze=rng.uniform(0.92, 1.0)) - (0, 0.24)
    skirt = np.array([[-0.36, 0.3], [0.36, 0.3], [0.13, 0.7], [-0.13, 0.7]], np.float32)
    basket = np.array([[-0.15, 0.76], [0.15, 0.76], [0.12, 1.0], [-0.12, 1.0]], np.float32)
    ropes = np.array([[-0.13, 0.66], [-0.1, 0.66], [0.13, 0.8], [0.1, 0.66], [0.13, 0.66], [-0.13, 0.8]], np.float32)
    return [envelope.astype(np.float32), skirt, basket, ropes]


def _gores(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    around = np.arcsin(np.clip(x / np.sqrt(np.clip(0.62 - (y + 0.24) ** 2, 0.05, None)), -1, 1))
    return 0.8 * np.cos(around * rng.choice((8, 10))) - 1.2 * (y > 0.72)


def _butterfly(angles: Floats, rng: np.random.Generator) -> Curves:
    size = rng.uniform(0.9, 1.0)
    body = np.stack([0.075 * np.cos(angles), 0.55 * np.sin(angles)], -1)
    wings = []
    for side in (-1, 1):
        wings.append(_ellipse(angles, (0.5 * side, -0.32), (0.55 * size, 0.36 * size), -0.6 * side))
        wings.append(_ellipse(angles, (0.36 * side, 0.36), (0.4 * size, 0.3), 0.75 * side))
    return [body.astype(np.float32), *wings]


def _ellipse(angles: Floats, center: tuple[float, float], radii: tuple[float, float], turn: float) -> Floats:
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([center[0] + cos * x - sin * y, center[1] + sin * x + cos * y], -1).astype(np.float32)


def _wings(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    far = np.hypot(x, y)
    rays = np.cos(rng.choice((18, 22)) * np.arctan2(np.abs(x), y))
    return 0.7 * rays * np.clip(2 * far, 0, 1) + 0.8 * np.cos(14 * far) - 1.6 * np.exp(-((x / 0.07) ** 2))


def _donut(angles: Floats, rng: np.random.Generator) -> Curves:
    wave = 1 + 0.015 * np.sin(3 * angles + rng.uniform(0, 6))
    return [_polar(angles, (0.95 * wave).astype(np.float32))]


def _sprinkles(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    dots = rng.random(x.shape, np.float32) > 0.996
    return 14 * cv2.GaussianBlur(dots.astype(np.float32), (0, 0), 2.0) - 0.5


def _pear(angles: Floats, rng: np.random.Generator) -> Curves:
    belly, neck = rng.uniform(0.6, 0.68), rng.uniform(0.28, 0.34)
    y = -np.cos(angles)
    width = neck + (belly - neck) / (1 + np.exp(-7 * (y + 0.05)))
    stem = np.array([[-0.03, -0.6], [0.03, -0.6], [0.14, -0.98], [0.06, -1.0]], np.float32)
    return [np.stack([width * np.sin(angles), 0.8 * y + 0.16], -1).astype(np.float32), stem]


def _freckles(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    dots = rng.random(x.shape, np.float32) > 0.99
    return 0.5 - 10 * cv2.GaussianBlur(dots.astype(np.float32), (0, 0), 1.2)


def _flower(angles: Floats, rng: np.random.Generator) -> Curves:
    petals = int(rng.choice((7, 8)))
    return [_polar(angles, (0.58 + 0.4 * np.abs(np.cos(petals / 2 * angles)) ** 0.7).astype(np.float32))]


def _petals(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    far = np.hypot(x, y)
    return 0.5 * np.cos(40 * np.arctan2(x, y)) * far - 1.8 * np.exp(-((far / 0.22) ** 4)) * (1 + np.cos(60 * far)) / 2


KINDS: dict[str, Kind] = {
    "fish": Kind(_fish, _scales, hue=(8, 18), saturation=(170, 225), tilt=30),
    "leaf": Kind(_leaf, _veins, hue=(36, 60), saturation=(130, 200), tilt=180),
    "starfish": Kind(_starfish, _bumps, hue=(150, 172), saturation=(110, 180), tilt=180),
    "balloon": Kind(_balloon, _gores, hue=(-6, 8), saturation=(170, 225), tilt=12),
    "butterfly": Kind(_butterfly, _wings, hue=(98, 122), saturation=(140, 210), tilt=70, flap=0.3),
    "donut": Kind(_donut, _sprinkles, hue=(8, 16), saturation=(110, 160), tilt=180, hole=0.3),
    "pear": Kind(_pear, _freckles, hue=(24, 36), saturation=(140, 200), tilt=35),
    "flower": Kind(_flower, _petals, hue=(128, 150), saturation=(80, 150), tilt=180),
}
"""All classes that can be drawn, in the order in which a smaller number of classes takes them."""
