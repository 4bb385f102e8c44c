"""Plain best weights of a run: ``{"state_dict", "sha256", "epoch", "score", ...}``, loaded with ``weights_only``.

torch does not check the bytes of tensors when it loads them (a flipped bit goes unnoticed), so the files carry a hash.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from colocam_dist.errors import RunError
from colocam_dist.files import write_atomically

__all__ = ["load_weights", "read_weights", "save_weights", "state_sha256", "weights_sha256"]


def save_weights(path: Path, module: torch.nn.Module, facts: dict[str, Any]) -> None:
    """Write a plain state_dict (CPU tensors) with json-able facts, atomically."""
    buffer = io.BytesIO()
    weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": weights, "sha256": state_sha256(weights), **facts}, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path, module: torch.nn.Module) -> dict[str, Any]:
    """Load what :func:`save_weights` wrote into `module`; returns the facts.

    Raises:
        RunError: the file is missing, damaged, or of another model.
    """
    content = read_weights(path)
    try:
        module.load_state_dict(content.pop("state_dict"))
    except RuntimeError as error:
        raise RunError("weights cannot be loaded", where=path, got=str(error).splitlines()[0]) from error
    return content


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a file of :func:`save_weights`, checked against its hash.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        digest = state_sha256(content["state_dict"])
    except FileNotFoundError:
        raise RunError("weights are missing", where=path, fix="run the stage that makes them first") from None
    except Exception as error:  # torch raises whatever its unpickler meets
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError("weights cannot be loaded", where=path, got=why) from error
    if digest != content.get("sha256"):
        raise RunError("weights have changed since they were written", where=path, fix="restore the file from a copy")
    return content


def weights_sha256(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's state: equal weights, equal digest on any machine."""
    return state_sha256(module.state_dict())


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """The same over any tensors by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
