"""BatchNorm whose statistics in training are those of all ranks, so that the number of ranks does not change them.

Shape suffixes: B frames of this rank, C channels, H and W the size of a feature map, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm as OnGpu  # what nn.SyncBatchNorm calls

from colocam_dist.errors import ConfigError

__all__ = ["SynchronizedBatchNorm2d", "synchronize_batch_norm"]

FUSED = ["drop", "act"]  # what timm's BatchNormAct2d applies after the normalization, in this order


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every ``nn.BatchNorm2d`` by a :class:`SynchronizedBatchNorm2d` with the same parameters and buffers.

    Args:
        module: changed in place, unless it is itself the layer to replace.

    Returns:
        The module, or what replaces it. Names of parameters and buffers stay the same.

    Raises:
        ConfigError: a layer computes something else than BatchNorm, so that it cannot be replaced.
    """
    if isinstance(module, nn.BatchNorm2d):
        return _synchronized(module)
    for name, child in module.named_children():
        module.add_module(name, synchronize_batch_norm(child))
    return module


def _synchronized(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    plain = type(layer) in (nn.BatchNorm2d, SynchronizedBatchNorm2d)
    plain |= [name for name, _ in layer.named_children()] == FUSED
    if not (plain and layer.affine and layer.track_running_stats):
        raise ConfigError(
            "a BatchNorm layer of the model cannot be synchronized",
            where="engine.sync_batchnorm",
            got=f"{type(layer).__name__}({layer.extra_repr()})",
            wanted="layers that compute what nn.BatchNorm2d does, with weights and running statistics",
            fix="use engine.sync_batchnorm=false",
        )
    twin = SynchronizedBatchNorm2d(layer.num_features)
    twin.__dict__.update(layer.__dict__)  # settings, parameters, buffers, submodules, hooks, mode
    return twin


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the frames of all ranks of the default process group, however many (>= 1) each has.

    Mean and variance are gathered once in the forward pass, and the two sums that their gradients need once in the
    backward pass. Gradients of weight and bias are those of the rank's own loss, for DeepSpeed to average. Running
    statistics are the same bits on all ranks. In eval mode, and where there is only one rank, it is ``nn.BatchNorm2d``.
    On a GPU torch's own kernels do it (``nn.SyncBatchNorm``), which do not run on a CPU.

    Submodules, if there are any, are applied to the result in their order.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalized maps ``[B, C, H, W]``, of the dtype of ``x_BCHW``; statistics have that of the weights.

        Collective in training mode.
        """
        ranks = dist.get_world_size() if self.training and dist.is_initialized() else 1
        y_BCHW = super().forward(x_BCHW) if ranks == 1 else self._over_ranks(x_BCHW, ranks)
        for fused in self.children():
            y_BCHW = fused(y_BCHW)
        return y_BCHW

    def _over_ranks(self, x_BCHW: Tensor, ranks: int) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self._check_input_dim(x_BCHW)
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        if x_BCHW.is_cuda:
            running = (self.running_mean, self.running_var)
            return OnGpu.apply(x_BCHW, self.weight, self.bias, *running, self.eps, share, dist.group.WORLD, ranks)
        mean_C, var_C, count = _statistics(x_BCHW.detach(), self.weight.dtype, ranks)
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, share)
            self.running_var.lerp_(var_C * (count / (count - 1.0)), share)
        return _Normalize.apply(x_BCHW, self.weight, self.bias, mean_C, var_C, count, self.eps)


def _statistics(x_BCHW: Tensor, dtype: torch.dtype, ranks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of all ranks' maps in ``dtype``, and the float64 number of values in each.

    Values are summed around a near mean, so no digits are lost where the mean is large.
    """
    own = x_BCHW.numel() // x_BCHW.shape[1]
    near_C = x_BCHW.sum((0, 2, 3), dtype=dtype) / own
    rest_BCHW = x_BCHW - near_C[:, None, None]
    rest_C = rest_BCHW.sum((0, 2, 3)).double() / own
    squares_C = rest_BCHW.square_().sum((0, 2, 3)).double() - own * rest_C.square()
    mine = torch.cat([near_C + rest_C, squares_C, squares_C.new_full((1,), own)])
    everyone = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(everyone, mine)
    means_RC, squares_RC, counts_R1 = torch.stack(everyone).tensor_split([len(near_C), 2 * len(near_C)], dim=1)
    count = counts_R1.sum()
    mean_C = (counts_R1 * means_RC).sum(0) / count
    var_C = (squares_RC + counts_R1 * (means_RC - mean_C).square()).sum(0) / count
    return mean_C.to(dtype), var_C.to(dtype), count


class _Normalize(torch.autograd.Function):
    """``weight * (x - mean) / sqrt(var + eps) + bias``, where mean and var are functions of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, var_C, count)
        return functional.batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved_BCHW, weight_C, mean_C, var_C, count = ctx.saved_tensors
        dy_BCHW, x_BCHW = (each_BCHW.to(var_C.dtype) for each_BCHW in (*gradients, saved_BCHW))
        # As if mean and variance were constants; their part of the gradient follows from the same sums of all ranks.
        dx_BCHW, dweight_C, dbias_C = torch.ops.aten.native_batch_norm_backward(
            dy_BCHW, x_BCHW, weight_C, mean_C, var_C, None, None, False, ctx.eps, [True, True, True]
        )
        sums_2C = torch.stack([dweight_C, dbias_C]).double()
        dist.all_reduce(sums_2C)
        mean_dweight_C, mean_dbias_C = sums_2C / count
        scale_C = (var_C.double() + ctx.eps).rsqrt()
        slope_C = -weight_C * scale_C.square() * mean_dweight_C
        shift_C = -weight_C * scale_C * mean_dbias_C - slope_C * mean_C
        slope_C11, shift_C11 = (each_C.to(var_C.dtype)[:, None, None] for each_C in (slope_C, shift_C))
        dx_BCHW.addcmul_(x_BCHW, slope_C11).add_(shift_C11)
        return dx_BCHW.to(saved_BCHW.dtype), dweight_C, dbias_C, None, None, None, None
