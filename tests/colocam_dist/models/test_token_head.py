from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from colocam_dist.errors import ConfigError
from colocam_dist.models import Classifier, Localizer, TokenHead, build_encoder
from colocam_dist.models.batch_norm import SynchronizedBatchNorm2d, synchronize_batch_norm
from colocam_dist.models.encoders.vit import VisionTransformer


def resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between pixel centers, the border held, from the definition."""

    def matrix(n_in: int, n_out: int) -> np.ndarray:
        positions = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
        return np.stack([np.interp(positions, np.arange(n_in), unit) for unit in np.eye(n_in)], axis=1)

    return np.einsum("yh,bchw,xw->bcyx", matrix(x.shape[2], size[0]), x, matrix(x.shape[3], size[1]))


def reference(head: TokenHead, features: list[torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    """The head again in eval mode; only conv2d and batch_norm are torch's."""
    state = head.state_dict()

    def norm(y: torch.Tensor, prefix: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(y, *(state[f"{prefix}.{name}"] for name in names))

    x = np.zeros(())
    for index, map_BChw in enumerate(features):
        y = np.einsum("oc,bchw->bohw", state[f"fuse.{index}.0.weight"][:, :, 0, 0].numpy(), map_BChw.numpy())
        x = x + norm(torch.from_numpy(y), f"fuse.{index}.1").numpy()
    x = np.maximum(x, 0.0)
    for index in range(len(head.blocks)):
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        for name in (f"blocks.{index}.conv1", f"blocks.{index}.conv2"):
            y = functional.conv2d(torch.from_numpy(x), state[f"{name}.0.weight"], padding=1)
            x = np.maximum(norm(y, f"{name}.1").numpy(), 0.0)
    y = functional.conv2d(torch.from_numpy(x), state["head.weight"], state["head.bias"], padding=1)
    return resize(y.numpy(), size)


@pytest.mark.parametrize(("grid", "size"), [((3, 2), (12, 8)), ((3, 2), (11, 7)), ((1, 4), (3, 13))])
def test_equals_an_independent_computation(grid, size, spread_norms):
    head = TokenHead((3, 5), (6, 5, 4), 4).double()
    spread_norms(head)
    head.eval()
    features = [torch.randn(2, channels, *grid, dtype=torch.float64) for channels in (3, 5)]
    with torch.no_grad():
        got = head(features, size)
    assert got.shape == (2, 2, *size)
    np.testing.assert_allclose(got.numpy(), reference(head, features, size), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("widths", [(6, 5), (6, 5, 4, 3)])
def test_wrong_number_of_widths(widths):
    with pytest.raises(ConfigError, match=rf"one for each doubling(.|\n)*got: \({widths[0]}, (.|\n)*wanted: 3 widths"):
        TokenHead((3, 5), widths, 4)


@pytest.mark.parametrize("width", [192, 384, 768])
def test_size(width):
    """1x1 convolutions and BatchNorms of five maps; 3x3 ones of 256, 128, 64, 32, 16 channels; two maps."""
    widths = VisionTransformer.decoder_channels
    assert widths == (256, 128, 64, 32, 16)
    decoder = TokenHead((width,) * 5, widths, 16)
    parameters = 5 * (width * 256 + 2 * 256) + 9 * 2 * 16 + 2
    parameters += sum(9 * after * (before + after) + 4 * after for before, after in itertools.pairwise(widths))
    assert sum(p.numel() for p in decoder.parameters()) == parameters


def test_every_parameter_gets_a_gradient_from_a_frozen_encoder(images):
    localizer = Localizer(Classifier(build_encoder("vit_tiny"), 3), (8, 8, 6, 4, 4))
    assert isinstance(localizer.decoder, TokenHead)
    logits = localizer(images(2, 65, 90)).map_logits_B2HW
    logits.backward(torch.randn_like(logits))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in localizer.decoder.parameters())
    assert all(p.grad is None for p in localizer.classifier.parameters())


def test_every_map_is_used():
    head = TokenHead((3, 3, 3), (6, 4), 2).eval()
    features = [torch.randn(1, 3, 4, 4) for _ in range(3)]
    with torch.no_grad():
        whole = head(features, (8, 8))
        for index in range(3):
            changed = [*features[:index], torch.randn(1, 3, 4, 4), *features[index + 1 :]]
            assert not torch.allclose(head(changed, (8, 8)), whole)


def test_its_batch_norm_can_be_synchronized():
    localizer = Localizer(Classifier(build_encoder("vit_tiny"), 3))
    before = [name for name, layer in localizer.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(before) == 5 + 8
    synchronize_batch_norm(localizer)
    after = [name for name, layer in localizer.named_modules() if isinstance(layer, SynchronizedBatchNorm2d)]
    assert after == before
