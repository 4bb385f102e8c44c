"""Bootstrap intervals of CorLoc over videos: frames of one video resemble each other, so whole videos are drawn.

F frames, T thresholds, V videos of a class, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_intervals"]


def bootstrap_intervals(
    right_FT: NDArray[np.bool_],
    labels_F: NDArray[np.int64],
    videos_F: NDArray[np.str_],
    validation: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the mean over classes, percent, by threshold rule.

    Each class draws as many videos as it has, with replacement, so every class stays present. A class with one video
    always draws that video: it adds nothing to the width, which is then too small. The oracle rules take a maximum in
    each resample, which lifts their intervals: they may lie high around the figure, or even above it.

    Args:
        right_FT: bool ``[F, T]``, whether the frame is right at each threshold.
        labels_F: int64 ``[F]``.
        videos_F: str ``[F]``; equal names in different classes are different videos.
        validation: position of the validation threshold, which stays fixed; the oracle rules choose again in each
            resample.
        resamples: R, at least 1.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    present = np.unique(labels_F)
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
