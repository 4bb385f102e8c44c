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


def test_no_valid_frame(example):
    loss = FrameCrf(SETTINGS)(example.fg, example.images, torch.zeros_like(example.mask))
    loss.backward()
    assert loss.item() == 0.0
    assert example.logits.grad.eq(0).all()


@pytest.mark.parametrize("wrong", [{"sigma_rgb": 0.0}, {"sigma_xy": -1.0}, {"scale": 0.0}, {"scale": 1.5}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="sigma_rgb > 0, sigma_xy > 0 and scale"):
        FrameCrfSettings(**wrong)


def test_backend_reaches_the_kernel(example):
    with pytest.raises(ValueError, match="nonesuch"):
        FrameCrf(FrameCrfSettings(backend="nonesuch"))(example.fg, example.images, example.mask)
