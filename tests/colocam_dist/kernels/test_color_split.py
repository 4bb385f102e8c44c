"""A window whose frames lie on several ranks, with gloo processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from colocam_dist.kernels import color_affinity

PARTS = {1: [3], 2: [2, 1], 3: [1, 0, 2]}  # frames per rank: uneven, and one rank with none


def _work(rank: int, world: int, folder: str, backend: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    data = torch.load(f"{folder}/data.pt")
    first = sum(PARTS[world][:rank])
    mine = slice(first, first + PARTS[world][rank])
    mask = data["mask"][mine]
    fg = data["fg"][mine].clone().requires_grad_()
    value, total = color_affinity(fg, data["frames"][mine], backend=backend, mask=mask, process_group=dist.group.WORLD)
    (gradient,) = torch.autograd.grad(0.7 * value, fg)
    # The same through a network that DDP trains: gradients are averaged there.
    network = nn.Conv2d(3, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
    trained = nn.parallel.DistributedDataParallel(network)
    maps = trained(data["frames"][mine].double() / 255.0)[:, 0].sigmoid()
    loss, _ = color_affinity(
        maps, data["frames"][mine], mask=mask, process_group=dist.group.WORLD, averaged=True, validate=False
    )
    (loss / 1e6).backward()
    result = {"value": value.detach(), "total": total, "gradient": gradient, "weight": network.weight.grad}
    torch.save(result, f"{folder}/{world}.{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("backend", ["histogram", "mixed"])
def test_split_windows_equal_whole_ones(backend: str, natural: Tensor, soft: Tensor, tmp_path: Path) -> None:
    frames, fg, mask = natural[:, :, ::2, ::2], soft[:, ::2, ::2], torch.tensor([True, True, False])
    torch.save({"frames": frames, "fg": fg, "mask": mask}, tmp_path / "data.pt")
    results: dict[int, list[dict[str, Any]]] = {}
    for world in PARTS:
        mp.start_processes(_work, (world, str(tmp_path), backend), nprocs=world, start_method="spawn")
        results[world] = [torch.load(tmp_path / f"{world}.{rank}.pt") for rank in range(world)]
    leaf = fg.clone().requires_grad_()
    value, total = color_affinity(leaf, frames, backend=backend, mask=mask)
    (gradient,) = torch.autograd.grad(0.7 * value, leaf)
    for ranks in results.values():
        assert all(torch.equal(rank["value"], ranks[0]["value"]) for rank in ranks)
        assert all(torch.equal(rank["total"], ranks[0]["total"]) for rank in ranks)
        assert torch.allclose(ranks[0]["value"], value.detach(), rtol=2e-6)
        assert torch.allclose(ranks[0]["total"], total, rtol=2e-6)
        together = torch.cat([rank["gradient"] for rank in ranks])
        assert float((together - gradient).norm() / gradient.norm()) < 2e-6
        assert torch.allclose(ranks[0]["weight"], results[1][0]["weight"], rtol=1e-9)


def test_forms_without_a_core_cannot_be_split(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="no core to prepare or to sum"):
            color_affinity(
                torch.rand(1, 4, 4),
                torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
                backend="exact",
                process_group=dist.group.WORLD,
            )
    finally:
        dist.destroy_process_group()
