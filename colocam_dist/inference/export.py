"""A run's localizer as one file for other programs: a ``torch.export`` program or an ONNX model.

The file takes ``images``, uint8 RGB ``[B, 3, S, S]`` of any B, and gives ``maps``, foreground probability float32
``[B, S, S]``, and ``probabilities`` of the classes float32 ``[B, K]``, all in [0, 1]. Normalization is inside. What
else is needed to make boxes of it (classes, size, threshold) is in the same file as JSON: in ONNX metadata under
``colocam_dist``, in the torch program as the extra file ``colocam_dist.json``.

Shape suffixes: B frames of a batch, K classes, S the side of the images.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from colocam_dist import __version__
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.files import sync_file, sync_folder
from colocam_dist.inference.api import Localizer, Probabilities

__all__ = ["SUFFIXES", "TOLERANCES", "Format", "export_localizer", "onnx_program", "torch_program"]

Format = Literal["torch", "onnx"]
Program = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Images uint8 [B, 3, S, S] to maps [B, S, S] and class probabilities [B, K]."""

TOLERANCES: dict[Format, float] = {"torch": 1e-5, "onnx": 1e-4}
"""Largest difference from the network, in maps and in class probabilities, that an exported file may show."""

SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
"""How the names of exported files end; torch reads no others."""

_METADATA = "colocam_dist"
_EXAMPLE_BATCH = 2  # 1 would be taken for a constant
_CHECKED_BATCHES = (1, 3)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_localizer(localizer: Localizer, target: Path, form: Format) -> float:
    """Write the localizer to one file, which gets its name after it was run and agreed with the network.

    Args:
        localizer: on the CPU.
        target: the file, with the suffix of its format; an older one of this name is replaced.
        form: "torch" (``torch.export``; ``torch.load`` of it is not possible, ``torch.export.load`` is) or "onnx".

    Returns:
        The largest difference from the network that was seen, over random and smooth images in batches of 1 and 3.

    Raises:
        ConfigError: another suffix, or the packages that ONNX needs are missing.
        RunError: the file differs from the network by more than ``TOLERANCES``, or cannot be written; there is no new
            file then.
    """
    if target.suffix != SUFFIXES[form]:
        raise ConfigError("the file's name has another suffix", where=target, wanted=f"{SUFFIXES[form]} for {form}")
    missing = [name for name in _PACKAGES if form == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "packages that ONNX needs are missing",
            got=", ".join(missing),
            fix='pip install -e ".[export]" -c constraints.txt',
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own the file already has its last name, which torch writes into it.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            path = Path(folder) / target.name
            with _quiet():
                _save(localizer, path, form)
                difference = _largest_difference(localizer, path, form)
            if not difference <= TOLERANCES[form]:  # also when it is NaN
                raise RunError(
                    "the exported file does not compute what the network does; it was removed",
                    where=target,
                    got=f"a difference of {difference:.2g}",
                    wanted=f"at most {TOLERANCES[form]:g}",
                    fix="try the other format",
                )
            sync_file(path)
            path.replace(target)
            sync_folder(target.parent)
    except OSError as error:
        raise RunError("the export cannot be written", where=target, got=error.strerror) from None
    return difference


def torch_program(path: Path) -> tuple[Program, dict[str, Any]]:
    """What a file of format "torch" computes, on the CPU, and its metadata."""
    extra = {f"{_METADATA}.json": ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(images_B3SS: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            maps_BSS, probabilities_BK = module(torch.from_numpy(images_B3SS))
        return maps_BSS.numpy(), probabilities_BK.numpy()

    return run, json.loads(extra[f"{_METADATA}.json"])


def onnx_program(path: Path) -> tuple[Program, dict[str, Any]]:
    """What a file of format "onnx" computes in ONNX Runtime, on the CPU, and its metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images_B3SS: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        maps_BSS, probabilities_BK = session.run(["maps", "probabilities"], {"images": images_B3SS})
        return maps_BSS, probabilities_BK

    return run, json.loads(session.get_modelmeta().custom_metadata_map[_METADATA])


def _save(localizer: Localizer, path: Path, form: Format) -> None:
    metadata = json.dumps(
        {
            "classes": localizer.classes,
            "size": localizer.size,
            "threshold": localizer.threshold,
            "encoder": localizer.model["encoder"],
            "weights_sha256": localizer.weights_sha256,
            "version": __version__,
        }
    )
    images_B3SS = torch.zeros(_EXAMPLE_BATCH, 3, localizer.size, localizer.size, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(
            Probabilities(localizer.network),
            (images_B3SS,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has the paths of this machine
    if form == "torch":
        torch.export.save(program, path, extra_files={f"{_METADATA}.json": metadata})
        return
    converted = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=["maps", "probabilities"]
    )
    assert converted is not None
    converted.model.metadata_props[_METADATA] = metadata
    converted.save(path)
    beside = [other.name for other in path.parent.iterdir() if other != path]
    if beside:
        raise RunError("the model is too large for one ONNX file", where=path.name, fix="export with --format torch")


def _largest_difference(localizer: Localizer, path: Path, form: Format) -> float:
    run, _ = (torch_program if form == "torch" else onnx_program)(path)
    network = Probabilities(localizer.network)
    differences = []
    for images_B3SS in (make(batch, localizer.size) for batch in _CHECKED_BATCHES for make in (_random, _smooth)):
        with torch.inference_mode():
            wanted = network(images_B3SS)
        for ours, theirs in zip(wanted, run(images_B3SS.numpy()), strict=True):
            if ours.shape != theirs.shape:
                return float("inf")
            differences.append(np.abs(ours.numpy() - theirs).max())
    return float(np.max(differences))  # NaN if there is one


def _random(batch: int, size: int) -> Tensor:
    """uint8 noise ``[B, 3, S, S]``, the same in every call."""
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _smooth(batch: int, size: int) -> Tensor:
    """Clouds of color, uint8 ``[B, 3, S, S]``, which excite a network like a picture does."""
    coarse = torch.rand(batch, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    clouds = functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return (255 * clouds.clamp(0.0, 1.0)).to(torch.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' warnings are about their own code, and their messages about every step of it."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
