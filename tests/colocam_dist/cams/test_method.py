"""What holds for every CAM method."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from colocam_dist.cams import CAM_METHODS, SmoothGradCamPP, build_cam_method
from colocam_dist.config.stages import CamName
from colocam_dist.errors import ConfigError

ON_ANY_HEAD = [name for name in CAM_METHODS if name != "cam"]


def test_the_settings_know_every_method() -> None:
    assert set(get_args(CamName)) == set(CAM_METHODS)
    with pytest.raises(ConfigError, match=r"gradcam\+\+, xgradcam"):
        build_cam_method("scorecam")


def test_identity_tells_methods_and_their_settings_apart() -> None:
    made = [build_cam_method(name) for name in CAM_METHODS]
    made += [SmoothGradCamPP(samples=5), SmoothGradCamPP(noise=0.1), SmoothGradCamPP(activations="clean")]
    assert len({method.identity for method in made}) == len(made)
    assert build_cam_method("layercam").identity == "layercam"
    assert build_cam_method("smoothgradcam++", SmoothGradCamPP(samples=5)).identity == made[-3].identity


@pytest.mark.parametrize("name", ON_ANY_HEAD)
def test_maps_and_logits_of_a_frozen_classifier(name: str, frames: Any) -> None:
    method = build_cam_method(name)
    with torch.inference_mode():
        labels = frames.labels.clone()  # of inference mode, as in evaluation
        maps, logits = method(frames.classifier, frames.images, labels)
    assert not any(parameter.requires_grad for parameter in frames.classifier.parameters())
    assert maps.dtype == torch.float32
    assert maps.shape == (4, 7, 10)
    assert maps.amin((1, 2)).eq(0).all()
    assert maps.amax((1, 2)).eq(1).all()
    assert torch.equal(logits, frames.classifier(frames.images).logits_BK)
    outside = method(frames.classifier, frames.images, frames.labels)
    assert torch.equal(outside.maps_Bhw, maps)
    learning = frames.classifier.requires_grad_(True)
    while_learning = method(learning, frames.images, frames.labels)
    assert torch.equal(while_learning.maps_Bhw, maps)
    assert not while_learning.logits_BK.requires_grad
    assert all(parameter.grad is None for parameter in learning.parameters())


@pytest.mark.parametrize("name", CAM_METHODS)
def test_a_frame_has_the_same_map_in_any_batch_and_another_one_for_another_class(name: str, pooled: Any) -> None:
    method = build_cam_method(name)
    together = method(pooled.classifier, pooled.images, pooled.labels).maps_Bhw
    order = torch.tensor([2, 0])
    apart = method(pooled.classifier, pooled.images[order], pooled.labels[order]).maps_Bhw
    torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-5)
    other = method(pooled.classifier, pooled.images, (pooled.labels + 1) % 5).maps_Bhw
    assert (other - together).abs().amax((1, 2)).min() > 1e-2


@pytest.mark.parametrize("name", ON_ANY_HEAD)
def test_batches_do_not_matter_to_a_differentiated_head(name: str, curved: Any) -> None:
    method = build_cam_method(name)
    together = method(curved.classifier, curved.images, curved.labels).maps_Bhw
    alone = method(curved.classifier, curved.images[3:], curved.labels[3:]).maps_Bhw
    torch.testing.assert_close(alone, together[3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CAM_METHODS)
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_flat_map_is_zero(name: str, value: float, pooled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = value * torch.linspace(0.1, 1.0, 13)[:, None, None]
    monkeypatch.setattr(
        pooled.classifier.encoder, "forward", lambda x: [x, levels.expand(len(x), 13, 7, 10).contiguous()]
    )
    assert build_cam_method(name)(pooled.classifier, pooled.images, pooled.labels).maps_Bhw.eq(0).all()


@pytest.mark.parametrize("name", CAM_METHODS)
def test_a_class_without_gradient_has_a_map_of_zeros(name: str, pooled: Any) -> None:
    pooled.classifier.head.weight.data.zero_()
    assert build_cam_method(name)(pooled.classifier, pooled.images, pooled.labels).maps_Bhw.eq(0).all()


@pytest.mark.parametrize("name", ON_ANY_HEAD)
def test_the_formula_is_computed_in_float32_under_autocast(name: str, frames: Any) -> None:
    encoder, forward = frames.classifier.encoder, frames.classifier.encoder.forward

    def single(images: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast("cpu", enabled=False):
            return forward(images)

    encoder.forward = single  # so that what is left of autocast would be the method's own
    method = build_cam_method(name)
    want = method(frames.classifier, frames.images, frames.labels).maps_Bhw
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method(frames.classifier, frames.images, frames.labels).maps_Bhw
    assert inside.dtype == torch.float32
    assert torch.equal(inside, want)


@pytest.mark.parametrize("name", CAM_METHODS)
def test_wrong_labels_and_images_are_named(name: str, pooled: Any) -> None:
    method = build_cam_method(name)
    with pytest.raises(ValueError, match=r"one label per frame, \[4\], got labels \(3,\)"):
        method(pooled.classifier, pooled.images, pooled.labels[:-1])
    with pytest.raises(ValueError, match="uint8"):
        method(pooled.classifier, pooled.images.float(), pooled.labels)
