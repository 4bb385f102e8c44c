"""Exponential moving average of what training changes in a model, kept in a copy of the model that can be scored.

The weights of the last steps circle around where they go; their average is nearer to it, as if the learning rate had
been lowered (Polyak and Juditsky 1992; Tarvainen and Valpola 2017 for a teacher of pseudo-labels).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from colocam_dist.distributed import Workers

__all__ = ["WeightAverage"]


class WeightAverage:
    """``average <- d average + (1 - d) present`` after every optimizer step that was taken, the same on all ranks.

    Weights and the running statistics of BatchNorm are averaged; whole numbers (batches counted) are those of now.
    With t updates made before, ``d = min(decay, (1 + t) / (10 + t))``, so that the random first weights are soon
    forgotten.

    Args:
        model: copied, with its present weights as the first average.
        learned: names of its parameters and buffers that training changes.
        decay: of the weights of one step, in (0, 1).
        share_frozen: the other parameters are the model's own, not copies of them. They must stay where they are
            (ZeRO 3 takes them away).

    Attributes:
        model: the copy, in eval mode and without gradients.
        updates: made so far.
    """

    def __init__(self, model: nn.Module, learned: Iterable[str], decay: float, *, share_frozen: bool) -> None:
        names = set(learned)
        kept = {id(p): p for name, p in model.named_parameters() if share_frozen and name not in names}
        self.model = copy.deepcopy(model, kept).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        everything = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        self._tensors = {name: tensor for name, tensor in everything.items() if name in names}

    @property
    def bytes(self) -> int:
        """How much :meth:`content` takes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @torch.no_grad()
    def update(self, present: Iterable[tuple[str, Tensor]]) -> None:
        """Take in the present value of each learned tensor, by name."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in present:
            mine = self._tensors[name]
            if mine.is_floating_point():
                mine.lerp_(value.to(mine.dtype), 1.0 - decay)
            else:
                mine.copy_(value)
        self.updates += 1

    def content(self) -> dict[str, Any]:
        """Everything that :meth:`put_back` needs, on the CPU and free of pickles."""
        return {
            "updates": self.updates,
            "tensors": {name: tensor.to("cpu", copy=True) for name, tensor in self._tensors.items()},
        }

    @torch.no_grad()
    def put_back(self, content: Mapping[str, Any] | None, workers: Workers) -> None:
        """Take what :meth:`content` gave (collective).

        Args:
            content: on rank 0; not looked at on the others.
            workers: the ranks.
        """
        self.updates = workers.from_main(None if content is None else content["updates"])
        if content is not None:
            for name, tensor in self._tensors.items():
                tensor.copy_(content["tensors"][name])
        workers.share(self._tensors.values())
