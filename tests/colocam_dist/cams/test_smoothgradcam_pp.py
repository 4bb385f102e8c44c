from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from colocam_dist.cams import SmoothGradCamPP, build_cam_method
from colocam_dist.cams.maps import min_max
from colocam_dist.cams.smoothgradcam_pp import smoothgradcam_pp
from colocam_dist.noise import content_keys, frame_normals

METHOD = SmoothGradCamPP(samples=3, noise=0.2)


def published(A: np.ndarray, copies: list[np.ndarray]) -> np.ndarray:
    """Omeiza et al., with the second derivative on top of alpha; `copies` are gradients of noisy copies."""
    n, cam = len(copies), np.zeros(A.shape[1:])
    for k in range(len(A)):
        weight = 0.0
        for i in range(A.shape[1]):
            for j in range(A.shape[2]):
                first, second, third = (sum(g[k, i, j] ** power for g in copies) / n for power in (1, 2, 3))
                bottom = 2.0 * second + A[k].sum() * third
                weight += second / bottom * max(first, 0.0) if bottom else 0.0
        cam += weight * A[k]
    return np.maximum(cam, 0.0)


def noisy_copies(frames: Any, frame: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(A, dY/dA) of each noisy copy: pixels get noise of 0.2 x 255 levels before they are normalized."""
    key = content_keys(frames.images[frame : frame + 1])
    std = torch.tensor(frames.classifier.encoder.pixel_std, dtype=torch.float64)[:, None, None]
    found = []
    for sample in range(METHOD.samples):
        noise = frame_normals(key, 3 * 31 * 43, seed=0, epoch=sample).double().view(1, 3, 31, 43)
        found.append(frames.derivatives(frame, frames.pixels(frame) + 0.2 * 255.0 * noise / std))
    return found


@pytest.mark.parametrize("activations", ["noisy", "clean"])
def test_is_the_published_formula(activations: Any, frames: Any, stretched: Any) -> None:
    method = SmoothGradCamPP(METHOD.samples, METHOD.noise, activations)
    maps = method(frames.classifier, frames.images, frames.labels).maps_Bhw.numpy()
    for frame in range(4):
        copies = noisy_copies(frames, frame)
        A, _ = frames.derivatives(frame)
        if activations == "noisy":
            A = sum(noisy for noisy, _ in copies) / len(copies)
        want = stretched(published(A, [gradient for _, gradient in copies]))
        np.testing.assert_allclose(maps[frame], want, rtol=0, atol=5e-5)


def test_without_noise_it_is_gradcam_pp(frames: Any) -> None:
    want = build_cam_method("gradcam++")(frames.classifier, frames.images, frames.labels).maps_Bhw
    for activations in ("noisy", "clean"):
        quiet = SmoothGradCamPP(samples=2, noise=0.0, activations=activations)
        found = quiet(frames.classifier, frames.images, frames.labels).maps_Bhw
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


def test_behind_global_pooling_noise_matters_through_the_activations_alone(pooled: Any, curved: Any) -> None:
    def difference(frames: Any, activations: Any) -> float:
        method = SmoothGradCamPP(noise=0.2, activations=activations)
        found = method(frames.classifier, frames.images, frames.labels).maps_Bhw
        plain = build_cam_method("gradcam++")(frames.classifier, frames.images, frames.labels).maps_Bhw
        return (found - plain).abs().max().item()

    assert difference(pooled, "clean") < 1e-5
    assert min(difference(pooled, "noisy"), difference(curved, "clean"), difference(curved, "noisy")) > 1e-2


def test_the_noise_is_that_of_the_frame_and_not_of_its_place(pooled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    forward = pooled.classifier.encoder.forward

    def watch(images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(images)
        return forward(images)

    monkeypatch.setattr(pooled.classifier.encoder, "forward", watch)
    order = torch.tensor([3, 1])
    METHOD(pooled.classifier, pooled.images, pooled.labels)
    METHOD(pooled.classifier, pooled.images[order], pooled.labels[order])
    assert len(seen) == 2 * (METHOD.samples + 1)
    for together, apart in zip(seen[: METHOD.samples + 1], seen[METHOD.samples + 1 :], strict=True):
        assert torch.equal(together[order], apart)
    std = torch.tensor(pooled.classifier.encoder.pixel_std)[:, None, None]
    levels = torch.stack([(noisy - seen[0]) * std for noisy in seen[1 : METHOD.samples + 1]])
    assert levels.std().item() == pytest.approx(0.2 * 255.0, rel=0.02)
    assert abs(torch.corrcoef(levels.flatten(1))[0, 1].item()) < 0.03, "samples must differ"
    assert abs(torch.corrcoef(levels[0].flatten(1))[0, 1].item()) < 0.06, "frames must differ"


@pytest.mark.parametrize("scale", [1e-13, 1e5])
def test_small_gradients_lose_nothing(scale: float) -> None:
    torch.manual_seed(4)
    features, gradients = torch.rand(3, 13, 7, 10), torch.randn(2, 3, 13, 7, 10).abs()
    want = min_max(smoothgradcam_pp(features, gradients))
    found = min_max(smoothgradcam_pp(features / scale, gradients * scale))
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [{"samples": 0}, {"noise": -0.1}, {"activations": "mean"}])
def test_bad_settings_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SmoothGradCamPP(**bad)
