"""The initial CAM against GradCAM of the whole model in float64, with hooks and a plain softmax."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from colocam_dist.clip_es.checkpoint import ClipCheckpoint
from colocam_dist.clip_es.gradcam import ClipEs, Rivals
from colocam_dist.clip_es.words import BACKGROUND
from colocam_dist.errors import ConfigError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLASSES = ("bird", "cat", "train")


def plain_gradcam(clip: ClipCheckpoint, image_CHW: Tensor, target: str, rivals: Sequence[str]) -> Tensor:
    """float64 ``[h, w]`` by the definition: gradient of the softmax share, or of the logit if there are no rivals."""
    model: Any = copy.deepcopy(clip.model).double().requires_grad_(True)
    kept: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    model.vision_model.encoder.layers[-1].layer_norm1.register_forward_hook(keep)
    pixels = torch.stack([(image_CHW[c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)])[None]
    tokens = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    image = model.visual_projection(model.vision_model.post_layernorm(tokens)[0, 1:].mean(0))
    logits = []
    for word in (target, *rivals):
        prompt = clip.tokenizer([f"a clean origami {word}."], return_tensors="pt")
        text = model.get_text_features(**prompt).pooler_output[0]
        logits.append(model.logit_scale.exp() * torch.nn.functional.cosine_similarity(image, text, dim=0))
    (torch.stack(logits).softmax(0)[0] if rivals else logits[0]).backward()
    activations, gradient = kept[0].detach()[0, 1:], kept[0].grad[0, 1:]  # type: ignore[index]
    cam = (activations * gradient.mean(0)).sum(1).clamp(min=0)
    cam = cam.view(image_CHW.shape[1] // 8, image_CHW.shape[2] // 8)
    return (cam - cam.min()) / (cam.max() - cam.min()) if cam.max() > 0 else cam


@pytest.mark.parametrize("size", [(40, 40), (56, 56), (40, 24)])
@pytest.mark.parametrize("rivals", ["classes", "background", "none"])
def test_every_frame_has_the_cam_of_its_own_class(
    clip: ClipCheckpoint, model: ClipEs, frames: Callable[..., Tensor], size: tuple[int, int], rivals: Rivals
) -> None:
    images_BCHW, labels = frames(3, *size), [2, 0, 1]
    cams_Bhw = model.cam(model.look(images_BCHW), torch.tensor(labels), rivals)
    assert cams_Bhw.dtype == torch.float32
    for image_CHW, label, cam_hw in zip(images_BCHW, labels, cams_Bhw, strict=True):
        others = {"classes": [name for name in CLASSES if name != CLASSES[label]], "background": BACKGROUND, "none": ()}
        wanted_hw = plain_gradcam(clip, image_CHW, CLASSES[label], others[rivals])
        assert wanted_hw.max() == 1
        torch.testing.assert_close(cam_hw.double(), wanted_hw, atol=2e-4, rtol=0)


def test_rivals_make_a_difference(model: ClipEs, frames: Callable[..., Tensor]) -> None:
    view, labels_B = model.look(frames(1)), torch.tensor([0])
    maps = [model.cam(view, labels_B, rivals) for rivals in ("classes", "background", "none")]
    assert all(float((one - other).abs().max()) > 0.01 for one, other in zip(maps, [*maps[1:], maps[0]], strict=True))


def test_a_frame_has_the_same_cam_alone_and_among_others_and_in_inference_mode(
    model: ClipEs, frames: Callable[..., Tensor]
) -> None:
    images_BCHW, labels_B = frames(3), torch.tensor([1, 1, 0])
    with torch.inference_mode():
        together_Bhw = model.cam(model.look(images_BCHW.clone()), labels_B.clone(), "background")
    for place in range(3):
        alone_Bhw = model.cam(model.look(images_BCHW[[place]]), labels_B[[place]], "background")
        torch.testing.assert_close(together_Bhw[[place]], alone_Bhw, atol=1e-4, rtol=0)


def test_a_class_that_float32_is_quite_sure_of_still_has_a_cam(
    clip: ClipCheckpoint, model: ClipEs, frames: Callable[..., Tensor]
) -> None:
    images_BCHW = frames(1)
    logits_K = model.look(images_BCHW).logits_BP[0, :3].detach()
    first, second = logits_K.topk(2).values.tolist()
    sure = ClipCheckpoint(copy.deepcopy(clip.model), clip.tokenizer, clip.folder)
    sure.model.logit_scale += torch.log(torch.tensor(22 / (first - second)))  # type: ignore[operator]
    view = ClipEs(sure, CLASSES).look(images_BCHW)
    label = int(logits_K.argmax())
    assert float(view.logits_BP[0, :3].detach().softmax(0)[label]) == 1, "the gradient of the share itself is lost"
    wanted_hw = plain_gradcam(
        sure, images_BCHW[0], CLASSES[label], [name for name in CLASSES if name != CLASSES[label]]
    )
    cam_hw = ClipEs(sure, CLASSES).cam(view, torch.tensor([label]), "classes")[0]
    torch.testing.assert_close(cam_hw.double(), wanted_hw, atol=1e-3, rtol=0)


def test_a_background_word_that_stands_for_a_class_is_no_rival_of_it(
    clip: ClipCheckpoint, frames: Callable[..., Tensor]
) -> None:
    images_BCHW, labels_B = frames(1), torch.tensor([1])
    model = ClipEs(clip, ("cat", "tree"), background=("sky", "tree", "sea"))
    without = ClipEs(clip, ("cat", "tree"), background=("sky", "sea"))
    torch.testing.assert_close(
        model.cam(model.look(images_BCHW), labels_B, "background"),
        without.cam(without.look(images_BCHW), labels_B, "background"),
        atol=1e-4,
        rtol=0,
    )


def test_attention_is_the_mean_over_heads_and_the_last_eight_blocks(
    clip: ClipCheckpoint, model: ClipEs, frames: Callable[..., Tensor]
) -> None:
    images_BCHW = frames(2)
    vision: Any = clip.model.vision_model  # type: ignore[union-attr]
    pixels_BCHW = (images_BCHW / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    blocks = vision(pixels_BCHW, output_attentions=True).attentions
    assert len(blocks) == 10
    wanted_BNN = sum(block.mean(1) for block in blocks[2:])[:, 1:, 1:] / 8
    torch.testing.assert_close(model.look(images_BCHW).attention_BNN, wanted_BNN, atol=1e-5, rtol=0)


def test_what_cannot_be_mapped_is_refused(clip: ClipCheckpoint, model: ClipEs, frames: Callable[..., Tensor]) -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        model.look(frames(1)[:, :, :, :35])
    alone = ClipEs(clip, ("cat",))
    with pytest.raises(ConfigError, match="nothing to be compared with"):
        alone.cam(alone.look(frames(1)), torch.tensor([0]), "classes")
