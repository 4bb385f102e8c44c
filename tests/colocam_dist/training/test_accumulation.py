"""Steps over several micro-batches are those of plain torch, at every ZeRO stage; with gloo processes and DeepSpeed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from colocam_dist.config import load
from colocam_dist.distributed import Workers, connect
from tests.colocam_dist.training.ranks import run_ranks
from tests.colocam_dist.training.test_acceleration import STAGES, Made, build
from tests.colocam_dist.training.test_number_of_ranks import SETTINGS, largest_difference, part

pytestmark = [pytest.mark.slow, pytest.mark.patient]

STEPS = 4  # of which the last two follow a checkpoint
WAYS = [(1, 0, 3), (1, 1, 2), (1, 2, 3), (1, 3, 2), (2, 0, 2), (2, 2, 2)]  # ranks, ZeRO stage, micro-batches of a step


def steps(made: Made, numbers: range, parts: int) -> list[dict[str, float]]:
    """What is reported of each micro-batch."""
    reported = []
    for number in numbers:
        for micro in range(parts):
            made.module.step = number
            terms, left_out = made.runner.micro(part(parts * number + micro, made.mine), boundary=micro + 1 == parts)
            assert not left_out
            reported.append({name: float(value) for name, value in terms.items()})
    return reported


def accumulated(stage: str, zero: int, parts: int, workers: Workers) -> dict[str, Any]:
    """By our engine, with a checkpoint half-way that another engine goes on from."""
    settings = (f"engine.accumulation={parts}",)
    first = Made(stage, zero, settings, workers)
    reported = steps(first, range(STEPS // 2), parts)
    content = first.state.gather()
    second = Made(stage, zero, settings, workers)
    second.state.put_back(content)
    reported += steps(second, range(STEPS // 2, STEPS), parts)
    content = second.state.gather()
    return {"reported": reported, "weights": content["weights"] if content else None}


@functools.cache
def plain(stage: str, parts: int) -> dict[str, Any]:
    """By torch alone: the gradient of the mean of the micro-batches' losses."""
    _, module, optimizer = build(stage, load(None, SETTINGS), Workers(0, 0, 1, torch.device("cpu")))
    reported = []
    for number in range(STEPS):
        for micro in range(parts):
            module.step = number
            loss = module(part(parts * number + micro, slice(None)))
            (loss / parts).backward()
            values = {"loss": loss.detach(), **module.terms}
            reported.append({name: float(value) for name, value in values.items()})
        optimizer.step()
        optimizer.zero_grad()
    return {"reported": reported, "weights": module.state_dict()}


def _work(rank: int, world: int, folder: str) -> None:
    workers = connect(load(None, SETTINGS).engine)
    found = {(way, stage): accumulated(stage, *way[1:], workers) for way in WAYS if way[0] == world for stage in STAGES}
    torch.save(found, f"{folder}/{world}.{rank}.pt")
    workers.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    folder, everything = tmp_path_factory.mktemp("accumulated"), {}
    for world in (1, 2):
        run_ranks(_work, world, folder)
        everything |= torch.load(Path(folder) / f"{world}.0.pt")
    return everything


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-zero{way[1]}-{way[2]}")
def test_a_step_over_several_micro_batches_is_that_of_plain_torch(found: Any, way: Any, stage: str) -> None:
    here, there = found[way, stage], plain(stage, way[2])
    assert largest_difference(here["reported"], there["reported"]) < 1e-5
    for name, tensor in here["weights"].items():
        want = there["weights"][name]
        assert (tensor - want).norm() <= 1e-5 * want.norm(), name
