from __future__ import annotations

import math

import pytest
import torch

from colocam_dist.losses import (
    ColocalizationSettings,
    FrameCrfSettings,
    LocalizationLoss,
    LossSettings,
    PartialCrossEntropySettings,
    PresenceSettings,
    SizeBarrierSettings,
    frame_weights,
    tag_probability,
)

LOSS = LocalizationLoss(
    LossSettings(
        PartialCrossEntropySettings(0.7),
        SizeBarrierSettings(0.3),
        FrameCrfSettings(3e-4, sigma_xy=4.0, backend="exact"),
        ColocalizationSettings(2.0),
    )
)
MASK = torch.tensor([[True, True, True, False], [True, True, False, False], [False] * 4])
PROBABILITY = torch.tensor([[0.8, 0.04, 0.2, 0.99], [0.05, 0.001, 0.9, 0.9], [0.5] * 4])


@pytest.fixture
def weights(example):
    """Weights of the example's frames: 3 and 2 frames of the first two windows count, one of the third."""
    return torch.tensor([[0.9, 0.25, 0.5], [1.0, 0.0, 0.125], [0.0, 0.375, 0.0]])


def run(example, mask):
    logits = example.logits.detach().clone().requires_grad_()
    total, terms = LOSS(logits, example.images, example.seeds, mask, epoch=3)
    total.backward()
    return {name: value.item() for name, value in terms.items()}, logits.grad


def truth(example, weights, dense):
    """The weighted terms in float64, frame by frame and pixel by pixel, and the gradient of their sum."""
    logits = example.logits.detach().double().requires_grad_()
    maps = logits.softmax(2)
    ce, pixels, barrier, crf, fg_mean, pairs = 0.0, 0.0, 0.0, 0.0, 0.0, []
    t = 1.01**2
    for w in range(3):
        for n in range(3):
            weight = weights[w, n].item()
            for y, x in (example.seeds[w, n] >= 0).nonzero().tolist():
                ce = ce - weight * maps[w, n, int(example.seeds[w, n, y, x]), y, x].log()
                pixels += weight
            for area in maps[w, n].sum((1, 2)):
                inside = -torch.log(area) / t
                outside = -t * area - math.log(1 / t**2) / t + 1 / t
                barrier = barrier + weight * 0.5 * (inside if area >= 1 / t**2 else outside)
            s = maps[w, n, 1].flatten()
            W = dense.affinity(example.images[w, n : n + 1], 15.0, 4.0)
            crf = crf - weight * (s @ W @ s + (1 - s) @ W @ (1 - s))
            fg_mean = fg_mean + weight * s.mean()
        counted = weights[w] > 0
        if counted.sum() >= 2:
            s = maps[w, counted, 1].flatten()
            W = dense.affinity(example.images[w, counted], 15.0)
            value = -(s @ W @ s + (1 - s) @ W @ (1 - s))
            pairs.append(2.0 * value / value.detach().abs())
    whole = weights.double().sum().item()
    terms = {
        "partial_cross_entropy": 0.7 * ce / pixels,
        "size_barrier": 0.3 * barrier / whole,
        "frame_crf": 3e-4 * crf / whole,
        "colocalization": sum(pairs) / len(pairs),
    }
    sum(terms.values()).backward()
    return {name: value.item() for name, value in (terms | {"fg_mean": fg_mean / whole}).items()}, logits.grad


def test_probability_of_the_tag_is_a_softmax_over_the_classes():
    logits = 3 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([4, 1])
    got = tag_probability(logits.bfloat16().requires_grad_(), labels)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    for w in range(2):
        for n in range(3):
            odds = [math.exp(value) for value in logits[w, n].bfloat16().tolist()]
            assert got[w, n].item() == pytest.approx(odds[int(labels[w])] / sum(odds), rel=1e-6)


def test_none_gives_the_mask_itself():
    assert frame_weights(PROBABILITY, MASK, PresenceSettings()) is MASK


@pytest.mark.parametrize(
    ("relative", "kept"),
    [
        (False, [[True, False, True, False], [False] * 4, [False] * 4]),
        # 0.04 / 0.8 is below 0.1, 0.05 / 0.05 is not; what is masked is nobody's best frame.
        (True, [[True, False, True, False], [True, False, False, False], [False] * 4]),
    ],
)
def test_frames_below_the_threshold_are_left_out(relative, kept):
    got = frame_weights(PROBABILITY, MASK, PresenceSettings("drop", relative))
    assert got.dtype == torch.bool
    assert got.tolist() == kept
    weights = frame_weights(PROBABILITY, MASK, PresenceSettings("weight", relative))
    assert (weights > 0).tolist() == kept


def test_the_others_weigh_a_power_of_presence():
    got = frame_weights(PROBABILITY, MASK, PresenceSettings("weight", threshold=0.0, power=2.0))
    expected = torch.tensor([[0.64, 0.0016, 0.04, 0.0], [0.0025, 1e-6, 0.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    relative = frame_weights(PROBABILITY, MASK, PresenceSettings("weight", relative=True, threshold=0.0, power=0.5))
    expected = torch.tensor([[1.0, 0.05, 0.25, 0.0], [1.0, 0.02, 0.0, 0.0], [0.0] * 4]).sqrt()
    torch.testing.assert_close(relative, expected, rtol=1e-6, atol=0)


def test_a_window_without_any_probability_has_no_weight():
    got = frame_weights(torch.zeros(1, 2), torch.ones(1, 2).bool(), PresenceSettings("weight", relative=True))
    assert got.tolist() == [[0.0, 0.0]]


def test_weighted_terms_are_those_of_an_independent_float64_computation(example, weights, dense):
    got, gradient = run(example, weights)
    want, exact = truth(example, weights, dense)
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name
    torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=1e-5 * exact.abs().max().item())
    unweighted, _ = run(example, weights > 0)
    for name in ("partial_cross_entropy", "size_barrier", "frame_crf"):
        assert abs(unweighted[name] - got[name]) > 1e-3 * abs(got[name]), name


def test_equal_weights_are_no_weights_and_zero_is_masked(example):
    (want, gradient), (got, weighted) = run(example, example.mask), run(example, 0.3 * example.mask)
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-6), name
    torch.testing.assert_close(weighted, gradient, rtol=1e-5, atol=1e-7)
    assert weighted[~example.mask].eq(0).all()


def test_nothing_weighs_anything(example):
    got, gradient = run(example, torch.zeros(3, 3))
    assert set(got.values()) == {0.0}
    assert gradient.eq(0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "mask"}, "wanted mode none, weight or drop"),
        ({"threshold": 1.0}, "threshold in"),
        ({"threshold": -0.1}, "threshold in"),
        ({"power": 0.0}, "power > 0"),
        ({"mode": "drop", "threshold": 0.0}, "threshold > 0"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        PresenceSettings(**wrong)
