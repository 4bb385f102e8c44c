"""Losses and weights must not depend on how many ranks share a batch; with gloo processes and DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from colocam_dist.config import Config, load
from colocam_dist.data.opening import Splits
from colocam_dist.data.stream import WindowBatch
from colocam_dist.distributed import Workers, connect
from colocam_dist.losses import LocalizationLoss
from colocam_dist.models import Classifier, Encoder, Localizer
from colocam_dist.models.batch_norm import SynchronizedBatchNorm2d, synchronize_batch_norm
from colocam_dist.training.batches import ranks_per_window
from colocam_dist.training.classifier import ClassifierLoss, ClassifierStage
from colocam_dist.training.engine import build_engine
from colocam_dist.training.inputs import loss_settings
from colocam_dist.training.localizer import LocalizerLoss, LocalizerStage, window_group
from tests.colocam_dist.training.ranks import run_ranks

pytestmark = pytest.mark.patient

STEPS, WINDOWS, FRAMES, SIDE = 4, 6, 4, 33
SETTINGS = [
    "data.shards=x",
    "data.resize=40",
    f"data.crop={SIDE}",
    f"data.n_frames={FRAMES}",
    "engine.device=cpu",
    "engine.threads=1",
    "localizer.seeds={n_fg: 40, n_bg: 40}",
    "localizer.loss.frame_crf={weight: 1.0e-5, sigma_xy: 20.0, backend: exact}",
    "localizer.loss.colocalization.weight=0.1",  # negative, so that with more the digits of the sum would cancel
]


class Way(NamedTuple):
    """How it is trained."""

    world: int
    zero: int = 0
    synchronized: bool = True  # BatchNorm over all ranks
    option: str = "data.flip=true"  # one more setting
    together: int = 1  # ranks that share each window


PRESENCE = "localizer.presence={mode: weight, threshold: 0.25}"  # of three classes of an untrained classifier
REFRESH = "localizer.seeds={refresh_epoch: 1, refresh_share: 0.5}"
WAYS = [
    *(Way(1), Way(2), Way(2, 3), Way(2, synchronized=False), Way(3)),
    *(Way(world, option=option) for world in (1, 2, 3) for option in (PRESENCE, REFRESH)),
    *(Way(2, together=2), Way(2, option=PRESENCE, together=2)),
]


class Tiny(Encoder):
    name, strides, feature_channels, decoder_channels = "tiny", (4,), (6, 8), (8, 6)

    def __init__(self) -> None:
        super().__init__(None)
        self.shallow = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        shallow = self.shallow(images_BCHW)
        return [shallow, self.deep(shallow)]

    def fast_parameters(self) -> list[nn.Parameter]:
        return []


def part(step: int, mine: slice) -> WindowBatch:
    """Some of the six windows of a step: their valid frames are few, many, or none at all."""
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(WINDOWS * FRAMES, 3, 5, 5, generator=generator)
    images = (255 * nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")).byte()
    valid_W = torch.tensor([4, 1, 0, 0, 2, 3]).roll(step)
    return WindowBatch(
        images.unflatten(0, (WINDOWS, FRAMES))[mine],
        (torch.arange(FRAMES) < valid_W[:, None])[mine],
        torch.randint(0, 3, (WINDOWS,), generator=generator)[mine],
        torch.zeros(WINDOWS, FRAMES, 3, dtype=torch.int32)[mine],
        torch.arange(WINDOWS * FRAMES).view(WINDOWS, FRAMES)[mine] + 100 * step,
        torch.arange(WINDOWS)[mine],
        torch.zeros(WINDOWS, dtype=torch.bool)[mine],
        torch.rand(WINDOWS, FRAMES, 9, 9, generator=generator).half()[mine],
        replaced=0,
        skipped_shots=0,
    )


def without_kinks(model: nn.Module) -> None:
    """A smooth function in place of every ReLU: rounding moves an input of one that is near 0 to the other side.

    On a CPU without AVX-512 one did, and a bias of norm 0.01 then differed by 3e-6 between one and two ranks.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())


def train(stage: str, config: Config, workers: Workers) -> dict[str, Any]:
    torch.manual_seed(5)
    model: Any = Classifier(Tiny(), 3)
    if stage == "localizer":
        model = Localizer(model)
    without_kinks(model)
    assert any(isinstance(module, nn.SiLU) for module in model.modules())
    if config.engine.sync_batchnorm:
        synchronize_batch_norm(model)
    together = ranks_per_window(config, stage)
    loss = LocalizationLoss(loss_settings(config), window_group(workers, together))
    module = LocalizerLoss(model, loss, config, workers) if stage == "localizer" else ClassifierLoss(model, workers)
    learning = [p for p in model.parameters() if p.requires_grad]
    share = WINDOWS // (workers.world // together)
    number, frames = divmod(workers.rank, together)
    optimizer = torch.optim.SGD(learning, lr=0.05, momentum=0.9)
    engine = build_engine(module.train(), optimizer, config.engine, workers, share)
    reported = []
    for step in range(STEPS):
        value = engine(part(step, slice(number * share, (number + 1) * share)).part(frames, together))
        values = {"loss": value.detach(), **module.terms}
        reported.append({name: workers.sum(each.clone()).item() / workers.world for name, each in values.items()})
        engine.backward(value)
        engine.step()
    statistics = {name: buffer for name, buffer in module.named_buffers() if "running" in name}
    weights = dict(module.named_parameters()) if config.engine.zero_stage == 0 else {}
    state = {name: tensor.detach().clone() for name, tensor in (statistics | weights).items()}
    return {"reported": reported, "state": state}


def _work(rank: int, world: int, folder: str) -> None:
    workers = connect(load(None, SETTINGS).engine)
    results = {}
    for way in WAYS:
        if way.world == world:
            engine = [f"engine.zero_stage={way.zero}", f"engine.sync_batchnorm={way.synchronized}"]
            engine.append(f"engine.window_ranks={way.together}")
            config = load(None, [*SETTINGS, *engine, way.option])
            results[tuple(way)] = {stage: train(stage, config, workers) for stage in ("classifier", "localizer")}
    torch.save(results, f"{folder}/{world}.{rank}.pt")
    workers.close()


def largest_difference(got: list[dict[str, float]], want: list[dict[str, float]]) -> float:
    """Of all values of all steps, relative."""
    pairs = [(mine[name], each[name]) for mine, each in zip(got, want, strict=True) for name in want[0]]
    return max(abs(mine - each) / max(abs(each), 1e-3) for mine, each in pairs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_losses_and_weights_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    results: dict[Way, Any] = {}
    for world in (1, 2, 3):
        run_ranks(_work, world, tmp_path)
        ranks = [torch.load(tmp_path / f"{world}.{rank}.pt") for rank in range(world)]
        for key, stages in ranks[0].items():
            way = Way(*key)
            results[way] = stages
            for stage, result in stages.items():
                assert all(rank[key][stage]["reported"] == result["reported"] for rank in ranks)
                if way.synchronized:
                    state = result["state"]
                    assert all(
                        torch.equal(rank[key][stage]["state"][name], state[name]) for rank in ranks for name in state
                    )
    options = {way.option: stages["localizer"]["reported"] for way, stages in results.items() if way.world == 1}
    assert len({str(reported) for reported in options.values()}) == len(options), "each option changes something"
    for way, stages in results.items():
        for stage, want in results[Way(1, option=way.option)].items():
            error = largest_difference(stages[stage]["reported"], want["reported"])
            if not way.synchronized:
                assert error > 0.01
                continue
            assert error < 1e-6
            for name, tensor in stages[stage]["state"].items():
                assert (tensor - want["state"][name]).norm() <= 1e-5 * want["state"][name].norm(), name


@pytest.mark.parametrize(("world", "setting"), [(1, True), (2, True), (2, False)])
def test_stages_synchronize_among_several_ranks_if_told_to(
    world: int, setting: bool, tiny_shards: Path, tmp_path: Path
) -> None:
    given = [f"data.shards={tiny_shards}", "data.n_frames=2", f"engine.sync_batchnorm={setting}"]
    config, workers = load(None, given), Workers(0, 0, world, torch.device("cpu"))
    splits = Splits.open(config.data)
    cams = tmp_path / "cams.npy"
    np.save(cams, np.zeros((splits.train.n_frames, 3, 3), np.float16))
    stages = [
        ClassifierStage(Classifier(Tiny(), 3), config, splits, workers),
        LocalizerStage(Localizer(Classifier(Tiny(), 3)), config, splits, cams, workers),
    ]
    for stage in stages:
        layers = [layer for layer in stage.module.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert layers
        assert {isinstance(layer, SynchronizedBatchNorm2d) for layer in layers} == {setting and world > 1}
        assert {id(p) for group in stage.optimizer.param_groups for p in group["params"]} == {
            id(p) for p in stage.module.parameters() if p.requires_grad
        }
        stage.stream.close()
