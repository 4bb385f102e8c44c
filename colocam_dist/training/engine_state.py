"""The state of a DeepSpeed engine as whole tensors by name, whatever ZeRO stage and number of ranks it has.

DeepSpeed's own checkpoints are tied to the ZeRO stage and the number of ranks, are pickles, and cannot be converted for
SGD with momentum. Here rank 0 gets every trainable weight and its momentum in full, so that one file without pickles
fits every stage and any number of ranks, and every other rank is given its part again when the state is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from colocam_dist.distributed import Workers
from colocam_dist.errors import RunError
from colocam_dist.runs.weights import state_sha256
from colocam_dist.training.weight_average import WeightAverage

__all__ = ["EngineState", "learned_buffers"]

_MOMENTUM = "momentum_buffer"


def learned_buffers(module: nn.Module) -> dict[str, Tensor]:
    """What training changes besides parameters: the saved buffers of the layers in training mode (BatchNorm's)."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, layer in module.named_modules()
        if layer.training
        for name, buffer in layer.named_buffers(recurse=False)
        if name not in layer._non_persistent_buffers_set
    }


class EngineState:
    """Takes an engine's state apart and puts it back; all methods are collective.

    Make it before the engine: ZeRO 3 takes the weights out of the module.

    Args:
        module: in training mode, on the device.
        model: the part of ``module`` that is evaluated and saved as plain weights.
        zero_stage: 0 to 3.
        workers: the ranks.
        synchronized: BatchNorm has the same statistics on all ranks.
        ema_decay: of the average of the weights, which is then the model to score; 0 = none is kept.

    Attributes:
        engine: set it as soon as it is there.
        bytes: about how much :meth:`gather` takes, with momentum.
        average: of the weights, None = none is kept.
    """

    engine: Any

    def __init__(
        self,
        module: nn.Module,
        model: nn.Module,
        *,
        zero_stage: int,
        workers: Workers,
        synchronized: bool,
        ema_decay: float = 0.0,
    ) -> None:
        self._module, self._model = module, model
        self._stage = zero_stage
        self._workers = workers
        self._synchronized = synchronized or workers.world == 1
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._buffers = learned_buffers(module)
        statistics = sum(buffer.nbytes for buffer in self._buffers.values())
        self.bytes = 2 * sum(p.nbytes for p in self._parameters.values())
        self.bytes += statistics * (1 if self._synchronized else workers.world)
        moving = self._parameters.keys() | self._buffers.keys()
        self._frozen = state_sha256({n: t for n, t in module.state_dict().items() if n not in moving})
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._learned = learning | learned_buffers(model)
        self.average: WeightAverage | None = None
        if ema_decay > 0.0:
            self.average = WeightAverage(model, self._learned, ema_decay, share_frozen=zero_stage < 3)
            self.bytes += self.average.bytes
        # Scoring a module of ZeRO 3 gathers weights layer by layer on all ranks together, but ranks have different
        # numbers of frames to score; and averaging BatchNorm in place would change the training that follows.
        needs_twin = self.average is None and (zero_stage == 3 or not self._synchronized)
        self._twin = copy.deepcopy(model) if needs_twin else None

    def gather(self) -> dict[str, Any] | None:
        """On rank 0 everything that :meth:`put_back` needs, on the CPU and free of pickles; None on the others."""
        main = self._workers.is_main
        weights, momentum = {}, {}
        has_momentum = self._has_momentum()
        self._link_momentum()
        for name, parameter in self._parameters.items():
            whole = self._weight(parameter)
            velocity = self._velocity(parameter) if has_momentum else None
            if main:
                weights[name] = _on_cpu(whole)
            if main and velocity is not None:
                momentum[name] = _on_cpu(velocity)
        mine: dict[str, Any] = {"rng": _random_state(self._workers.device)}
        if main or not self._synchronized:
            mine["buffers"] = {name: _on_cpu(buffer) for name, buffer in self._buffers.items()}
        everyone = self._workers.gather(mine)
        if not main:
            return None
        content = {
            "weights": weights,
            "momentum": momentum if has_momentum else None,
            "buffers": [each["buffers"] for each in everyone if "buffers" in each],
            "rng": [each["rng"] for each in everyone],
            "scaler": None if (scaler := self._scaler()) is None else scaler.state_dict(),
            "frozen_sha256": self._frozen,
        }
        return content if self.average is None else content | {"average": self.average.content()}

    def put_back(self, content: Mapping[str, Any] | None) -> None:
        """Give every rank its part of what :meth:`gather` took, at any ZeRO stage and number of ranks.

        Args:
            content: on rank 0; not looked at on the others.

        Raises:
            RunError: it belongs to another model.
        """
        workers = self._workers
        problem = self._misfit(content) if workers.is_main and content is not None else None
        if problem := workers.from_main(problem):
            raise RunError(
                "the checkpoint belongs to another model",
                got=problem,
                fix="resume with the model settings and the stage-1 weights of the saved run",
            )
        has_momentum = workers.from_main(content is not None and content["momentum"] is not None)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._set_weight(parameter, self._shared(content, "weights", name, parameter))
            self._begin_momentum()
            for name, parameter in self._parameters.items() if has_momentum else ():
                self._set_velocity(parameter, self._shared(content, "momentum", name, parameter))
            self._finish()
        small = ("buffers", "rng", "scaler")
        rest = workers.from_main({key: content[key] for key in small} if content is not None else None)
        self._set_buffers(rest["buffers"])
        _set_random_state(rest["rng"][workers.rank % len(rest["rng"])], workers.device)
        scaler = self._scaler()
        if scaler is not None and rest["scaler"] is not None:
            scaler.load_state_dict(rest["scaler"])
        if self.average is not None:
            self.average.put_back(None if content is None else content["average"], workers)

    def evaluation_model(self) -> nn.Module:
        """The model with the present weights, and BatchNorm averaged over ranks, to be scored by each rank alone.

        With an average of the weights it is that.
        """
        if self.average is not None:
            return self.average.model
        if self._twin is None:
            return self._model
        twins = dict(self._twin.named_parameters()) | dict(self._twin.named_buffers())
        with torch.no_grad():
            for name, value in self._present():
                twins[name].copy_(value)
        return self._twin

    def update_average(self) -> None:
        """Take the present weights into their average, if one is kept."""
        if self.average is not None:
            self.average.update(self._present())

    def loss_scale(self) -> float:
        """What fp16 multiplies the loss by, 1 otherwise. Not collective."""
        scaler = self._scaler()
        return 1.0 if scaler is None else float(scaler.get_scale())

    def gradients_are_finite(self) -> bool:
        """Whether the reduced gradients of ZeRO 0 hold numbers only; the same on all ranks. Not collective."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if not gradients:
            return True
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients, float("inf")))).all())

    def copy_buffers(self) -> list[Tensor]:
        """Copies of the learned buffers of this rank, for :meth:`restore_buffers`. Not collective."""
        return [buffer.clone() for buffer in self._buffers.values()]

    def restore_buffers(self, copies: list[Tensor]) -> None:
        """Undo what forward passes did to the learned buffers of this rank. Not collective."""
        for buffer, before in zip(self._buffers.values(), copies, strict=True):
            buffer.copy_(before)

    def _shared(self, content: Mapping[str, Any] | None, kind: str, name: str, like: nn.Parameter) -> Tensor:
        """One tensor of rank 0's content, on every rank's device."""
        if content is None:
            whole = torch.empty(self._shape(like), dtype=torch.float32, device=self._workers.device)
        else:
            whole = content[kind][name].to(self._workers.device, copy=True)
        self._workers.share([whole])
        return whole

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        """What training has made of the model by now: whole weights, statistics averaged over ranks (collective)."""
        for name, tensor in self._learned.items():
            if isinstance(tensor, nn.Parameter):
                yield name, self._weight(tensor)
            elif tensor.is_floating_point() and not self._synchronized:
                yield name, self._workers.sum(tensor / self._workers.world)
            else:
                yield name, tensor

    def _misfit(self, content: Mapping[str, Any]) -> str | None:
        mine = {name: self._shape(parameter) for name, parameter in self._parameters.items()}
        there = {name: tuple(tensor.shape) for name, tensor in content["weights"].items()}
        for name in sorted(mine.keys() | there.keys()):
            if mine.get(name) != there.get(name):
                return f"{name}: {there.get(name, 'absent')} in the checkpoint, {mine.get(name, 'absent')} here"
        if content["frozen_sha256"] != self._frozen:
            return "the frozen weights are others"
        if ("average" in content) != (self.average is not None):
            return "an average of the weights is kept either there or here, not in both"
        return None

    def _set_buffers(self, saved: list[dict[str, Tensor]]) -> None:
        mine = saved[self._workers.rank] if len(saved) == self._workers.world else None
        for name, buffer in self._buffers.items():
            if mine is not None:
                buffer.copy_(mine[name])
            elif buffer.is_floating_point():
                buffer.copy_(torch.stack([each[name] for each in saved]).mean(0))
            else:
                buffer.copy_(saved[0][name])

    # What follows knows how each ZeRO stage of DeepSpeed keeps its state.

    def _shape(self, parameter: Any) -> tuple[int, ...]:
        return tuple(parameter.ds_shape if self._stage == 3 else parameter.shape)

    def _scaler(self) -> Any:
        """The loss scaler of fp16; None otherwise."""
        alone = self.engine.torch_autocast_z0_gradscaler
        return alone if self._stage == 0 else getattr(self.engine.optimizer, "torch_autocast_gradscaler", None)

    def _flat_parts(self) -> list[Tensor]:
        """This rank's flat fp32 master weights, in stages that have them."""
        optimizer = self.engine.optimizer
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return list(optimizer.single_partition_of_fp32_groups)

    def _has_momentum(self) -> bool:
        state = self.engine.optimizer.state if self._stage == 0 else self.engine.optimizer.optimizer.state
        owners = list(self._parameters.values()) if self._stage == 0 else self._flat_parts()
        return any(state[owner].get(_MOMENTUM) is not None for owner in owners if owner in state)

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        # Up to stage 2 the module holds every weight, as exact as the master copies.
        return parameter.detach() if self._stage < 3 else safe_get_full_fp32_param(parameter).detach()

    def _velocity(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._stage == 0:
            kept: Tensor = self.engine.optimizer.state[parameter][_MOMENTUM]
            return kept
        return safe_get_full_optimizer_state(parameter, _MOMENTUM)

    def _set_weight(self, parameter: nn.Parameter, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self._stage == 3:
            safe_set_local_fp32_param(parameter, self._part(parameter, whole))
            if parameter.data.shape == whole.shape:  # small ones are kept whole on every rank
                parameter.data.copy_(whole)
            return
        parameter.data.copy_(whole)
        if self._stage > 0:
            safe_set_full_fp32_param(parameter, whole)

    def _begin_momentum(self) -> None:
        """Momentum of zeros for all, as the base to write on (in stage 0: none, as before the first step)."""
        optimizer = self.engine.optimizer
        if self._stage == 0:
            optimizer.state.clear()
            return
        if optimizer.optimizer.defaults["momentum"] == 0.0:
            return
        for part in self._flat_parts():
            state = optimizer.optimizer.state[part]
            if state.get(_MOMENTUM) is None:
                state[_MOMENTUM] = torch.zeros_like(part)
            state[_MOMENTUM].zero_()
        self._link_momentum()

    def _link_momentum(self) -> None:
        """Let ZeRO 1 and 2 find the momentum of each parameter.

        DeepSpeed does so once, after the first step of the first parameter group, when the others have none yet.
        """
        if self._stage in (1, 2):
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_velocity(self, parameter: nn.Parameter, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage == 0:
            # With the strides of the weight, which fused and grouped updates ask for.
            self.engine.optimizer.state[parameter][_MOMENTUM] = torch.empty_like(parameter).copy_(whole)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, whole, _MOMENTUM)
        else:
            safe_set_local_optimizer_state(parameter, self._part(parameter, whole), _MOMENTUM)

    def _finish(self) -> None:
        if self._stage == 3:  # the copies that forward passes gather from follow the master weights
            for group in range(len(self._flat_parts())):
                self.engine.optimizer._reassign_or_swap_out_partitioned_parameters(group)

    def _part(self, parameter: Any, whole: Tensor) -> Tensor:
        """This rank's part of a tensor of ZeRO 3, padded with zeros to equal parts."""
        size = parameter.ds_tensor.numel()
        padded = torch.zeros(size * self._workers.world, dtype=whole.dtype, device=whole.device)
        padded[: whole.numel()] = whole.flatten()
        return padded[size * self._workers.rank : size * (self._workers.rank + 1)]


def _on_cpu(tensor: Tensor) -> Tensor:
    """A copy that later steps do not change, whatever the tensor is a view of."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _random_state(device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: Mapping[str, Tensor | None], device: torch.device) -> None:
    if state["cpu"] is not None:
        torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
