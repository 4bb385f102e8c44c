"""The refinement against loops over single numbers in float64."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.clip_es.refine import affinity, box_mask, refine

Floats = NDArray[np.float64]


def plain_affinity(attention: Floats) -> Floats:
    matrix, n = attention.copy(), len(attention)
    for _ in range(3):
        for column in range(n):
            total = sum(matrix[row, column] for row in range(n))
            for row in range(n):
                matrix[row, column] /= total
        for row in range(n):
            total = sum(matrix[row, column] for column in range(n))
            for column in range(n):
                matrix[row, column] /= total
    half = np.array([[(matrix[row, column] + matrix[column, row]) / 2 for column in range(n)] for row in range(n)])
    return np.array(
        [[sum(half[row, k] * half[k, column] for k in range(n)) for column in range(n)] for row in range(n)]
    )


def attention(batch: int, patches: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return (3 * torch.randn(batch, patches, patches, generator=generator)).softmax(2)


def test_affinity_is_that_of_the_loops() -> None:
    attention_BNN = attention(2, 15)
    affinity_BNN = affinity(attention_BNN)
    for given_NN, found_NN in zip(attention_BNN, affinity_BNN, strict=True):
        wanted_NN = torch.from_numpy(plain_affinity(given_NN.double().numpy()))
        torch.testing.assert_close(found_NN.double(), wanted_NN, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(affinity_BNN, affinity_BNN.transpose(1, 2))


def test_the_mask_is_boxes_around_the_parts_above_two_fifths_without_their_ends() -> None:
    cams_Bhw = torch.zeros(2, 7, 9)
    cams_Bhw[0, 1, 1] = 0.5
    cams_Bhw[0, 2, 2] = 1.0  # touches the first at a corner: one part
    cams_Bhw[0, 4:, 7:] = 0.41  # reaches the lower right corner
    cams_Bhw[0, 0, 5] = 0.39
    wanted_Bhw = torch.zeros(2, 7, 9, dtype=torch.bool)
    wanted_Bhw[0, 1:3, 1:3] = True
    wanted_Bhw[0, 4:6, 7:8] = True  # boxes end at the last pixel, which is left out
    assert torch.equal(box_mask(cams_Bhw), wanted_Bhw)


def test_refined_maps_are_those_of_the_loops() -> None:
    generator = torch.Generator().manual_seed(9)
    cams_Bhw = torch.rand(3, 3, 5, generator=generator) ** 2
    cams_Bhw[2] = 0.0
    affinity_BNN = affinity(attention(3, 15))
    refined_Bhw = refine(cams_Bhw, affinity_BNN)
    masks_Bhw = box_mask(cams_Bhw)
    for frame in range(2):
        inside = (cams_Bhw[frame] * masks_Bhw[frame]).flatten().double().tolist()
        row = [
            sum(float(affinity_BNN[frame, patch, other]) * inside[other] for other in range(15)) for patch in range(15)
        ]
        wanted_N = (np.array(row) - min(row)) / (max(row) - min(row))
        np.testing.assert_allclose(refined_Bhw[frame].flatten().numpy(), wanted_N, atol=1e-5)
    assert not refined_Bhw[2].any()
