"""Windows whose frames lie on several ranks train what whole windows do; with gloo processes, two groups of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from colocam_dist.distributed import Workers
from colocam_dist.losses import (
    ColocalizationSettings,
    Counts,
    FrameCrfSettings,
    LocalizationLoss,
    LossSettings,
    PresenceSettings,
    WindowGroup,
    frame_weights,
)

pytestmark = pytest.mark.patient

WORLD, SIZE, WINDOWS, FRAMES = 4, 2, 4, 4
WAYS = {
    "adaptive": (ColocalizationSettings(2.0, backend="histogram"), PresenceSettings()),
    "constant": (ColocalizationSettings(3e-7, mode="constant", backend="mixed"), PresenceSettings()),
    "paper": (ColocalizationSettings(2.0, normalizer="paper", backend="histogram"), PresenceSettings()),
    "present": (ColocalizationSettings(2.0, backend="histogram"), PresenceSettings("weight", True, threshold=0.4)),
}


def example() -> dict[str, torch.Tensor]:
    """Windows with 4, 2, 2 and 1 valid frames; the two of the third lie on one rank."""
    generator = torch.Generator().manual_seed(4)
    shape = (WINDOWS, FRAMES)
    coarse = torch.rand(WINDOWS * FRAMES, 3, 4, 4, generator=generator)
    images = (255 * F.interpolate(coarse, (19, 23), mode="bilinear")).byte()
    valid = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    return {
        "logits": 2 * torch.randn(*shape, 2, 19, 23, generator=generator),
        "images": images.unflatten(0, shape),
        "seeds": torch.tensor([-255, -255, 0, 1])[torch.randint(4, (*shape, 19, 23), generator=generator)],
        "mask": torch.tensor(valid).bool(),
        "probability": torch.rand(*shape, generator=generator),
    }


def run(name: str, data: dict[str, torch.Tensor], workers: Workers, group: WindowGroup | None) -> dict[str, Any]:
    coloc, presence = WAYS[name]
    loss = LocalizationLoss(LossSettings(frame_crf=FrameCrfSettings(1e-6, sigma_xy=9.0), colocalization=coloc), group)
    largest = None if group is None else group.largest
    mask = frame_weights(data["probability"], data["mask"], presence, largest)
    counts = Counts.of(data["seeds"], mask, workers.sum, workers.world, group)
    logits = data["logits"].clone().requires_grad_()
    total, terms = loss(logits, data["images"], data["seeds"], mask, 3, None, counts)
    total.backward()
    reported = {"total": total.detach()} | terms
    gradient = logits.grad
    assert gradient is not None
    # As DeepSpeed averages gradients and the trainer what is reported.
    mean = {key: float(workers.sum(value.clone())) / workers.world for key, value in reported.items()}
    return {"mean": mean, "gradient": gradient / workers.world, "frames": counts.frames_W}


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    workers = Workers(rank, rank, WORLD, torch.device("cpu"))
    group = WindowGroup(workers.group(SIZE), SIZE)
    number, part = divmod(rank, SIZE)
    mine = slice(number * WINDOWS // 2, (number + 1) * WINDOWS // 2)
    data = {key: tensor[mine, part::SIZE] for key, tensor in example().items()}
    torch.save({name: run(name, data, workers, group) for name in WAYS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("groups")
    mp.start_processes(_work, (str(folder),), nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_split_windows_have_the_loss_and_gradient_of_whole_ones(results: Any, name: str) -> None:
    want = run(name, example(), Workers(0, 0, 1, torch.device("cpu")), None)
    for rank in results:
        assert rank[name]["mean"] == results[0][name]["mean"]
    for key, value in want["mean"].items():
        assert results[0][name]["mean"][key] == pytest.approx(value, rel=1e-6), key
    together = torch.empty_like(want["gradient"])
    frames = torch.empty_like(want["frames"])
    for rank, result in enumerate(results):
        number, part = divmod(rank, SIZE)
        mine = slice(number * WINDOWS // 2, (number + 1) * WINDOWS // 2)
        together[mine, part::SIZE] = result[name]["gradient"]
        frames[mine] = result[name]["frames"]
    assert frames.tolist() == want["frames"].tolist()
    assert (together - want["gradient"]).norm() < 2e-6 * want["gradient"].norm()


def test_a_group_needs_counts_over_all_ranks() -> None:
    data, group = example(), WindowGroup(None, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with a group wanted counts over all ranks"):
        LocalizationLoss(LossSettings(), group)(data["logits"], data["images"], data["seeds"], data["mask"], 1)
