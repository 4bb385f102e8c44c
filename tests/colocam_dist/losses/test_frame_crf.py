from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from colocam_dist.losses import FrameCrf, FrameCrfSettings

RTOL = 1e-5
# Widths at which both colors and positions of the small example matter.
SETTINGS = FrameCrfSettings(weight=3.0e-4, sigma_xy=4.0, backend="exact")


def test_value_and_gradient(example, dense):
    loss = FrameCrf(SETTINGS)(example.fg, example.images, example.mask)
    (2.5 * loss).backward()
    fg = example.logits.detach().double().softmax(2)[:, :, 1]
    value, truth = 0.0, torch.zeros_like(fg)
    for w, n in example.mask.nonzero().tolist():
        W = dense.affinity(example.images[w, n : n + 1], 15.0, 4.0)
        value += dense.published_value(fg[w, n], W).item() / 6
        truth[w, n] = dense.logit_gradient(fg[w, n], W) / 6
    assert loss.item() < 0
    assert loss.item() == pytest.approx(3.0e-4 * value, rel=RTOL)
    truth *= 2.5 * 3.0e-4
    scale = truth.abs().max().item()
    torch.testing.assert_close(example.logits.grad[:, :, 1].double(), truth, rtol=0, atol=RTOL * scale)
    torch.testing.assert_close(example.logits.grad[:, :, 0].double(), -truth, rtol=0, atol=RTOL * scale)


def test_masked_frames_equal_removed_frames(example):
    term = FrameCrf(SETTINGS)
    keep = example.mask.flatten()
    removed = term(
        example.fg.flatten(0, 1)[keep][None], example.images.flatten(0, 1)[keep][None], torch.ones(1, 6).bool()
    )
    torch.testing.assert_close(term(example.fg, example.images, example.mask), removed, rtol=1e-5, atol=0)


def test_scale_shrinks_image_map_and_spatial_width(example, dense):
    loss = FrameCrf(FrameCrfSettings(weight=1.0, sigma_xy=4.0, scale=0.7, backend="exact"))(
        example.fg, example.images, example.mask
    )
    value = 0.0
    for w, n in example.mask.nonzero().tolist():
        image = F.interpolate(example.images[w, n][None].float(), size=(6, 4), mode="nearest")
        fg = F.interpolate(example.fg[w, n].detach()[None, None], size=(6, 4), mode="bilinear", align_corners=False)
        value += dense.published_value(fg, dense.affinity(image, 15.0, 0.7 * 4.0)).item() / 6
    assert loss.item() == pytest.approx(value, rel=RTOL)
    loss.backward()
    assert example.logits.grad[example.mask].abs().amax((1, 2, 3)).gt(0).all()


def growing(**more):
    given = {"weight": 0.7, "sigma_xy": 4.0, "scale": 0.9, "scale_initial": 0.5, "scale_epochs": 2, "backend": "exact"}
    return FrameCrf(FrameCrfSettings(**given | more))


def test_scale_grows_linearly_over_its_epochs():
    assert [growing().scale(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([0.5, 0.7, 0.9, 0.9], rel=1e-12)
    assert growing().scale(3) == 0.9
    assert [FrameCrf(SETTINGS).scale(epoch) for epoch in (None, 1, 9)] == [1.0] * 3
    with pytest.raises(ValueError, match="needs the epoch"):
        growing().scale(None)


@pytest.mark.parametrize(("epoch", "scale", "size"), [(1, 0.5, (4, 3)), (2, 0.7, (6, 4)), (3, 0.9, (8, 6))])
def test_growing_scale_shrinks_the_width_and_keeps_the_magnitude(example, dense, epoch, scale, size):
    loss = growing()(example.fg, example.images, example.mask, None, epoch)
    value = 0.0
    for w, n in example.mask.nonzero().tolist():
        image = F.interpolate(example.images[w, n][None].float(), size=size, mode="nearest")
        fg = F.interpolate(example.fg[w, n].detach()[None, None], size=size, mode="bilinear", align_corners=False)
        value += dense.published_value(fg, dense.affinity(image, 15.0, scale * 4.0)).item() / 6
    pixels = size[0] * size[1]
    assert loss.item() == pytest.approx(0.7 * (8 * 6 / pixels) ** 2 * value, rel=RTOL)


@pytest.mark.parametrize("start", [0.25, 0.5])
def test_one_weight_fits_all_scales_of_a_smooth_frame(start):
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(2, 4, 5, 7, generator=generator)
    smooth = F.interpolate(coarse, (60, 84), mode="bicubic", align_corners=False).clamp(0, 1)
    logits = (4 * smooth[:, :1] - 2).requires_grad_()
    # Few enough colors that a pixel has many others of its color also in the smallest frame.
    images = (100 + 50 * smooth[:, 1:]).byte()[None]
    found = {}
    for epoch in (1, 2):
        logits.grad = None
        term = growing(weight=1e-4, sigma_xy=30.0, scale=1.0, scale_initial=start, scale_epochs=1, backend="auto")
        loss = term(logits[None, :, 0].sigmoid(), images, torch.ones(1, 2).bool(), None, epoch)
        loss.backward()
        # Gradients of a coarse map reach some pixels only; what the decoder feels is their sum over a region.
        regions = F.avg_pool2d(logits.grad, 12)
        found[epoch] = loss.item(), regions
    assert found[1][0] == pytest.approx(found[2][0], rel=0.05)
    assert found[1][1].norm().item() == pytest.approx(found[2][1].norm().item(), rel=0.1)


def test_no_valid_frame(example):
    loss = FrameCrf(SETTINGS)(example.fg, example.images, torch.zeros_like(example.mask))
    loss.backward()
    assert loss.item() == 0.0
    assert example.logits.grad.eq(0).all()


@pytest.mark.parametrize("wrong", [{"sigma_rgb": 0.0}, {"sigma_xy": -1.0}, {"scale": 0.0}, {"scale": 1.5}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="sigma_rgb > 0, sigma_xy > 0 and scale"):
        FrameCrfSettings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale_epochs": 0}, "scale_epochs >= 1 with scale_initial"),
        ({"scale_initial": None}, "scale_epochs >= 1 with scale_initial"),
        ({"scale_epochs": -1}, "scale_epochs >= 1 with scale_initial"),
        ({"scale_initial": 0.95}, "scale_initial in"),
        ({"scale_initial": 0.0}, "scale_initial in"),
    ],
)
def test_wrong_settings_of_the_growth(wrong, message):
    with pytest.raises(ValueError, match=message):
        growing(**wrong)


def test_backend_reaches_the_kernel(example):
    with pytest.raises(ValueError, match="nonesuch"):
        FrameCrf(FrameCrfSettings(backend="nonesuch"))(example.fg, example.images, example.mask)
