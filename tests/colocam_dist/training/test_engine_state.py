"""State that is taken from one ZeRO stage and number of ranks and put back into others; steps that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from colocam_dist.config import load
from colocam_dist.config.machine import Engine
from colocam_dist.distributed import Workers, connect
from colocam_dist.errors import RunError
from colocam_dist.models.batch_norm import synchronize_batch_norm
from colocam_dist.progress import Position
from colocam_dist.training.engine import build_engine
from colocam_dist.training.engine_state import EngineState, learned_buffers
from colocam_dist.training.optimizer_step import LossModule, StepRunner
from colocam_dist.training.signals import StopRequests
from tests.colocam_dist.training.ranks import run_ranks

pytestmark = pytest.mark.patient

STATISTICS = [f"model.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
STAGES, WORLDS = (0, 1, 2, 3), (2, 1, 3)  # the first number of ranks makes the states that all put back
BEFORE, AFTER, FRAMES = 3, 3, 6
DECAY = 0.25  # the first three of six updates are still warming up


class Batch(NamedTuple):
    images: Tensor

    def to(self, device: torch.device) -> Batch:
        return self


class Net(LossModule):
    """A frozen and a learning part; sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        frozen = nn.Conv2d(3, 5, 3).requires_grad_(False)
        self.model = nn.Sequential(frozen, nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.Dropout(0.1))
        self.model.eval()
        self.epoch = self.step = 0
        self.terms = {}

    def forward(self, batch: Batch) -> Tensor:
        maps = self.model(batch.images)
        self.terms = {"mean": maps.detach().mean()}
        return maps.square().mean()


def batch_of(step: int, workers: Workers) -> Batch:
    images = torch.randn(FRAMES, 3, 9, 9, generator=torch.Generator().manual_seed(step))
    return Batch(images.chunk(workers.world)[workers.rank])


class Made(NamedTuple):
    state: EngineState
    runner: StepRunner
    module: Net


def make(zero: int, workers: Workers, ema_decay: float = DECAY, **engine: Any) -> Made:
    module = Net()
    if workers.world > 1 and engine.get("sync_batchnorm", True):
        synchronize_batch_norm(module)
    module.train()
    learning = [p for p in module.parameters() if p.requires_grad]
    groups = [{"params": learning[:1]}, {"params": learning[1:], "lr": 0.02}]  # as the classifier has
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    settings = Engine(zero_stage=zero, device="cpu", threads=1, **engine)
    state = EngineState(
        module,
        module.model,
        zero_stage=zero,
        workers=workers,
        synchronized=settings.sync_batchnorm,
        ema_decay=ema_decay,
    )
    state.engine = build_engine(module, optimizer, settings, workers, FRAMES // workers.world)
    return Made(state, StepRunner(state, module, settings, workers, StopRequests()), module)


def steps(made: Made, workers: Workers, numbers: range) -> list[float]:
    losses = []
    for number in numbers:
        made.module.step = number
        terms, _ = made.runner.micro(batch_of(number, workers), boundary=True)
        losses.append(float(terms["loss"]))
    return losses


def resumed(zero: int, workers: Workers, content: Any, dropout: float = 0.1) -> dict[str, Any]:
    made = make(zero, workers)
    made.module.model[-1].p = dropout
    made.state.put_back(content if workers.is_main else None)
    torch.manual_seed(7)
    losses = steps(made, workers, range(BEFORE, BEFORE + AFTER))
    return {"losses": losses, "content": made.state.gather()}


def spoil(workers: Workers, step: int, phase: str, rank: int) -> None:
    """Make NaN of what the rank computes in this phase of this step."""

    def strike(position: Position) -> str | None:
        return "nan" if (position.number, position.phase) == (step, phase) and workers.rank == rank else None

    workers.progress.on_enter = strike


def not_finite(zero: int, policy: str, phase: str, workers: Workers) -> dict[str, Any]:
    """Five steps, the third one spoiled on the last rank."""
    made = make(zero, workers, non_finite=policy, non_finite_limit=1)
    made.module.model[-1].p = 0.0  # a step that is left out does draw pixels
    spoil(workers, 3, phase, workers.world - 1)
    left_out = []
    try:
        for number in range(5):
            workers.progress.enter("data", step=number)
            made.module.step = number
            left_out.append(made.runner.micro(batch_of(number, workers), boundary=True)[1])
    except RunError as error:
        left_out.append(str(error))
    finally:
        workers.progress.on_enter = lambda position: None
    return {"left_out": left_out, "content": made.state.gather(), "skipped": made.runner.skipped}


def only(zero: int, workers: Workers, numbers: tuple[int, ...]) -> Any:
    made = make(zero, workers)
    made.module.model[-1].p = 0.0
    for number in numbers:
        steps(made, workers, range(number, number + 1))
    return made.state.gather()


def followed(zero: int, workers: Workers, **engine: Any) -> dict[str, Any]:
    """What an average is made of, before and after each step, and the average in the end."""
    made = make(zero, workers, **engine)
    path = [made.state.gather()]
    for number in range(BEFORE + 1):
        steps(made, workers, range(number, number + 1))
        path.append(made.state.gather())
    scored = {name: tensor.clone() for name, tensor in made.state.evaluation_model().state_dict().items()}
    return {"path": path, "scored": scored, "training": made.state.evaluation_model().training}


def _work(rank: int, world: int, folder: str) -> None:
    workers = connect(load(None, ["data.shards=x", "engine.device=cpu", "engine.threads=1"]).engine)
    kept: dict[str, Any] = {}
    place = Path(folder)
    if world == WORLDS[0]:
        for zero in STAGES:
            made = make(zero, workers)
            torch.manual_seed(7)
            steps(made, workers, range(BEFORE))
            content = made.state.gather()
            if workers.is_main:
                torch.save(content, place / f"content-{zero}.pt")
            torch.manual_seed(7)
            losses = steps(made, workers, range(BEFORE, BEFORE + AFTER))
            kept[f"whole-{zero}"] = {"losses": losses, "content": made.state.gather()}
            plain = make(zero, workers, ema_decay=0.0)
            steps(plain, workers, range(BEFORE))
            kept[f"plain-{zero}"] = plain.state.evaluation_model().state_dict()
            kept[f"followed-{zero}"] = followed(zero, workers)
        for zero in STAGES:
            for policy, phase in (("skip", "forward"), ("skip", "backward"), ("stop", "backward")):
                kept[f"{policy}-{phase}-{zero}"] = not_finite(zero, policy, phase, workers)
            kept[f"two-{zero}"] = only(zero, workers, (0, 1))
            kept[f"four-{zero}"] = only(zero, workers, (0, 1, 3, 4))
        kept["followed-unsynchronized"] = followed(0, workers, sync_batchnorm=False)
        made = make(0, workers, 0.0, sync_batchnorm=False)
        steps(made, workers, range(2))
        before = {name: buffer.clone() for name, buffer in learned_buffers(made.module).items()}
        scored = made.state.evaluation_model()
        kept["own"] = {"content": made.state.gather(), "scored": scored.state_dict(), "before": before}
        other = make(2, workers, 0.0, sync_batchnorm=False)
        other.state.put_back(kept["own"]["content"])
        kept["own"]["after"] = learned_buffers(other.module)
    workers.barrier()
    for zero in STAGES:
        for source in STAGES if world == WORLDS[0] else (0, 3):
            content = torch.load(place / f"content-{source}.pt", weights_only=True)
            if world == WORLDS[0]:
                kept[f"{source}-to-{zero}"] = resumed(zero, workers, content)
            # Dropout draws other pixels on other ranks.
            kept[f"{source}-to-{zero}-without-dropout"] = resumed(zero, workers, content, dropout=0.0)
    torch.save(kept, place / f"{world}.{rank}.pt")
    workers.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank kept, by the number of ranks."""
    folder = tmp_path_factory.mktemp("states")
    found = {}
    for world in WORLDS:
        run_ranks(_work, world, folder)
        found[world] = [torch.load(folder / f"{world}.{rank}.pt") for rank in range(world)]
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every tensor of two states is equal, bit for bit."""
    for kind in ("weights", "momentum"):
        assert one[kind].keys() == other[kind].keys()
        for name, tensor in one[kind].items():
            assert torch.equal(tensor, other[kind][name]), name
    for mine, its in zip(one["buffers"], other["buffers"], strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert one["average"]["updates"] == other["average"]["updates"]
    for name, tensor in one["average"]["tensors"].items():
        assert torch.equal(tensor, other["average"]["tensors"][name]), name


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the first of them starts all processes
@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("source", STAGES)
def test_on_the_same_ranks_any_stage_goes_on_bit_for_bit(results: Any, source: int, zero: int) -> None:
    here = results[WORLDS[0]]
    whole, went_on = here[0][f"whole-{zero}"], here[0][f"{source}-to-{zero}"]
    assert went_on["losses"] == whole["losses"]
    assert_same(went_on["content"], whole["content"])
    assert [rank[f"{source}-to-{zero}"]["losses"] for rank in here] == [whole["losses"]] * WORLDS[0]


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("source", [0, 3])
@pytest.mark.parametrize("world", WORLDS[1:])
def test_other_numbers_of_ranks_go_on_with_the_same_losses(results: Any, world: int, source: int, zero: int) -> None:
    name = f"{source}-to-{zero}-without-dropout"
    went_on, reference = results[world][0][name], results[WORLDS[0]][0][name]
    assert went_on["losses"] == pytest.approx(reference["losses"], rel=1e-6)
    for kind in ("weights", "momentum"):
        for tensor, other in zip(went_on["content"][kind].values(), reference["content"][kind].values(), strict=True):
            assert (tensor - other).norm() < 1e-5 * other.norm()
    averages = (result["content"]["average"]["tensors"] for result in (went_on, reference))
    for tensor, other in zip(*(average.values() for average in averages), strict=True):
        assert (tensor - other).float().norm() <= 1e-5 * other.float().norm()


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
def test_the_model_to_score_has_the_present_weights_on_every_rank(results: Any, zero: int) -> None:
    for rank in results[WORLDS[0]]:
        for name, tensor in rank[f"plain-{zero}"].items():
            assert torch.equal(tensor, results[WORLDS[0]][0]["plain-0"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("way", [*STAGES, "unsynchronized"])
def test_the_average_is_that_of_a_loop_by_hand_on_every_rank(results: Any, way: int | str) -> None:
    here = [rank[f"followed-{way}"] for rank in results[WORLDS[0]]]
    path = [
        content["weights"] | {name: torch.stack([each[name] for each in content["buffers"]]) for name in STATISTICS}
        for content in here[0]["path"]
    ]
    found = here[0]["path"][-1]["average"]
    assert found["updates"] == BEFORE + 1
    assert {f"model.{name}" for name in found["tensors"]} == path[0].keys()
    for name, tensor in found["tensors"].items():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == BEFORE + 1
            continue
        values = [content[f"model.{name}"].double() for content in path]
        if f"model.{name}" in STATISTICS:
            assert way == "unsynchronized" or all(len(value) == 1 for value in values)
            values = [value.mean(0) for value in values]
        average = values[0]
        for updates, value in enumerate(values[1:]):
            decay = min(DECAY, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * value
        assert (tensor - average).norm() <= 1e-6 * average.norm(), name
        assert (tensor - values[-1]).norm() > 1e-4 * average.norm(), "not the present weights"
        for rank in here:
            assert torch.equal(rank["scored"][name], tensor), name
            assert not rank["training"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_step_that_is_not_finite_is_as_if_it_had_never_been(results: Any, zero: int, phase: str) -> None:
    here = results[WORLDS[0]]
    spoiled = here[0][f"skip-{phase}-{zero}"]
    assert [rank[f"skip-{phase}-{zero}"]["left_out"] for rank in here] == [[False, False, True, False, False]] * 2
    assert spoiled["skipped"] == 1
    for kind in ("weights", "momentum"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in spoiled["content"][kind].values())
    assert_same(spoiled["content"], here[0][f"four-{zero}"])


@pytest.mark.slow
@pytest.mark.parametrize("zero", STAGES)
def test_a_step_that_is_not_finite_stops_all_ranks_before_it_is_taken(results: Any, zero: int) -> None:
    here = results[WORLDS[0]]
    for rank in here:
        *before, told = rank[f"stop-backward-{zero}"]["left_out"]
        assert before == [False, False]
        assert "the gradients are not finite" in told
        assert "step 3" in told
    for kind in ("weights", "momentum"):
        for name, tensor in here[0][f"two-{zero}"][kind].items():
            assert torch.equal(tensor, here[0][f"stop-backward-{zero}"]["content"][kind][name])


@pytest.mark.slow
def test_statistics_of_each_rank_stay_its_own_unless_they_are_scored(results: Any) -> None:
    first, second = (rank["own"] for rank in results[WORLDS[0]])
    name = "model.1.running_mean"
    assert not torch.equal(first["before"][name], second["before"][name])
    for rank in (first, second):
        assert torch.equal(rank["after"][name], rank["before"][name])
        mean = (first["before"][name] + second["before"][name]) / 2
        assert torch.allclose(rank["scored"]["1.running_mean"], mean, rtol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An engine on one rank without processes around it."""
    workers = Workers(0, 0, 1, torch.device("cpu"))
    module = Net().train()
    learning = [p for p in module.parameters() if p.requires_grad]
    state = EngineState(module, module.model, zero_stage=0, workers=workers, synchronized=True)

    class Plain:
        torch_autocast_z0_gradscaler = None
        optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9)

    state.engine = Plain()
    return Made(state, None, module)  # type: ignore[arg-type]


def test_what_is_gathered_needs_no_pickle_and_is_no_view(alone: Made, tmp_path: Path) -> None:
    content = alone.state.gather()
    assert content is not None
    torch.save(content, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    learning = 5 + 5 + 7 * 5 * 9 + 7
    assert alone.state.bytes == 4 * 2 * learning + 4 * (5 + 5) + 8
    assert again["momentum"] is None, "before the first step there is none"
    assert set(again["weights"]) == {"model.1.weight", "model.1.bias", "model.3.weight", "model.3.bias"}
    assert set(again["buffers"][0]) == {f"model.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    before = content["weights"]["model.3.bias"].clone()
    with torch.no_grad():
        dict(alone.module.named_parameters())["model.3.bias"].add_(1)
    assert torch.equal(content["weights"]["model.3.bias"], before)
    alone.state.put_back(content)
    assert torch.equal(dict(alone.module.named_parameters())["model.3.bias"], before)
    assert "average" not in content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda content: content["weights"].pop("model.3.bias"),
            r"model.3.bias: absent in the checkpoint, \(7,\) here",
        ),
        (lambda content: content["weights"].update(x=torch.zeros(2)), r"x: \(2,\) in the checkpoint, absent here"),
        (lambda content: content.update(frozen_sha256="0"), "the frozen weights are others"),
        (lambda content: content.update(average={}), "an average of the weights is kept either there or here"),
    ],
)
def test_the_state_of_another_model_is_refused(alone: Made, change: Any, told: str) -> None:
    content = alone.state.gather()
    change(content)
    with pytest.raises(RunError, match=told):
        alone.state.put_back(content)
