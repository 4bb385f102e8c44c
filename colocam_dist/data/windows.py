"""Which frames of a shot make its window of this epoch.

The three schemes of the paper (Sec. 3, Table 5), with these choices where the paper and its public code differ or leave
things open: one window per shot and epoch; a window always has n frames where the shot allows it; the Gaussian's width
is a fraction of the frames; frames are in ascending order. These are the rules "full". The rules "published" are those
of the public code: adjacent windows get shorter near the start of the shot, and to the Gaussian, whose width is one
frame, it adds 1, which is nearly uniform.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import ConfigError

__all__ = ["Rules", "Scheme", "allowed", "choose", "window_lengths"]

Scheme = Literal["adjacent", "interval", "gaussian"]
Rules = Literal["full", "published"]


def allowed(n_available: int, central_fraction: float = 1.0) -> tuple[int, int]:
    """First and one past the last frame that training may use: the central part of the shot (public code).

    With c = T // 2 and h = max(max(floor(fraction T), 1) // 2, 1) these are the frames from c - h to c + h, cut at the
    ends of the shot. Shots of 1 or 2 frames keep all; of 3 frames with a fraction below 1 only the middle one stays.

    Args:
        n_available: T, frames of the shot, >= 1.
        central_fraction: in (0, 1]; 1 allows all frames (the public recipe takes 0.6).

    Raises:
        ConfigError: an argument out of range.
    """
    if n_available < 1:
        raise ConfigError("a shot has no frames", where="windows", got=n_available, wanted="1 or more")
    if not 0 < central_fraction <= 1:
        raise ConfigError("bad central fraction of a shot", where="windows", got=central_fraction, wanted="in (0, 1]")
    if central_fraction == 1 or n_available <= 2:
        return 0, n_available
    if n_available == 3:
        return 1, 2
    center = n_available // 2
    half = max(max(int(central_fraction * n_available), 1) // 2, 1)
    return max(center - half, 0), min(center + half + 1, n_available)


def choose(
    n_available: int,
    n: int,
    scheme: Scheme,
    rng: np.random.Generator,
    *,
    central_fraction: float = 1.0,
    gaussian_width: float = 1 / 6,
    rules: Rules = "full",
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw the frames of one window.

    With z allowed frames (see :func:`allowed`) and z >= n:

    - "adjacent": n frames in a row, the last one uniform over all that leave room for n;
    - "interval": the allowed frames in n nearly equal parts, one uniform frame of each;
    - "gaussian": n different frames, drawn one after another with weights exp(-(i - (z-1)/2)² / (2 (width z)²)).

    With z < n every scheme takes all z frames and repeats the last one to fill the window; the mask is False for
    copies. Under the rules "published", and with z > n,

    - "adjacent": the last frame r is uniform over all z, and the window is r - n + 1 .. r without what lies before the
      first allowed frame, so that (n - 1) / z of the windows are short; they are filled in the same way;
    - "gaussian": the weights are 1 plus the normal density around z // 2 with a standard deviation of one frame.

    Args:
        n_available: T, frames of the shot, >= 1.
        n: frames of the window, >= 1.
        scheme: one of the three above.
        rng: source of the draw.
        central_fraction: part of the shot that may be used, in (0, 1].
        gaussian_width: standard deviation as a fraction of the allowed frames, > 0 ("gaussian" under "full" only).
        rules: what happens at the start of a shot, see above.

    Returns:
        positions int64 [n] in [0, T), ascending; mask bool [n], False for copies.

    Raises:
        ConfigError: an argument out of range, or an unknown scheme.
    """
    if n < 1:
        raise ConfigError("a window needs frames", where="windows", got=n, wanted="1 or more")
    if scheme not in get_args(Scheme):
        wanted = ", ".join(get_args(Scheme))
        raise ConfigError("unknown way to sample a window", where="windows", got=scheme, wanted=wanted)
    if rules not in get_args(Rules):
        raise ConfigError("unknown rules for windows", where="windows", got=rules, wanted=", ".join(get_args(Rules)))
    if not gaussian_width > 0:
        raise ConfigError("bad width of the Gaussian", where="windows", got=gaussian_width, wanted="more than 0")
    first, stop = allowed(n_available, central_fraction)
    z = stop - first
    published = rules == "published" and z > n
    if z < n:
        return _filled(first, stop, n)
    if scheme == "adjacent" and published:
        last = int(rng.integers(z))
        return _filled(first + max(last - n + 1, 0), first + last + 1, n)
    if scheme == "adjacent":
        picked = np.arange(n, dtype=np.int64) + rng.integers(z - n + 1)
    elif scheme == "interval":
        bounds = _part_starts(z, n)
        picked = rng.integers(bounds[:-1], bounds[1:])
    else:
        # The n largest of log-weight + Gumbel noise are a draw without replacement by weight; unlike weights, logs do
        # not underflow for a narrow Gaussian.
        if published:
            log_weight = np.log1p(np.exp(-0.5 * (np.arange(z) - z // 2) ** 2.0) / np.sqrt(2 * np.pi))
        else:
            log_weight = -0.5 * ((np.arange(z) - (z - 1) / 2) / (gaussian_width * z)) ** 2
        picked = np.sort(np.argsort(-(log_weight + rng.gumbel(size=z)), kind="stable")[:n])
    return picked + first, np.ones(n, dtype=np.bool_)


def window_lengths(n_available: NDArray[np.integer], n: int, central_fraction: float = 1.0) -> NDArray[np.int64]:
    """Different frames that windows of n frames have under the rules "full", for many shots at once: int64 [shots].

    Args:
        n_available: frames of each shot, >= 1.
        n: frames of a window, >= 1.
        central_fraction: in (0, 1].
    """
    sizes, place = np.unique(n_available, return_inverse=True)
    spans = [allowed(int(size), central_fraction) for size in sizes]
    return np.array([min(stop - first, n) for first, stop in spans], np.int64)[place]


def _filled(first: int, stop: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Frames first..stop-1, at most n of them, and copies of the last one up to n."""
    return np.minimum(np.arange(n, dtype=np.int64) + first, stop - 1), np.arange(n) < stop - first


def _part_starts(z: int, n: int) -> NDArray[np.int64]:
    """Starts of n nearly equal parts of z frames, larger parts first (as numpy.array_split), and z: int64 [n + 1]."""
    size, larger = divmod(z, n)
    parts = np.arange(n + 1, dtype=np.int64)
    return parts * size + np.minimum(parts, larger)
