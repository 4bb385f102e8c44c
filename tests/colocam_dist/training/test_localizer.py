"""What the loss of stage 2 is given: maps that seeds are drawn from, weights of frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from colocam_dist.cams.align import crop_cams
from colocam_dist.config import load
from colocam_dist.distributed import Workers
from colocam_dist.losses import LocalizationLoss
from colocam_dist.models import Classifier, Localizer
from colocam_dist.seeds import SeedDraw, pixel_noise, sample_seeds
from colocam_dist.training import localizer
from colocam_dist.training.inputs import loss_settings, seed_settings
from colocam_dist.training.localizer import LocalizerLoss
from colocam_dist.training.weight_average import WeightAverage
from tests.colocam_dist.training.test_number_of_ranks import FRAMES, SETTINGS, SIDE, WINDOWS, Tiny, part

ALONE = Workers(0, 0, 1, torch.device("cpu"))
BATCH = part(0, slice(0, WINDOWS))


def made(*settings: str) -> LocalizerLoss:
    config = load(None, [*SETTINGS, *settings])
    torch.manual_seed(5)
    module = LocalizerLoss(Localizer(Classifier(Tiny(), 3)), LocalizationLoss(loss_settings(config)), config, ALONE)
    return module.train()


def drawn(module: LocalizerLoss, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The maps of one forward pass that seeds were drawn from, and the seeds."""
    kept = []

    class Noted(SeedDraw):
        def __init__(self, maps: Tensor, *rest: Any) -> None:
            super().__init__(maps, *rest)
            self.maps = maps

        def labels(self) -> Tensor:
            kept.append((self.maps, super().labels()))
            return kept[-1][1]

    monkeypatch.setattr(localizer, "SeedDraw", Noted)
    assert module(BATCH).requires_grad
    assert len(kept) == 1
    return kept[0]


def archived() -> Tensor:
    return crop_cams(BATCH.cams_WNhw.flatten(0, 1).float(), BATCH.crops_WN3.flatten(0, 1), resize=40, crop=SIDE)


def stretched(foreground: Tensor) -> Tensor:
    low, high = foreground.double().amin((1, 2), keepdim=True), foreground.double().amax((1, 2), keepdim=True)
    return (foreground.double() - low) / (high - low)


def foreground(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        logits = model(BATCH.images_WNCHW.flatten(0, 1)).map_logits_B2HW
    return (logits[:, 1] - logits[:, 0]).double().sigmoid()


@pytest.mark.parametrize(("first", "epoch"), [(0, 0), (0, 7), (2, 0), (3, 1)])
def test_seeds_come_from_the_archive_before_the_epoch_of_the_refresh(
    first: int, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = made(f"localizer.seeds.refresh_epoch={first}")
    module.epoch = epoch
    assert torch.equal(drawn(module, monkeypatch)[0], archived())


@pytest.mark.parametrize("epoch", [1, 4])
def test_then_from_the_present_map_stretched_like_a_cam(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("localizer.seeds.refresh_epoch=2")
    module.epoch = epoch
    maps, seeds = drawn(module, monkeypatch)
    expected = stretched(foreground(module.model))
    torch.testing.assert_close(maps.double(), expected, rtol=0, atol=1e-4)
    assert not maps.requires_grad
    assert (maps.amin((1, 2)).tolist(), maps.amax((1, 2)).tolist()) == ([0.0] * len(maps), [1.0] * len(maps))
    config = load(None, SETTINGS)
    noise = pixel_noise(BATCH.frame_ids_WN.flatten(), (SIDE, SIDE), seed=0, epoch=epoch)
    again = sample_seeds(maps, seed_settings(config), noise, mask_B=BATCH.mask_WN.flatten())
    assert torch.equal(seeds, again)
    assert not torch.equal(again, sample_seeds(archived(), seed_settings(config), noise, BATCH.mask_WN.flatten()))


def test_or_from_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("localizer.seeds.refresh_epoch=1", "localizer.seeds.refresh_share=0.3")
    maps, _ = drawn(module, monkeypatch)
    expected = 0.7 * archived().double() + 0.3 * stretched(foreground(module.model))
    torch.testing.assert_close(maps.double(), expected, rtol=0, atol=1e-4)


def test_the_average_of_the_weights_is_the_better_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("localizer.seeds.refresh_epoch=1")
    names = [name for name, p in module.model.named_parameters() if p.requires_grad]
    module.average = WeightAverage(module.model, names, 0.9, share_frozen=True)
    with torch.no_grad():
        for parameter in module.average.model.decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: tensor.clone() for name, tensor in module.average.model.state_dict().items()}
    maps, _ = drawn(module, monkeypatch)
    torch.testing.assert_close(maps.double(), stretched(foreground(module.average.model)), rtol=0, atol=1e-4)
    difference = (maps.double() - stretched(foreground(module.model))).abs().mean()
    assert difference > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.average.model.state_dict().items())
    assert {name.partition(".")[0] for name, _ in module.named_parameters()} == {"model"}, "it is not trained"


def test_presence_reaches_the_loss_and_is_reported() -> None:
    plain, dropped = made(), made("localizer.presence={mode: drop, threshold: 0.33}")
    with torch.no_grad():
        logits = plain.model(BATCH.images_WNCHW.flatten(0, 1)).class_logits_BK.unflatten(0, (WINDOWS, FRAMES))
    probability = logits.double().softmax(2)[torch.arange(WINDOWS), :, BATCH.labels_W]
    kept = BATCH.mask_WN & (probability >= 0.33)
    assert 0 < kept.sum() < BATCH.mask_WN.sum()
    loss = dropped(BATCH)
    assert dropped.terms["tag_probability"].item() == pytest.approx(probability[BATCH.mask_WN].mean().item(), rel=1e-6)
    assert dropped.terms["frames_kept"].item() == pytest.approx(kept.sum().item() / BATCH.mask_WN.sum().item())
    batch = part(0, slice(0, WINDOWS))
    batch.mask_WN = kept
    assert loss.item() == plain(batch).item(), "as if the frames had been masked by the reader"
    assert loss.item() != plain(BATCH).item()
    assert "frames_kept" not in plain.terms


def test_a_smaller_map_meets_means_of_pixels_and_of_cams(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made()
    module.model.map_stride = 2
    images = []
    forward = module.loss.forward

    def note(logits: Tensor, pixels: Tensor, *rest: Any) -> Any:
        images.append((logits, pixels))
        return forward(logits, pixels, *rest)

    monkeypatch.setattr(module.loss, "forward", note)
    maps, seeds = drawn(module, monkeypatch)
    logits, pixels = images[0]
    small = SIDE // 2
    assert maps.shape[1:] == seeds.shape[1:] == logits.shape[3:] == pixels.shape[3:] == (small, small)
    for size, found, whole in (
        (1e-6, maps, archived()),
        (0.5, pixels.flatten(0, 1).double(), BATCH.images_WNCHW.flatten(0, 1)),
    ):
        squares = [
            whole[..., row : 2 * small : 2, column : 2 * small : 2].double() for row in (0, 1) for column in (0, 1)
        ]
        assert (found.double() - sum(squares) / 4).abs().max() <= size
    assert pixels.dtype == torch.uint8
