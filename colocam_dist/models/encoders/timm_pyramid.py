"""Any timm model that has a feature pyramid, as an encoder. Needs the extra ``timm``.

Shape suffixes: B frames, C channels, H and W the image size, h and w the size of a feature map.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.errors import ConfigError, WeightsError
from colocam_dist.models.encoders.base import Encoder

__all__ = ["TimmPyramid", "declare_torchvision_operators", "import_timm"]

log = logging.getLogger(__name__)

INSTALL = 'pip install -e ".[timm]" -c constraints.txt (without the constraints pip may replace torch)'
DECODER_CHANNELS = (256, 128, 64, 32, 16)
PROBE = 128  # side of the image that finds out what the maps look like
MIN_MAPS = 3

# Operators that torchvision describes to torch at import and that only exist once its compiled library is loaded.
TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_definitions: list[torch.library.Library] = []  # a definition lasts as long as its Library object


def import_timm() -> Any:
    """The module ``timm``, which imports torchvision.

    Torchvision's wheels of the package index are built for CUDA. Beside a CPU build of torch their compiled library
    does not load, and importing torchvision stops with "operator torchvision::nms does not exist". timm needs nothing
    of that library, so the two missing operators are declared (without implementation) first, and the log says so.

    Raises:
        ConfigError: timm or torchvision is not installed or cannot be imported.
    """
    for name in ("timm", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"a timm: encoder needs the package {name}", where="model.encoder", fix=INSTALL)
    declare_torchvision_operators()
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"timm cannot be imported beside torch {torch.__version__}: {error}",
            where="model.encoder",
            wanted="the torchvision release that belongs to this torch",
            fix=INSTALL,
        ) from error


def declare_torchvision_operators() -> None:
    if _definitions or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        library = next(Path(folder).glob("_C*.so"), None)
        if library is None:
            continue
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            log.warning(
                "torchvision's compiled operators do not load beside torch %s (%s); declaring nms and qnms without an "
                "implementation so that timm can be imported",
                torch.__version__,
                error,
            )
            definitions = torch.library.Library("torchvision", "FRAGMENT")
            for schema in TORCHVISION_SCHEMAS:
                definitions.define(schema)
            _definitions.append(definitions)


class TimmPyramid(Encoder):
    """A timm model's feature maps of strides 2 and up.

    The deepest map goes through a ReLU, which makes it a CAM layer whatever the model ends its stages with (it changes
    nothing where they end with a ReLU already); the classification head pools the map after the ReLU. No layers of the
    encoder are in the fast parameter group, because what counts as the last stage differs from family to family.

    Args:
        model: timm model name, with or without a weight tag.
        output_stride: passed on to timm (8, 16 or 32), or None for the model's own.

    Raises:
        ConfigError: timm missing, unknown model, no pyramid (such as plain vision transformers), or an output stride
            that the model cannot have.
    """

    strides = (0, 8, 16, 32)  # 0: the model's own

    def __init__(self, model: str, output_stride: int | None = None) -> None:
        self.name = f"timm:{model}"
        timm = import_timm()
        if not timm.is_model(model):
            raise ConfigError(
                "timm has no model of this name",
                where="model.encoder",
                got=self.name,
                wanted=", ".join(timm.list_models(f"*{model[:6]}*")[:8]) or "a name of timm.list_models()",
            )
        settings = timm.models.get_pretrained_cfg(model)
        self.pixel_mean = tuple(255.0 * value for value in settings.mean)
        self.pixel_std = tuple(255.0 * value for value in settings.std)
        super().__init__(output_stride)
        self._options: dict[str, Any] = {"features_only": True}
        if output_stride is not None:
            self._options["output_stride"] = output_stride
        self._model = model
        try:
            self.net: nn.Module = timm.create_model(model, pretrained=False, **self._options)
            self._kept, self.feature_channels, self.output_stride = _probe(self.net)
        except Exception as error:  # each family has its own way to refuse (assert, TypeError, RuntimeError, ...)
            raise ConfigError(
                "this timm model cannot be used as an encoder",
                where="model.encoder",
                got=f"{self.name}, output_stride {output_stride}: {type(error).__name__}: {error}",
                wanted="a model with at least three feature maps [B, C, h, w] of decreasing size, for any image size",
                fix="a convolutional model such as timm:convnext_tiny, or leave model.output_stride unset; of plain "
                "vision transformers there are vit_tiny, vit_small and vit_base, which need no timm",
            ) from error
        self.decoder_channels = DECODER_CHANNELS[: len(self.feature_channels)]

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """The model's maps of stride 2 and up, the deepest after a ReLU."""
        maps = self.net(images_BCHW)
        kept = [maps[index] for index in self._kept]
        return [*kept[:-1], functional.relu(kept[-1])]

    def fast_parameters(self) -> list[nn.Parameter]:
        """None: see the class."""
        return []

    def load_pretrained(self, file: Path | None) -> None:
        """Take timm's published weights (from the network or its cache), or those of a local file, by timm's own code.

        Raises:
            WeightsError: the weights cannot be had, or do not fit.
        """
        # `file` names the whole model's weights; timm cuts what the features do not need, so the cut is not ours.
        overlay = None if file is None else {"file": str(file), "hf_hub_id": None, "url": ""}
        try:
            source = import_timm().create_model(
                self._model, pretrained=True, pretrained_cfg_overlay=overlay, **self._options
            )
        except Exception as error:  # network, hub, file format and shape errors of timm and its dependencies
            raise WeightsError(
                f"timm cannot load weights for {self.name}: {type(error).__name__}: {error}",
                where=file or "timm's published weights",
                fix="check the network, or give model.weights the path of a file saved by timm for this model",
            ) from error
        self.net.load_state_dict(source.state_dict())


def _probe(net: nn.Module) -> tuple[list[int], tuple[int, ...], int]:
    """Indices of the maps to keep, their channels, and the deepest stride, seen on an image; ValueError if unfit."""
    info: Any = net.feature_info
    training = net.training
    net.eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, PROBE, PROBE))
    net.train(training)
    channels = info.channels()
    sizes = [tuple(map_BChw.shape[2:]) for map_BChw in maps]
    if any(map_BChw.ndim != 4 or map_BChw.shape[1] != count for map_BChw, count in zip(maps, channels, strict=True)):
        raise ValueError(f"its maps are not [B, C, h, w]: {[tuple(map_BChw.shape) for map_BChw in maps]}")
    kept = [index for index, size in enumerate(sizes) if size[0] < PROBE]
    heights = [sizes[index][0] for index in kept]
    if heights != sorted(heights, reverse=True) or len(set(heights)) < MIN_MAPS:
        raise ValueError(f"its maps have sizes {sizes}: no pyramid")
    return kept, tuple(channels[index] for index in kept), int(info.reduction()[-1])
