from __future__ import annotations

import pytest
import torch

from colocam_dist.losses import Colocalization, ColocalizationSettings

RTOL = 1e-5


def windows(example, dense):
    """(window, its valid frames, affinity) of the two windows that have at least two valid frames."""
    for w in range(2):
        frames = example.mask[w].nonzero()[:, 0]
        yield w, frames, dense.affinity(example.images[w, frames], 15.0)


def check_gradient(example, truth, tolerance=RTOL):
    scale = truth.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(example.logits.grad[:, :, 1].double(), truth, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(example.logits.grad[:, :, 0].double(), -truth, rtol=0, atol=tolerance * scale)


def test_adaptive_value_is_minus_lambda_and_gradient_is_scaled_by_the_published_value(example, dense):
    loss, disagreement = Colocalization(ColocalizationSettings())(example.fg, example.images, example.mask)
    assert loss.item() == pytest.approx(-9.0, rel=1e-6)
    (2.5 * loss).backward()
    fg = example.logits.detach().double().softmax(2)[:, :, 1]
    truth, shares = torch.zeros_like(fg), []
    for w, frames, W in windows(example, dense):
        size = dense.published_value(fg[w, frames], W).abs()
        truth[w, frames] = 2.5 * 9.0 / 2 * dense.logit_gradient(fg[w, frames], W) / size
        shares.append(dense.paper_value(fg[w, frames], W).item() / W.sum().item())
    check_gradient(example, truth)
    assert not disagreement.requires_grad
    assert disagreement.item() == pytest.approx(sum(shares) / 2, rel=RTOL)


@pytest.mark.parametrize("normalizer", ["published", "paper"])
def test_constant_mode(example, dense, normalizer):
    settings = ColocalizationSettings(weight=3e-4, mode="constant", normalizer=normalizer)
    loss, _ = Colocalization(settings)(example.fg, example.images, example.mask)
    (2.5 * loss).backward()
    fg = example.logits.detach().double().softmax(2)[:, :, 1]
    form = dense.published_value if normalizer == "published" else dense.paper_value
    truth, value = torch.zeros_like(fg), 0.0
    for w, frames, W in windows(example, dense):
        truth[w, frames] = 2.5 * 3e-4 / 2 * dense.logit_gradient(fg[w, frames], W)
        value += 3e-4 / 2 * form(fg[w, frames], W).item()
    assert loss.item() == pytest.approx(value, rel=RTOL)
    check_gradient(example, truth)


def test_normalized_cut(example, dense):
    loss, _ = Colocalization(ColocalizationSettings(weight=0.7, mode="normalized_cut"))(
        example.fg, example.images, example.mask
    )
    (2.5 * loss).backward()
    fg = example.logits.detach().double().softmax(2)[:, :, 1].requires_grad_()
    truth = torch.zeros((), dtype=torch.float64)
    for w, frames, W in windows(example, dense):
        s = fg[w, frames].flatten()
        cut, degrees = s @ W @ (1 - s), W.sum(1)
        truth = truth + 0.7 / 2 * (cut / (s @ degrees) + cut / ((1 - s) @ degrees))
    assert loss.item() == pytest.approx(truth.item(), rel=RTOL)
    (2.5 * truth).backward()
    check_gradient(example, fg.grad * (fg * (1 - fg)).detach())


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_map_is_no_minimum_of_the_normalized_cut(example, value):
    fg = torch.full((1, 3, 9, 7), value, requires_grad=True)
    settings = ColocalizationSettings(weight=1.0, mode="normalized_cut")
    loss, _ = Colocalization(settings)(fg, example.images[:1], torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(1.0 if 0 < value < 1 else 0.0, abs=1e-5)
    assert fg.grad.isfinite().all()


def test_the_normalized_cut_is_zero_for_regions_that_share_no_color(example):
    images = torch.zeros(1, 2, 3, 9, 7, dtype=torch.uint8)
    images[..., :4, :] = 255
    fg = (images[:, :, 0] > 0).float()
    settings = ColocalizationSettings(weight=1.0, mode="normalized_cut")
    assert Colocalization(settings)(fg, images, torch.ones(1, 2).bool())[0].item() == pytest.approx(0.0, abs=1e-6)
    assert Colocalization(settings)(fg.flip(3), images, torch.ones(1, 2).bool())[0].item() == 0.0
    half = torch.cat([fg, 1 - fg], 1)[:, ::2]  # the two frames disagree about which color is foreground
    assert Colocalization(settings)(half, images, torch.ones(1, 2).bool())[0].item() == pytest.approx(1.0, abs=1e-4)


def test_paper_normalizer_pushes_stronger_by_the_ratio_of_the_two_values(example, dense):
    gradients = {}
    for normalizer, sign in (("published", -1), ("paper", 1)):
        example.logits.grad = None
        settings = ColocalizationSettings(weight=5.0, normalizer=normalizer)
        loss, _ = Colocalization(settings)(example.fg, example.images, example.mask)
        assert loss.item() == pytest.approx(sign * 5.0, rel=1e-6)
        loss.backward()
        gradients[normalizer] = example.logits.grad
    fg = example.logits.detach().double().softmax(2)[:, :, 1]
    for w, frames, W in windows(example, dense):
        ratio = (dense.published_value(fg[w, frames], W).abs() / dense.paper_value(fg[w, frames], W)).item()
        assert ratio > 1.2
        expected = ratio * gradients["published"][w]
        torch.testing.assert_close(gradients["paper"][w], expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_floor_of_the_paper_normalizer_bounds_the_gradient_of_nearly_constant_maps(example):
    def run(floor: float) -> tuple[float, float, float]:
        logits = torch.full((1, 3, 2, 9, 7), 0.0)
        logits[:, :, 1] = 6.0
        logits[:, 0, 1, 2, 3] = 5.0
        logits.requires_grad_()
        settings = ColocalizationSettings(weight=5.0, normalizer="paper", paper_floor=floor)
        loss, share = Colocalization(settings)(
            logits.softmax(2)[:, :, 1], example.images[:1], torch.ones(1, 3, dtype=torch.bool)
        )
        loss.backward()
        return loss.item(), share.item(), logits.grad.abs().max().item()

    loss, share, gradient = run(0.0)
    floored_loss, _, floored_gradient = run(0.1)
    assert loss == pytest.approx(5.0, rel=1e-6)
    assert 0 < share < 0.01
    assert floored_loss == pytest.approx(5.0 * share / 0.1, rel=1e-4)
    assert floored_gradient == pytest.approx(gradient * share / 0.1, rel=1e-4)


def test_exactly_constant_map_is_finite_by_default(example):
    fg = torch.zeros(1, 3, 9, 7, requires_grad=True)
    settings = ColocalizationSettings(normalizer="paper")
    loss, _ = Colocalization(settings)(fg, example.images[:1], torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert fg.grad.isfinite().all()


def test_masked_frames_and_single_frame_windows_equal_removal(example):
    term = Colocalization(ColocalizationSettings(weight=3e-4, mode="constant"))
    loss, share = term(example.fg, example.images, example.mask)
    full, share_0 = term(example.fg[:1], example.images[:1], example.mask[:1])
    pair, share_1 = term(example.fg[1:2, [0, 2]], example.images[1:2, [0, 2]], torch.ones(1, 2).bool())
    torch.testing.assert_close(loss, (full + pair) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(share, (share_0 + share_1) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("form", [{"normalizer": "published"}, {"normalizer": "paper"}, {"mode": "normalized_cut"}])
def test_no_window_with_two_frames(example, valid, form):
    mask = torch.zeros_like(example.mask)
    mask[:, :valid] = True
    loss, share = Colocalization(ColocalizationSettings(**form, paper_floor=0.0))(example.fg, example.images, mask)
    loss.backward()
    assert (loss.item(), share.item()) == (0.0, 0.0)
    assert example.logits.grad.eq(0).all()


def test_ramp(example):
    term = Colocalization(ColocalizationSettings(weight=6.0, ramp_steps=4))
    values = [term(example.fg, example.images, example.mask, step)[0].item() for step in (0, 1, 3, 4, 99)]
    assert values == pytest.approx([-1.5, -3.0, -6.0, -6.0, -6.0], rel=1e-6)
    with pytest.raises(ValueError, match="needs the optimizer step"):
        term(example.fg, example.images, example.mask)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "auto"},
        {"normalizer": "lattice"},
        {"paper_floor": 0.6},
        {"paper_floor": -1.0},
        {"sigma_rgb": 0.0},
        {"ramp_steps": -1},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ColocalizationSettings(**wrong)


def test_backend_reaches_the_kernel(example):
    with pytest.raises(ValueError, match="nonesuch"):
        Colocalization(ColocalizationSettings(backend="nonesuch"))(example.fg, example.images, example.mask)
