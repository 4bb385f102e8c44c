from __future__ import annotations

import pytest
import torch

from colocam_dist.losses import FrameCrfSettings, SizeBarrierSettings, TermSettings
from colocam_dist.losses.term import mean_where


@pytest.mark.parametrize(
    ("start", "end", "acting"), [(0, -1, [1, 2, 3, 4]), (2, -1, [2, 3, 4]), (0, 2, [1, 2]), (2, 3, [2, 3]), (3, 2, [])]
)
def test_epochs(start, end, acting):
    settings = TermSettings(1.0, start, end)
    assert [epoch for epoch in range(1, 5) if settings.active(epoch)] == acting


def test_weight_zero_never_acts():
    assert not TermSettings(0.0).active(1)


@pytest.mark.parametrize("wrong", [(-1.0,), (float("inf"),), (float("nan"),), (1.0, -1), (1.0, 0, -2)])
def test_wrong_settings_name_their_term(wrong):
    with pytest.raises(ValueError, match="FrameCrfSettings"):
        FrameCrfSettings(*wrong)
    with pytest.raises(ValueError, match="SizeBarrierSettings"):
        SizeBarrierSettings(*wrong)


def test_mean_where():
    values = torch.tensor([[1.0, 2.0], [4.0, torch.inf]], requires_grad=True)
    mean = mean_where(values, torch.tensor([[True, False], [True, False]]))
    mean.backward()
    assert mean.item() == 2.5
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]
    nothing = mean_where(values, torch.zeros(2, 2, dtype=torch.bool))
    assert nothing.item() == 0.0
    assert nothing.requires_grad
