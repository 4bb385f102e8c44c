"""Which implementation of which form runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from colocam_dist.kernels.inputs import announce
from colocam_dist.kernels.launch import why_not

__all__ = ["choose"]

IMPLEMENTATIONS = ("torch", "triton")


def choose(
    name: str,
    backend: str,
    forms: Sequence[str],
    automatic: tuple[str, str],
    fg: Tensor,
    limit: Callable[[str], str | None],
) -> str:
    """The backend as "implementation:form".

    Args:
        name: of the operator, for messages.
        backend: "auto", a form, or "torch:" or "triton:" and a form.
        forms: the known ones.
        automatic: the form that "auto" takes here, and the reason.
        fg: its device and type decide whether Triton can run.
        limit: why the Triton kernels cannot compute a form here, None if they can.

    Raises:
        ValueError: an unknown backend, or one that cannot run here.
    """
    implementation, _, form = backend.rpartition(":")
    form = automatic[0] if form == "auto" else form
    if form not in forms or implementation not in ("", *IMPLEMENTATIONS):
        known = ", ".join(forms)
        raise ValueError(
            f"{name}: wanted backend auto, {known}, or one of them after torch: or triton:, got {backend!r}"
        )
    obstacle = why_not(fg.device, fg.dtype) or limit(form)
    if implementation == "triton" and obstacle:
        raise ValueError(f"{name}: backend {backend} cannot run: {obstacle}")
    reason = automatic[1]
    say = backend.endswith("auto")
    if not implementation:
        # The interpreter is for tests, which ask for it by name.
        implementation = "triton" if obstacle is None and fg.device.type == "cuda" else "torch"
        if obstacle and fg.device.type == "cuda":
            say, reason = True, f"{reason}; no Triton: {obstacle}"
    resolved = f"{implementation}:{form}"
    return announce(name, resolved, reason) if say else resolved
