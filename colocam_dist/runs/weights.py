"""Plain best weights of a run: ``{"state_dict", "epoch", "score", ...}``, loaded with ``weights_only``."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from colocam_dist.errors import RunError
from colocam_dist.runs.folder import write_atomically

__all__ = ["load_weights", "save_weights", "weights_sha256"]


def save_weights(path: Path, module: torch.nn.Module, facts: dict[str, Any]) -> None:
    """Write a plain state_dict (CPU tensors) with json-able facts, atomically."""
    buffer = io.BytesIO()
    weights = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": weights, **facts}, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path, module: torch.nn.Module) -> dict[str, Any]:
    """Load what :func:`save_weights` wrote into `module`; returns the facts.

    Raises:
        RunError: the file is missing, damaged, or of another model.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(content.pop("state_dict"))
    except FileNotFoundError:
        raise RunError("weights are missing", where=path, fix="run the stage that makes them first") from None
    except Exception as error:
        raise RunError("weights cannot be loaded", where=path, got=str(error).splitlines()[0]) from error
    return content


def weights_sha256(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's state: equal weights, equal digest on any machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
