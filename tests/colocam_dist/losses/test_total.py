from __future__ import annotations

import pytest
import torch

from colocam_dist.losses import (
    ColocalizationSettings,
    FrameCrf,
    FrameCrfSettings,
    LocalizationLoss,
    LossSettings,
    PartialCrossEntropySettings,
    SizeBarrierSettings,
)

NAMES = ["partial_cross_entropy", "size_barrier", "frame_crf", "colocalization"]


def inputs(example):
    return example.logits, example.images, example.seeds, example.mask


def test_defaults_are_the_published_ones():
    settings = LossSettings()
    assert settings.partial_cross_entropy.weight == 1.0
    assert settings.size_barrier == SizeBarrierSettings(weight=0.01, t_initial=1.0, t_factor=1.01, t_max=10.0)
    assert settings.frame_crf == FrameCrfSettings(weight=2e-9, sigma_rgb=15.0, sigma_xy=100.0, scale=1.0)
    assert settings.colocalization == ColocalizationSettings(9.0, mode="adaptive", normalizer="published")


def test_total_is_the_sum_of_its_terms_and_gradients_add_up(example):
    settings = LossSettings(frame_crf=FrameCrfSettings(weight=1e-3, sigma_xy=4.0))
    loss = LocalizationLoss(settings)
    total, terms = loss(*inputs(example), epoch=3)
    (2.5 * total).backward()
    assert set(terms) == {*NAMES, "fg_mean", "color_disagreement"}
    assert not any(value.requires_grad for value in terms.values())
    assert total.item() == pytest.approx(sum(terms[name].item() for name in NAMES), rel=1e-6)
    combined, example.logits.grad = example.logits.grad, None

    fg = example.fg
    alone = {
        "partial_cross_entropy": loss.partial_cross_entropy(example.logits, example.seeds, example.mask),
        "size_barrier": loss.size_barrier(example.maps, example.mask, 3),
        "frame_crf": loss.frame_crf(fg, example.images, example.mask),
        "colocalization": loss.colocalization(fg, example.images, example.mask)[0],
    }
    for name, value in alone.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-6)
        (2.5 * value).backward(retain_graph=True)
    torch.testing.assert_close(example.logits.grad, combined, rtol=1e-4, atol=1e-7)


def test_fg_mean_counts_valid_frames_only(example):
    _, terms = LocalizationLoss(LossSettings())(*inputs(example), epoch=1)
    assert terms["fg_mean"].item() == pytest.approx(example.fg[example.mask].mean().item(), rel=1e-6)
    _, terms = LocalizationLoss(LossSettings())(
        example.logits, example.images, example.seeds, torch.zeros_like(example.mask), epoch=1
    )
    assert terms["fg_mean"].item() == 0.0


def test_masked_frames_change_nothing(example):
    loss = LocalizationLoss(LossSettings(frame_crf=FrameCrfSettings(weight=1e-3, sigma_xy=4.0)))
    total, _ = loss(*inputs(example), epoch=1)
    total.backward()
    hidden = ~example.mask
    logits = example.logits.detach().clone()
    images, seeds = example.images.clone(), example.seeds.clone()
    logits[hidden], images[hidden], seeds[hidden] = 3.0, 7, 1
    other, _ = loss(logits, images, seeds, example.mask, epoch=1)
    torch.testing.assert_close(other, total.detach(), rtol=1e-6, atol=0)
    assert example.logits.grad[hidden].eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_terms_outside_their_epochs_or_of_weight_zero_are_not_computed(example, name, monkeypatch):
    kinds = {
        "partial_cross_entropy": PartialCrossEntropySettings,
        "size_barrier": SizeBarrierSettings,
        "frame_crf": FrameCrfSettings,
        "colocalization": ColocalizationSettings,
    }
    late = LocalizationLoss(LossSettings(**{name: kinds[name](start_epoch=2, end_epoch=3)}))
    present = [name in late(*inputs(example), epoch=epoch)[1] for epoch in (1, 2, 3, 4)]
    assert present == [False, True, True, False]

    off = LocalizationLoss(LossSettings(**{name: kinds[name](weight=0.0)}))
    monkeypatch.setattr(getattr(off, name), "forward", lambda *_: pytest.fail("computed"))
    total, terms = off(*inputs(example), epoch=1)
    assert name not in terms
    assert total.item() == pytest.approx(sum(terms[other].item() for other in NAMES if other != name), rel=1e-6)


def test_all_terms_off_still_has_a_graph(example):
    off = LossSettings(
        PartialCrossEntropySettings(0.0), SizeBarrierSettings(0.0), FrameCrfSettings(0.0), ColocalizationSettings(0.0)
    )
    total, terms = LocalizationLoss(off)(*inputs(example), epoch=1)
    total.backward()
    assert total.item() == 0.0
    assert set(terms) == {"fg_mean"}
    assert example.logits.grad.eq(0).all()


def test_float32_inside_bfloat16_autocast(example):
    loss = LocalizationLoss(LossSettings(frame_crf=FrameCrfSettings(weight=1e-3, sigma_xy=4.0)))
    rough = example.logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, terms = loss(rough, example.images, example.seeds, example.mask, epoch=1)
    outside, _ = loss(rough.float(), example.images, example.seeds, example.mask, epoch=1)
    assert inside.dtype == torch.float32
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert inside.item() == outside.item()
    inside.backward()
    assert rough.grad.isfinite().all()
    assert rough.grad.abs().max() > 0


def test_not_finite_is_reported_not_hidden(example):
    logits = example.logits.detach().clone()
    logits[0, 0, 0, 0, 0] = torch.nan
    total, terms = LocalizationLoss(LossSettings())(logits, example.images, example.seeds, example.mask, epoch=1)
    assert not total.isfinite()
    assert not terms["fg_mean"].isfinite()


def test_holds_no_state():
    loss = LocalizationLoss(LossSettings())
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []


def test_epoch_reaches_the_growing_scale(example):
    settings = FrameCrfSettings(1e-3, sigma_xy=4.0, scale=0.9, scale_initial=0.5, scale_epochs=1, backend="exact")
    loss = LocalizationLoss(LossSettings(frame_crf=settings))
    values = [loss(*inputs(example), epoch=epoch)[1]["frame_crf"].item() for epoch in (1, 2, 3)]
    expected = [FrameCrf(settings)(example.fg, example.images, example.mask, None, epoch).item() for epoch in (1, 2, 2)]
    assert values == pytest.approx(expected, rel=1e-6)
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_step_reaches_the_ramp(example):
    loss = LocalizationLoss(LossSettings(colocalization=ColocalizationSettings(weight=8.0, ramp_steps=4)))
    assert loss(*inputs(example), epoch=1, step=1)[1]["colocalization"].item() == pytest.approx(-4.0, rel=1e-6)
    with pytest.raises(ValueError, match="needs the optimizer step"):
        loss(*inputs(example), epoch=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3, 3, 1, 9, 7)}, "wanted logits"),
        ({"images": torch.zeros(3, 3, 3, 9, 7)}, "wanted images torch.uint8"),
        ({"seeds": torch.zeros(3, 3, 7, 9, dtype=torch.int64)}, "wanted seeds"),
        ({"mask": torch.ones(3, 3, dtype=torch.int64)}, "wanted mask torch.bool"),
        ({"mask": torch.ones(3, 3).double()}, "wanted mask torch.float32"),
        ({"epoch": 0}, "numbered from 1"),
    ],
)
def test_wrong_inputs(example, change, message):
    given = dict(zip(["logits", "images", "seeds", "mask"], inputs(example), strict=True)) | {"epoch": 1} | change
    with pytest.raises(ValueError, match=message):
        LocalizationLoss(LossSettings())(*given.values())
