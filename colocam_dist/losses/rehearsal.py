"""The affinity terms once in small, before hours of training depend on them.

Triton compiles its launcher on the machine that it runs on, with the C compiler and Python's headers that are there.
"""

from __future__ import annotations

import torch

from colocam_dist.errors import ColocamError, RunError
from colocam_dist.losses.total import LocalizationLoss, LossSettings

__all__ = ["rehearse"]

_SIDE = 32


def rehearse(settings: LossSettings, device: torch.device) -> None:
    """Compute value and gradient of both affinity terms for two frames of 32 x 32 pixels on ``device``.

    Raises:
        RunError: that is not possible here, and why.
    """
    loss = LocalizationLoss(settings)
    fg_WNHW = torch.full((1, 2, _SIDE, _SIDE), 0.5, device=device, requires_grad=True)
    images_WNCHW = torch.arange(2 * 3 * _SIDE * _SIDE, device=device).byte().view(1, 2, 3, _SIDE, _SIDE)
    mask_WN = torch.ones(1, 2, dtype=torch.bool, device=device)
    try:
        total = fg_WNHW.sum() * 0.0
        if settings.frame_crf.weight > 0:
            total = total + loss.frame_crf(fg_WNHW, images_WNCHW, mask_WN, epoch=1)
        if settings.colocalization.weight > 0:
            total = total + loss.colocalization(fg_WNHW, images_WNCHW, mask_WN, step=0)[0]
        total.backward()
        total.item()
    except ColocamError:
        raise
    except Exception as error:  # of a compiler, the driver, the CUDA library: all mean that stage 2 cannot run
        raise RunError(
            "the affinities of the CRF terms cannot be computed here",
            where=device,
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}",
            fix="Triton needs a C compiler and Python's headers at run time (apt-get install gcc python3-dev); without "
            "them: localizer.loss.frame_crf.backend=torch:grid localizer.loss.colocalization.backend=torch:histogram",
        ) from error
