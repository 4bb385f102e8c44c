"""The three configurations of the paper's Table 8 as makers of maps.

Shape suffixes: B frames, K classes, M maps of a frame, h and w patches, H and W the image size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from colocam_dist.clip_es.gradcam import ClipEs, Rivals, View
from colocam_dist.clip_es.refine import affinity, refine
from colocam_dist.inference.score import ManyMaps, MapMaker

__all__ = ["CONFIGURATIONS", "clip_es_maps", "maps_of_all_classes"]

CONFIGURATIONS = ("initial", "list", "refined")
"""The initial CAM; with the background list; with list and refinement."""


def clip_es_maps(model: ClipEs, configuration: str, *, initial: Rivals = "classes") -> MapMaker:
    """Maps of each frame's own class.

    Args:
        model: the network.
        configuration: one of CONFIGURATIONS.
        initial: what a class is compared with where the background list is not used. The paper does not say; alone in
            a softmax, as CLIP-ES's code would leave it, a class has no gradient at all.
    """

    def make(images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        view = model.look(images_BCHW)
        cams_Bhw = model.cam(view, labels_B, initial if configuration == "initial" else "background")
        if configuration == "refined":
            cams_Bhw = refine(cams_Bhw, affinity(view.attention_BNN))
        return _to_image(cams_Bhw, images_BCHW), _class_logits(model, view)

    return make


def maps_of_all_classes(model: ClipEs, *, initial: Rivals = "classes") -> ManyMaps:
    """Maps of every frame for every class in every configuration: M = 3 K, the classes of a configuration together.

    The image tower runs once per frame, whatever the number of classes.
    """

    def cams(view: View) -> Iterator[Tensor]:
        frames, classes = len(view.logits_BP), len(model.words)
        labels = [torch.full((frames,), label, device=view.logits_BP.device) for label in range(classes)]
        yield from (model.cam(view, labels_B, initial) for labels_B in labels)
        listed = [model.cam(view, labels_B, "background") for labels_B in labels]
        yield from listed
        affinity_BNN = affinity(view.attention_BNN)
        yield from (refine(cams_Bhw, affinity_BNN) for cams_Bhw in listed)

    def make(images_BCHW: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        view = model.look(images_BCHW)
        maps_MBHW = torch.stack([_to_image(cams_Bhw, images_BCHW) for cams_Bhw in cams(view)])
        return maps_MBHW, _class_logits(model, view)

    return make


def _to_image(cams_Bhw: Tensor, images_BCHW: Tensor) -> Tensor:
    size = list(images_BCHW.shape[-2:])
    maps_BHW = functional.interpolate(cams_Bhw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return maps_BHW.clamp(0.0, 1.0)


def _class_logits(model: ClipEs, view: View) -> Tensor:
    return view.logits_BP[:, : len(model.words)].detach()
