"""Floating-point operations and memory traffic of a network, and the rates that GPUs can reach at most.

Counted are convolutions and matrix products, two operations for a multiplication with its addition. Everything that
works element by element (BatchNorm, ReLU, resizing; 0.2 % of ResNet-50) and the affinity operators are not.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

__all__ = ["Peak", "count_bytes", "count_flops", "peak_of"]


def count_flops(model: nn.Module, images: int, size: int, *, backward: bool) -> int:
    """Operations of a pass over a batch, without computing it: on torch's meta device, with batch-norm in eval mode.

    Args:
        model: takes uint8 images ``[B, 3, H, W]`` and returns tensors, perhaps nested in tuples and lists. As it was
            when this returns.
        images: B.
        size: H and W in pixels.
        backward: also the gradients of all parameters that ask for one.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    _pass(model, images, size, backward, counter)
    return counter.get_total_flops()


def count_bytes(model: nn.Module, images: int, size: int, *, backward: bool) -> int:
    """Bytes that the operators of a pass read and write, in float32 and one by one, as torch does without compiling.

    The arguments are those of :func:`count_flops`. BatchNorm in training reads its input once more than is counted.
    """
    counter = _Traffic()
    _pass(model, images, size, backward, counter)
    return counter.bytes


def _pass(model: nn.Module, images: int, size: int, backward: bool, counter: AbstractContextManager[Any]) -> None:
    shapes = {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()  # neither collectives of BatchNorm over ranks nor changed statistics
        with torch.enable_grad(), counter:
            batch_BCHW = torch.empty(images, 3, size, size, dtype=torch.uint8, device="meta")
            output = torch.func.functional_call(model, shapes, (batch_BCHW,))
            learning = [tensor.sum() for tensor in _tensors(output) if tensor.requires_grad]
            if backward and learning:
                torch.stack(learning).sum().backward()
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Traffic(TorchDispatchMode):
    """Adds up the sizes of what operators are given and return, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            moved = (*tree_leaves(args), *tree_leaves(kwargs), *tree_leaves(result))
            self.bytes += sum(each.numel() * each.itemsize for each in moved if isinstance(each, Tensor))
        return result


def _gradients_of_convolution(y_shape: Any, x_shape: Any, w_shape: Any, *rest: Any, **more: Any) -> int:
    """Each of the two gradients costs what the forward pass does. Torch's own formula takes no account of groups."""
    transposed, wanted = rest[-4], rest[-1]
    return sum(wanted[:2]) * conv_flop_count(x_shape, w_shape, y_shape, transposed=transposed)


_FORMULAS = {torch.ops.aten.convolution_backward: _gradients_of_convolution}


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [] if output is None else [tensor for part in output for tensor in _tensors(part)]


class Peak(NamedTuple):
    """Dense rates in TFLOP/s; None where the GPU lacks the format. fp16 and bf16 sum in fp32."""

    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float


# From NVIDIA's data sheets and architecture white papers; where they print rates "with sparsity", half of them.
PEAKS = {
    r"H200 NVL": Peak(60.0, 417.5, 835.5, 835.5),
    r"H200": Peak(66.9, 494.7, 989.4, 989.4),
    r"GH200": Peak(66.9, 494.7, 989.4, 989.4),
    r"H100 NVL": Peak(60.0, 417.5, 835.5, 835.5),
    r"H100 PCIe": Peak(51.0, 378.0, 756.0, 756.0),
    r"H100": Peak(66.9, 494.7, 989.4, 989.4),
    r"A100": Peak(19.5, 156.0, 312.0, 312.0),
    r"L40S": Peak(91.6, 183.0, 362.0, 362.0),
    r"L4": Peak(30.3, 60.0, 121.0, 121.0),
    r"A10": Peak(31.2, 62.5, 125.0, 125.0),
    r"RTX 4090": Peak(82.6, 82.6, 165.2, 165.2),
    r"RTX 3090": Peak(35.6, 35.6, 71.0, 71.0),
    r"V100-PCIE": Peak(14.0, None, None, 112.0),
    r"V100": Peak(15.7, None, None, 125.0),
    r"T4": Peak(8.1, None, None, 65.0),
}
_OTHER = re.compile(r"\b(MIG|Laptop|Ti|D|Max-Q)\b")  # parts of a GPU, or others with nearly the same name


def peak_of(gpu: str, precision: str, *, tf32: bool) -> tuple[float | None, str]:
    """The rate of a GPU in FLOP/s, and where it is from, or why there is none.

    Args:
        gpu: as ``torch.cuda.get_device_name()`` says it.
        precision: fp32, bf16 or fp16.
        tf32: fp32 convolutions may use TF32.
    """
    found = next((name for name in PEAKS if re.search(rf"(?<![\w]){name}(?!\w)", gpu)), None)
    if found is None or _OTHER.search(gpu):
        return None, f"no peak rate is known for {gpu}"
    peak = PEAKS[found]
    kind = "tf32" if precision == "fp32" and tf32 and peak.tf32 is not None else precision
    rate = getattr(peak, kind)
    if rate is None:
        return None, f"{gpu} has no {kind}"
    return 1e12 * rate, f"{rate:g} TFLOP/s, dense {kind}, {found}"
