"""The average of the weights on one rank; on several, and under ZeRO, in test_engine_state.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from colocam_dist.config import load
from colocam_dist.distributed import Workers
from colocam_dist.errors import ConfigError
from colocam_dist.training.weight_average import WeightAverage

LEARNED = ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
ALONE = Workers(0, 0, 1, torch.device("cpu"))


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 5, 3).requires_grad_(False), nn.BatchNorm2d(5))


def train(model: nn.Sequential, average: WeightAverage, steps: range) -> list[torch.Tensor]:
    """Change the model like a step of training would; returns the weights after each."""
    path = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(2, 3, 7, 7, generator=generator))
        with torch.no_grad():
            model[1].weight.add_(torch.randn(5, generator=generator))
        state = model.state_dict()
        average.update((name, state[name]) for name in LEARNED)
        path.append(model[1].weight.detach().double().clone())
    return path


def test_decay_warms_up() -> None:
    model = network()
    average, expected = WeightAverage(model, LEARNED, 0.4, share_frozen=True), model[1].weight.detach().double()
    used = []
    for updates, weight in enumerate(train(model, average, range(9))):
        used.append(min(0.4, (1 + updates) / (10 + updates)))
        expected = used[-1] * expected + (1 - used[-1]) * weight
    assert used[:3] == [1 / 10, 2 / 11, 3 / 12]
    assert used[-2:] == [0.4, 0.4]
    torch.testing.assert_close(average.model[1].weight.double(), expected, rtol=1e-6, atol=1e-7)
    assert average.updates == 9
    assert int(average.model[1].num_batches_tracked) == 9


@pytest.mark.parametrize("share", [True, False])
def test_the_copy_is_for_scoring_and_shares_what_never_changes(share: bool) -> None:
    model = network()
    average = WeightAverage(model, LEARNED, 0.9, share_frozen=share)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert (average.model[0].weight is model[0].weight) == share
    assert average.model[1].weight is not model[1].weight
    assert model.training
    assert model[1].weight.requires_grad
    assert average.bytes == 4 * 4 * 5 + 8


def test_goes_on_from_its_content_bit_for_bit(tmp_path: Path) -> None:
    whole, model = network(), network()
    undisturbed = WeightAverage(whole, LEARNED, 0.9, share_frozen=True)
    train(whole, undisturbed, range(6))
    average = WeightAverage(model, LEARNED, 0.9, share_frozen=True)
    train(model, average, range(3))
    torch.save(average.content(), tmp_path / "average.pt")
    again = WeightAverage(network(), LEARNED, 0.9, share_frozen=True)
    again.put_back(torch.load(tmp_path / "average.pt", weights_only=True), ALONE)
    train(model, again, range(3, 6))
    assert again.updates == undisturbed.updates
    for name, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_a_decay_of_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"localizer\.ema\.decay"):
        load(None, ["data.shards=x", "localizer.ema.decay=1"])
