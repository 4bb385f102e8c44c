"""The gradient of each frame's class score with respect to the last feature map, of a frozen classifier.

The features are made without a graph, then they are a leaf in front of the head alone: no parameter has to ask for a
gradient, and nothing is kept of the encoder.

Shape suffixes: B frames, C channels, K classes, h and w the size of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from colocam_dist.models.localizer import WGAP

__all__ = ["class_gradients"]


def class_gradients(head: nn.Module, features_BChw: Tensor, labels_B: Tensor) -> Tensor:
    """d(logit of the frame's class) / d(features), in float32.

    Behind global average pooling and a linear layer (:class:`~colocam_dist.models.localizer.WGAP`) it is ``w_ck / (h
    w)`` at every position, whatever the features are: then it is read from the weight and kept as one number per
    channel. Any other head is differentiated.

    Args:
        head: in eval mode; features ``[B, C, h, w]`` to logits ``[B, K]``, each frame for itself.
        features_BChw: float ``[B, C, h, w]``, what the head is given; may come from ``torch.inference_mode``.
        labels_B: integer ``[B]``, the class of each frame, in [0, K).

    Returns:
        float32 ``[B, C, h, w]``; ``[B, C, 1, 1]`` for WGAP.
    """
    if type(head) is WGAP:
        area = features_BChw.shape[2] * features_BChw.shape[3]
        return (head.weight.detach().float()[labels_B] / area)[:, :, None, None]
    state = {name: value.detach() for name, value in (*head.named_parameters(), *head.named_buffers())}
    single = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(features_BChw.device.type, enabled=False),
    ):
        # Tensors of inference mode cannot be part of a graph; their copies can.
        leaf_BChw = features_BChw.detach().float().clone().requires_grad_()
        logits_BK = functional_call(head, single, (leaf_BChw,))
        scores_B = logits_BK.gather(1, labels_B.clone()[:, None])
        (gradients_BChw,) = torch.autograd.grad(scores_B.sum(), leaf_BChw)
    return gradients_BChw
