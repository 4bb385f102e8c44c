from __future__ import annotations

import math

import pytest
import torch

from colocam_dist.losses import SizeBarrier, SizeBarrierSettings, extended_log_barrier


@pytest.mark.parametrize(
    ("t", "f", "value"),
    [
        (1.0, -25088.0, -10.130145),
        (1.0, -100.0, -4.605170),
        (1.0, -1.0, 0.0),
        (1.0, -0.5, 0.5),
        (1.0, 0.0, 1.0),
        (1.0, 0.5, 1.5),
        (2.0, -0.25, 0.693147),
        (2.0, 0.0, 1.193147),
        (10.0, -100.0, -0.460517),
        (10.0, 0.0, 0.560517),
        (10.0, 0.5, 5.560517),
    ],
)
def test_published_values(t, f, value):
    got = extended_log_barrier(torch.tensor(f, dtype=torch.float64), t)
    assert got.item() == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize("t", [1.0, 1.7, 10.0])
def test_smooth_at_the_edge_and_finite_gradient_everywhere(t):
    edge = -1 / t**2
    f = torch.tensor([edge * (1 + 1e-9), edge * (1 - 1e-9), 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = extended_log_barrier(f, t)
    (gradient,) = torch.autograd.grad(values.sum(), f)
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-8)
    assert gradient.tolist() == pytest.approx([t] * 4, rel=1e-7)


def test_schedule():
    term = SizeBarrier(SizeBarrierSettings())
    assert term.t(1) == 1.0
    assert term.t(2) == 1.01
    assert term.t(11) == pytest.approx(1.1046, abs=5e-5)  # after ten epochs
    assert term.t(232) < 10.0
    assert term.t(233) == 10.0
    assert term.t(1000) == 10.0


def test_value_and_gradient(example):
    term = SizeBarrier(SizeBarrierSettings(weight=0.3, t_initial=1.5))
    loss = term(example.maps, example.mask, epoch=3)
    (2.5 * loss).backward()
    t = 1.5 * 1.01**2
    maps = example.logits.detach().double().softmax(2)
    areas = maps.sum((3, 4))
    assert areas.min() > 1 / t**2  # inside the barrier
    per_frame = -(areas.log() / t).sum(2) / 2
    assert loss.item() == pytest.approx(0.3 * per_frame[example.mask].mean().item(), rel=1e-6)
    # d/d(l1 - l0): S (1 - S) * (1/A0 - 1/A1) / (2 t)
    per_pixel = maps.prod(2) * ((1 / areas[:, :, 0] - 1 / areas[:, :, 1]) / (2 * t))[:, :, None, None]
    truth = 2.5 * 0.3 * per_pixel * example.mask[:, :, None, None] / example.mask.sum()
    torch.testing.assert_close(example.logits.grad[:, :, 1].double(), truth, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(example.logits.grad[:, :, 0].double(), -truth, rtol=1e-4, atol=1e-9)


def test_empty_foreground_is_pushed_back():
    logits = torch.zeros(1, 1, 2, 5, 5)
    logits[:, :, 0] = 30.0
    logits.requires_grad_()
    loss = SizeBarrier(SizeBarrierSettings(weight=1.0))(logits.softmax(2), torch.ones(1, 1).bool(), epoch=1)
    assert loss.item() == pytest.approx(0.5 * (1.0 - math.log(25)), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert (gradient[:, :, 1] < 0).all()


def test_no_valid_frame(example):
    loss = SizeBarrier(SizeBarrierSettings())(example.maps, torch.zeros_like(example.mask), epoch=1)
    loss.backward()
    assert loss.item() == 0.0
    assert example.logits.grad.eq(0).all()


@pytest.mark.parametrize("wrong", [{"t_initial": 0.0}, {"t_factor": 0.99}, {"t_max": 0.0}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="t_initial > 0, t_factor >= 1 and t_max > 0"):
        SizeBarrierSettings(**wrong)
