from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from colocam_dist.errors import ConfigError
from colocam_dist.models import Classifier, Localizer, build_encoder
from colocam_dist.models.batch_norm import SynchronizedBatchNorm2d, synchronize_batch_norm

pytestmark = pytest.mark.patient

PARTS = {2: [4, 2], 3: [1, 3, 2]}  # frames per rank
CASES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "far from 0": torch.float32,
    "cumulative": torch.float64,
    "copied": torch.float64,
    "autocast": torch.float32,
}


def layer(case: str) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(5, eps=1e-3, momentum=None if case == "cumulative" else 0.3, dtype=CASES[case])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        made.weight.uniform_(0.5, 1.5, generator=generator)
        made.bias.normal_(generator=generator)
    return made


def pixels(case: str, step: int) -> tuple[Tensor, Tensor]:
    """Input of six frames, and the gradient of the loss at the output."""
    generator = torch.Generator().manual_seed(step)
    scale_C11 = torch.tensor([0.01, 1.0, 3.0, 0.2, 30.0])[:, None, None]
    x_BCHW = scale_C11 * torch.randn(6, 5, 7, 9, generator=generator) + 0.5
    if case == "far from 0":
        x_BCHW += 100.0 * scale_C11
    gradient_BCHW = torch.randn(6, 5, 7, 9, generator=generator) + 0.3 * x_BCHW / scale_C11
    dtype = torch.bfloat16 if case == "autocast" else CASES[case]
    return x_BCHW.to(dtype), gradient_BCHW.to(dtype)


def train(module: nn.Module, case: str, mine: slice, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Two training steps without an optimizer; results of the second, and what both left behind."""
    result: dict[str, Tensor] = {}
    for step in range(2):
        module.zero_grad()
        x_BCHW, gradient_BCHW = (each[mine].to(dtype or each.dtype) for each in pixels(case, step))
        x_BCHW.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            y_BCHW = module(x_BCHW)
        y_BCHW.backward(gradient_BCHW)
        assert x_BCHW.grad is not None
        result = {"output": y_BCHW.detach(), "input": x_BCHW.grad}
    result |= {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return result | dict(module.named_buffers())


def _work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    first = sum(PARTS[world][:rank])
    results = {}
    for case in CASES:
        module = synchronize_batch_norm(layer(case))
        if case == "copied":
            module = copy.deepcopy(module)
        results[case] = train(module, case, slice(first, first + PARTS[world][rank]))
    torch.save(results, f"{folder}/{world}.{rank}.pt")
    dist.destroy_process_group()


def together(ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the ranks did, as if it were one batch; gradients of weights are summed."""
    merged = {name: torch.cat([rank[name] for rank in ranks]) for name in ("output", "input")}
    merged |= {name: sum((rank[name] for rank in ranks), torch.zeros(())) for name in ("weight", "bias")}
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
        merged[name] = ranks[0][name]
    return merged


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


@pytest.mark.slow
def test_ranks_together_equal_one_process(tmp_path: Path) -> None:
    everything = slice(0, 6)
    for world in PARTS:
        mp.start_processes(_work, (world, str(tmp_path)), nprocs=world, start_method="spawn")
        results: list[dict[str, Any]] = [torch.load(tmp_path / f"{world}.{rank}.pt") for rank in range(world)]
        for case in CASES:
            got = together([rank[case] for rank in results])
            alone = train(layer(case), case, everything)
            truth = train(layer(case).double(), case, everything, torch.float64) if case != "autocast" else alone
            for name, want in truth.items():
                assert got[name].dtype == alone[name].dtype
                # 100 standard deviations from 0 cost two digits, in one process too.
                rounding = {torch.float64: 1e-10}.get(CASES[case], 1e-6)
                rounding = {"far from 0": 1e-5, "autocast": 2**-8}.get(case, rounding)
                limit = max(rounding, 1.5 * error(alone[name], want))
                assert error(got[name], want) < limit, (world, case, name)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_one_process_is_bit_identical(case: str, group: bool, tmp_path: Path) -> None:
    if group:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        plain, synchronized = layer(case), synchronize_batch_norm(layer(case))
        assert isinstance(synchronized, SynchronizedBatchNorm2d)
        want, got = train(plain, case, slice(0, 6)), train(synchronized, case, slice(0, 6))
    finally:
        if group:
            dist.destroy_process_group()
    assert all(torch.equal(got[name], want[name]) for name in want)
    x_BCHW = pixels(case, 9)[0]
    assert torch.equal(plain.eval()(x_BCHW), synchronized.eval()(x_BCHW))


def test_all_layers_are_replaced_and_the_state_keeps_its_names() -> None:
    localizer = Localizer(Classifier(build_encoder("resnet18"), 3))
    parameters = list(localizer.parameters())
    plain = copy.deepcopy(localizer)
    assert synchronize_batch_norm(localizer) is localizer
    kinds = [type(module) for module in localizer.modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(kinds) == {SynchronizedBatchNorm2d}
    assert len(kinds) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert all(new is old for new, old in zip(localizer.parameters(), parameters, strict=True))
    assert not any(module.training for module in localizer.classifier.modules())
    assert localizer.state_dict().keys() == plain.state_dict().keys()
    for tensor in localizer.state_dict().values():
        tensor.add_(1)
    plain.load_state_dict(localizer.state_dict())
    assert all(torch.equal(tensor, localizer.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_hooks_stay() -> None:
    seen: list[str] = []
    plain = layer("float32")
    plain.register_forward_hook(lambda *_: seen.append("hook"))
    synchronize_batch_norm(plain)(pixels("float32", 0)[0])
    assert seen == ["hook"]


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra `timm`")
def test_activations_that_timm_fuses_with_the_layer_stay(images: Any) -> None:
    plain = build_encoder("timm:efficientnet_lite0")
    twin = synchronize_batch_norm(copy.deepcopy(plain))
    changed = [module for module in twin.modules() if type(module) is SynchronizedBatchNorm2d]
    assert any(isinstance(module.act, nn.ReLU6) for module in changed)
    x_BCHW = plain.normalize(images(2, 65))
    for module in (plain, twin):
        torch.manual_seed(0)
        module.train()
    torch.manual_seed(0)
    want = plain(x_BCHW)
    torch.manual_seed(0)
    got = twin(x_BCHW)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


class Other(nn.BatchNorm2d):
    """Computes who knows what."""


@pytest.mark.parametrize(
    "strange", [Other(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)]
)
def test_layers_that_cannot_be_replaced_are_refused(strange: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"cannot be synchronized(.|\n)*sync_batchnorm=false"):
        synchronize_batch_norm(nn.Sequential(nn.Sequential(strange)))
