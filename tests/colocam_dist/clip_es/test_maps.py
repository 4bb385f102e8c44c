"""Maps of all classes in one pass are those of each class by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from colocam_dist.clip_es.gradcam import ClipEs, Rivals
from colocam_dist.clip_es.maps import CONFIGURATIONS, clip_es_maps, maps_of_all_classes
from colocam_dist.clip_es.refine import affinity, refine


@pytest.mark.parametrize("initial", ["classes", "none"])
def test_one_pass_makes_the_maps_of_every_class_and_configuration(
    model: ClipEs, frames: Callable[..., Tensor], initial: Rivals
) -> None:
    images_BCHW = frames(2)
    maps_MBHW, logits_BK = maps_of_all_classes(model, initial=initial)(images_BCHW, torch.zeros(2).long())
    assert maps_MBHW.shape == (9, 2, 40, 40)
    assert not maps_MBHW.requires_grad
    assert not logits_BK.requires_grad
    for place, configuration in enumerate(CONFIGURATIONS):
        make = clip_es_maps(model, configuration, initial=initial)
        for label in range(3):
            labels_B = torch.tensor([label, label])
            torch.testing.assert_close(maps_MBHW[3 * place + label], make(images_BCHW, labels_B)[0])
        mixed_BHW, _ = make(images_BCHW, torch.tensor([2, 0]))
        torch.testing.assert_close(mixed_BHW[0], maps_MBHW[3 * place + 2, 0])
        torch.testing.assert_close(mixed_BHW[1], maps_MBHW[3 * place, 1])


def test_configurations_are_what_their_names_say(model: ClipEs, frames: Callable[..., Tensor]) -> None:
    images_BCHW, labels_B = frames(2), torch.tensor([1, 2])
    view = model.look(images_BCHW)
    cams = {name: model.cam(view, labels_B, rivals) for name, rivals in RIVALS.items()}
    cams["refined"] = refine(cams["list"], affinity(view.attention_BNN))
    for name, cams_Bhw in cams.items():
        maps_BHW, logits_BK = clip_es_maps(model, name)(images_BCHW, labels_B)
        wanted_BHW = functional.interpolate(cams_Bhw[:, None], scale_factor=8.0, mode="bilinear")[:, 0]
        torch.testing.assert_close(maps_BHW, wanted_BHW)
        torch.testing.assert_close(logits_BK, view.logits_BP[:, :3].detach())


RIVALS: dict[str, Rivals] = {"initial": "classes", "list": "background"}
