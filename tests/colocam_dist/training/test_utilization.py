"""Rates that the log reports."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from colocam_dist.config.machine import Engine
from colocam_dist.training import utilization
from colocam_dist.training.utilization import Utilization


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.layer(images_BCHW.float())


FLOPS = 2 * (2 * 4 * 3 * 9 * 7 * 7)  # forward and the gradient of the weight


def test_a_cpu_has_a_rate_but_no_share(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        use = Utilization("classifier", Net(), 9, torch.device("cpu"), Engine())
    assert use.rates(1e6) == {"tflops": pytest.approx(FLOPS * 1e6 / 1e12)}
    assert "no mfu is reported: no peak rate is known for a CPU" in caplog.text


def test_a_known_gpu_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    use = Utilization("classifier", Net(), 9, torch.device("cuda"), Engine(precision="bf16"))
    assert use.rates(1e9) == {"tflops": pytest.approx(FLOPS / 1e3), "mfu": pytest.approx(FLOPS * 1e9 / 989.4e12)}


def test_a_network_that_cannot_be_counted_is_trained_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def count(*_: object, **__: object) -> int:
        raise NotImplementedError("aten::strange on Meta\nmore")

    monkeypatch.setattr(utilization, "count_flops", count)
    assert Utilization("classifier", Net(), 9, torch.device("cpu"), Engine()).rates(5.0) == {}
    assert "cannot be counted: aten::strange on Meta" in caplog.text
