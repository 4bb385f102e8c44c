from __future__ import annotations

import torch

from colocam_dist.cams.maps import min_max, reciprocal, weighted_sum


def test_one_weight_per_channel_is_the_same_everywhere() -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(3, 5, 7, 9), torch.randn(3, 5, 1, 1)
    want = (features.double() * weights.double()).sum(1)
    for given in (weights, weights.expand(3, 5, 7, 9)):
        torch.testing.assert_close(weighted_sum(features, given).double(), want, rtol=0, atol=1e-5)


def test_weak_but_real_structure_is_not_flat() -> None:
    cam = torch.full((1, 4, 4), 1.0)
    cam[0, 1, 2] = 1.01
    assert min_max(cam)[0, 1, 2] == 1
    assert min_max(cam).sum() == 1


def test_every_map_is_stretched_by_itself_and_flat_ones_become_zero() -> None:
    maps = torch.stack([torch.tensor([[-3.0, 1.0, 5.0]]), torch.full((1, 3), -2.5), torch.zeros(1, 3)])
    assert min_max(maps).tolist() == [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]


def test_nothing_is_divided_by_zero() -> None:
    assert reciprocal(torch.tensor([2.0, 0.0, -4.0])).tolist() == [0.5, 0.0, -0.25]
