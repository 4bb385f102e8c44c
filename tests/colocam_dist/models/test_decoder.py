from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from colocam_dist.errors import ConfigError
from colocam_dist.models.decoder import UNetDecoder


def resize_aligned(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with aligned corners, from the definition: two matrices of linear interpolation."""

    def matrix(n_in: int, n_out: int) -> np.ndarray:
        positions = np.linspace(0.0, n_in - 1.0, n_out)
        return np.stack([np.interp(positions, np.arange(n_in), unit) for unit in np.eye(n_in)], axis=1)

    return np.einsum("yh,bchw,xw->bcyx", matrix(x.shape[2], size[0]), x, matrix(x.shape[3], size[1]))


def reference(decoder: UNetDecoder, features: list[torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    """The decoder again in eval mode, with its own upsampling; only conv2d and batch_norm are torch's."""
    state = decoder.state_dict()

    def convolve(x: np.ndarray, prefix: str) -> np.ndarray:
        y = functional.conv2d(torch.from_numpy(x), state[f"{prefix}.0.weight"], padding=1)
        norm = [state[f"{prefix}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, *norm).clamp(min=0.0).numpy()

    x = features[-1].numpy()
    if decoder.center is not None:
        x = convolve(convolve(x, "center.0"), "center.1")
    for index in range(len(features)):
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        if index < len(features) - 1:
            skip = features[-2 - index].numpy()
            x = np.concatenate([resize_aligned(x, skip.shape[2:]), skip], axis=1)
        x = convolve(convolve(x, f"blocks.{index}.conv1"), f"blocks.{index}.conv2")
    y = functional.conv2d(torch.from_numpy(x), state["head.weight"], state["head.bias"], padding=1).numpy()
    return resize_aligned(y, size)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([(12, 10), (6, 5), (3, 3)], (24, 20)),  # doubling, with rounded-up sizes
        ([(12, 10), (6, 5), (6, 5)], (23, 19)),  # a stride taken out, and an odd image
        ([(9, 7), (9, 7), (9, 7)], (37, 30)),
    ],
)
def test_equals_an_independent_computation(center, sizes, size, spread_norms):
    channels = (3, 4, 5)
    decoder = UNetDecoder(channels, (6, 5, 4), center).double()
    spread_norms(decoder)
    decoder.eval()
    features = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip(channels, sizes, strict=True)]
    with torch.no_grad():
        got = decoder(features, size)
    assert got.shape == (2, 2, *size)
    np.testing.assert_allclose(got.numpy(), reference(decoder, features, size), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "widths", "center", "parameters"),
    [
        ((64, 256, 512, 1024, 2048), (256, 128, 64, 32, 16), False, 9_012_928 + 290),
        ((128, 256, 1024), (256, 128, 64), True, 23_119_616 + 1_154),
        ((64, 80, 288, 768, 1024), (256, 128, 64, 32, 16), False, 5_704_384 + 290),
    ],
)
def test_published_sizes(features, widths, center, parameters):
    decoder = UNetDecoder(features, widths, center)
    assert sum(p.numel() for p in decoder.parameters()) == parameters


def test_initial_weights():
    decoder = UNetDecoder((8, 64), (64, 32))
    weight = decoder.blocks[0].conv1[0].weight
    bound = (6.0 / (72 * 9)) ** 0.5  # Kaiming-uniform, fan in, gain of a ReLU
    assert bound * 0.98 < weight.abs().max().item() <= bound
    bound = (6.0 / (32 * 9 + 2 * 9)) ** 0.5  # Xavier-uniform
    assert bound * 0.95 < decoder.head.weight.abs().max().item() <= bound
    assert (decoder.head.bias == 0).all()


def test_every_parameter_gets_a_gradient():
    decoder = UNetDecoder((3, 4, 5), (6, 5, 4), center_block=True)
    features = [torch.rand(2, c, s, s) for c, s in ((3, 8), (4, 4), (5, 2))]
    logits = decoder(features, (17, 16))
    logits.backward(torch.randn_like(logits))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_wrong_number_of_widths():
    with pytest.raises(ConfigError, match=r"one width per feature map(.|\n)*got: \(64, 32\)"):
        UNetDecoder((3, 4, 5), (64, 32))
