"""Operations against published figures and a hand count; rates of GPUs by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from colocam_dist.flops import count_bytes, count_flops, peak_of
from colocam_dist.models import Classifier, Localizer
from colocam_dist.models.encoders import build_encoder


def test_resnet50_has_the_published_parameters_and_multiplications() -> None:
    classifier = Classifier(build_encoder("resnet50"), 10)
    assert sum(p.numel() for p in classifier.parameters()) == 23_528_522
    encoding = count_flops(classifier, 1, 224, backward=False) / 2
    assert encoding == pytest.approx(19.077e9, rel=1e-3)
    localizer = Localizer(classifier)
    assert sum(p.numel() for p in localizer.parameters()) == 32_541_740
    assert sum(p.numel() for p in localizer.parameters() if p.requires_grad) == 9_013_218
    everything = count_flops(localizer, 1, 224, backward=False) / 2
    assert everything == pytest.approx(27.647e9, rel=1e-3)
    assert everything - encoding == pytest.approx(8.569e9, rel=1e-3)


class Small(nn.Module):
    """A frozen convolution, a grouped one that learns, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 5)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = self.grouped(self.norm(self.frozen(images_BCHW.float())))
        return self.linear(self.drop(maps).mean((2, 3))), [maps]


def test_forward_and_backward_by_hand_without_a_trace() -> None:
    model = Small().train()
    model.drop.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    frozen, grouped, linear = 2 * 2 * 6 * 3 * 9 * 9 * 9, 2 * 2 * 4 * 3 * 9 * 5 * 5, 2 * 2 * 4 * 5
    assert count_flops(model, 2, 9, backward=False) == frozen + grouped + linear
    # Gradients of inputs and weights cost once more each; the frozen layer has neither.
    assert count_flops(model, 2, 9, backward=True) == frozen + 3 * grouped + 3 * linear
    assert [module.training for module in model.modules()] == [True, True, True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_bytes_of_what_is_read_and_written() -> None:
    class Line(nn.Module):
        def forward(self, images_BCHW: Tensor) -> Tensor:
            return images_BCHW.float().flatten(1).mul(2.0)

    numbers = 2 * 3 * 9 * 9
    assert count_bytes(Line(), 2, 9, backward=False) == numbers * (1 + 4 + 4 + 4) + numbers  # the empty batch is made


@pytest.mark.parametrize(
    ("gpu", "precision", "tf32", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", True, 312e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156e12),
        ("NVIDIA A100 80GB PCIe", "fp32", False, 19.5e12),
        ("NVIDIA H100 80GB HBM3", "bf16", True, 989.4e12),
        ("NVIDIA H100 PCIe", "fp16", True, 756e12),
        ("NVIDIA H200", "fp32", True, 494.7e12),
        ("NVIDIA H200 NVL", "bf16", True, 835.5e12),
        ("NVIDIA L40S", "bf16", True, 362e12),
        ("NVIDIA GeForce RTX 4090", "bf16", True, 165.2e12),
        ("Tesla V100-SXM2-32GB", "fp32", True, 15.7e12),
        ("Tesla V100-PCIE-16GB", "fp16", True, 112e12),
        ("Tesla V100-SXM2-32GB", "bf16", True, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", True, None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16", True, None),
        ("NVIDIA RTX A1000", "bf16", True, None),
        ("NVIDIA A10G", "bf16", True, None),
        ("a CPU", "fp32", True, None),
    ],
)
def test_rates_are_found_by_the_gpus_name(gpu: str, precision: str, tf32: bool, rate: float | None) -> None:
    found, why = peak_of(gpu, precision, tf32=tf32)
    assert found == (None if rate is None else pytest.approx(rate))
    assert gpu in why or rate is not None
