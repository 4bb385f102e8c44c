"""Bootstrap intervals over videos: frames of one video resemble each other, so whole videos are drawn.

F frames, T thresholds, V videos (of a class), R resamples, N things that are counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_intervals", "ratio_interval"]


def bootstrap_intervals(
    right_FT: NDArray[Any],
    labels_F: NDArray[np.int64],
    videos_F: NDArray[np.str_],
    validation: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the mean over classes, percent, by threshold rule.

    Each class draws as many videos as it has, with replacement, so every class stays present. A class with one video
    always draws that video: it adds nothing to the width, which is then too small. If no class has a second video there
    is no interval to tell, and the result is empty. The oracle rules take a maximum in
    each resample, which lifts their intervals: they may lie high around the figure, or even above it.

    Args:
        right_FT: ``[F, T]``, whether the frame is right at each threshold; or the difference of two methods in that.
        labels_F: int64 ``[F]``.
        videos_F: str ``[F]``; equal names in different classes are different videos.
        validation: position of the validation threshold, which stays fixed; the oracle rules choose again in each
            resample.
        resamples: R, at least 1.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    present = np.unique(labels_F)
    if len({*zip(labels_F.tolist(), videos_F.tolist(), strict=True)}) == len(present):
        return {}
    macro_RT = np.zeros((resamples, right_FT.shape[1]))
    best_R = np.zeros(resamples)
    for label in present:
        mine_F = labels_F == label
        names, video_F = np.unique(videos_F[mine_F], return_inverse=True)
        right_VT = np.zeros((len(names), right_FT.shape[1]))
        np.add.at(right_VT, video_F, right_FT[mine_F])
        frames_V = np.bincount(video_F).astype(np.float64)
        drawn_RV = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples).astype(np.float64)
        rates_RT = (drawn_RV @ right_VT) / (drawn_RV @ frames_V)[:, None]
        macro_RT += rates_RT / len(present)
        best_R += rates_RT.max(1) / len(present)
    samples = {"validation": macro_RT[:, validation], "pooled": macro_RT.max(1), "per_class": best_R}
    low_high = {rule: 100.0 * np.percentile(values_R, [2.5, 97.5]) for rule, values_R in samples.items()}
    return {rule: (float(low), float(high)) for rule, (low, high) in low_high.items()}


def ratio_interval(
    values_N: NDArray[Any],
    counts_N: NDArray[Any],
    videos_N: NDArray[np.str_],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of ``sum(values * (counts > 0)) / sum(counts)``, percent; None if it has no width.

    All videos are drawn alike, whatever their class; resamples in which nothing is counted are left out.

    Args:
        values_N: ``[N]``, numerators.
        counts_N: ``[N]``, denominators; False or 0 leaves a value out.
        videos_N: ``[N]``, the video of each.
        resamples: R; 0 = no interval.
        seed: of the draws.

    Returns:
        None without resamples, or where fewer than two videos count.
    """
    names, video_N = np.unique(videos_N, return_inverse=True)
    counted_N = np.asarray(counts_N, np.float64)
    values_V = np.bincount(video_N, np.where(counted_N > 0, values_N, 0.0), len(names))
    counts_V = np.bincount(video_N, counted_N, len(names))
    if not resamples or (counts_V > 0).sum() < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn_RV = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    counts_R = drawn_RV @ counts_V
    low, high = np.percentile((drawn_RV @ values_V)[counts_R > 0] / counts_R[counts_R > 0], [2.5, 97.5])
    return 100.0 * float(low), 100.0 * float(high)
