"""Helpers shared by the tests of the models."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from colocam_dist.models.encoders.timm_pyramid import declare_torchvision_operators


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images() -> Callable[..., torch.Tensor]:
    """Random uint8 images ``[B, 3, H, W]``."""

    def make(batch: int, height: int, width: int | None = None) -> torch.Tensor:
        shape = (batch, 3, height, width or height)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))

    return make


@pytest.fixture
def count_macs() -> Callable[[nn.Module, torch.Tensor], int]:
    """Multiply-accumulates of all convolutions and linear layers in one forward pass."""

    def count(model: nn.Module, images_BCHW: torch.Tensor) -> int:
        total = 0

        def add(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            nonlocal total
            assert isinstance(layer.weight, torch.Tensor)
            total += output.numel() * layer.weight[0].numel()

        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(add) for layer in layers]
        with torch.no_grad():
            model(images_BCHW)
        for hook in hooks:
            hook.remove()
        return total

    return count


@pytest.fixture
def spread_norms() -> Callable[[nn.Module], None]:
    """Give every BatchNorm statistics and weights of its own, so that a forgotten one shows."""

    def spread(model: nn.Module) -> None:
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                with torch.no_grad():
                    layer.running_mean.normal_(std=0.1)
                    layer.running_var.uniform_(0.5, 2.0)
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(std=0.1)

    return spread


@pytest.fixture
def torchvision_models() -> Any:
    """The module ``torchvision.models``, an independent implementation to compare with."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    declare_torchvision_operators()
    return importlib.import_module("torchvision.models")
