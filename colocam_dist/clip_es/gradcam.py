"""CLIP-ES's initial CAM: GradCAM of a class's prompt over the tokens that enter the last block of the image tower.

Shape suffixes: B frames, K classes, P prompts (classes, then background words), T tokens (class token, then N = h x w
patches), C channels, D the size of the space that images and texts share, H and W the image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.cams.maps import min_max
from colocam_dist.clip_es.checkpoint import ClipCheckpoint
from colocam_dist.clip_es.refine import BLOCKS
from colocam_dist.clip_es.words import BACKGROUND, TEMPLATE
from colocam_dist.errors import ConfigError

__all__ = ["ClipEs", "Rivals", "View"]

Rivals = Literal["classes", "background", "none"]
"""What a class is compared with: the other classes, the words of the background list, or nothing."""

PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)  # of CLIP's own training, for pixels of 0 to 255
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)


@dataclass(frozen=True)
class View:
    """What the image tower makes of a batch of frames, up to the prompts; CAMs of any class come from it.

    Attributes:
        activations_BTC: tokens that enter the last block, after its first normalization; CAMs ask for its gradient.
        logits_BP: scaled cosines between frames and prompts.
        attention_BNN: attention of patches to patches, the mean over heads and the last eight blocks.
        size: h and w.
    """

    activations_BTC: Tensor
    logits_BP: Tensor
    attention_BNN: Tensor
    size: tuple[int, int]


class ClipEs(nn.Module):
    """CLIP with the prompts of a set of classes and of the background list.

    Args:
        checkpoint: model and tokenizer.
        words: what stands for each class in its prompt.
        background: words of the background list. One that also stands for a class is no rival of that class.

    Raises:
        ConfigError, WeightsError: see :meth:`ClipCheckpoint.embed`.
    """

    prompts_PD: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor
    against_classes_KP: Tensor
    against_background_KP: Tensor

    def __init__(
        self, checkpoint: ClipCheckpoint, words: Sequence[str], background: Sequence[str] = BACKGROUND
    ) -> None:
        super().__init__()
        self.words, self.background, self.patch = tuple(words), tuple(background), checkpoint.patch
        self.clip = checkpoint.model
        every = [*self.words, *self.background]
        self.register_buffer("prompts_PD", checkpoint.embed([TEMPLATE.format(word) for word in every]))
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1))
        different_KP = torch.tensor([[word != other for other in every] for word in words])
        is_class_P = torch.arange(len(every)) < len(words)
        self.register_buffer("against_classes_KP", different_KP & is_class_P)
        self.register_buffer("against_background_KP", different_KP & ~is_class_P)

    def look(self, images_BCHW: Tensor) -> View:
        """Run the image tower; works within ``torch.inference_mode`` too.

        The frame's embedding is the projected mean of the normalized patch tokens, as in CLIP-ES, not the class token.

        Args:
            images_BCHW: uint8 ``[B, 3, H, W]`` RGB; H and W are multiples of the patch. For another size than the
                model's own, its position embeddings are interpolated (bicubic; CLIP-ES: bilinear).

        Raises:
            ConfigError: a side is no multiple of the patch.
        """
        height, width = images_BCHW.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ConfigError(
                "the image size does not fit the checkpoint's patches",
                where="--size",
                got=f"{height} x {width}",
                wanted=f"multiples of {self.patch}",
            )
        clip: Any = self.clip
        tower, blocks = clip.vision_model, clip.vision_model.encoder.layers
        attention: list[Tensor] = []
        with torch.inference_mode(False), torch.no_grad():
            pixels_BCHW = (images_BCHW.float() - self.pixel_mean) / self.pixel_std
            tokens_BTC = tower.pre_layrnorm(tower.embeddings(pixels_BCHW, interpolate_pos_encoding=True))
            for block in blocks[:-1]:
                tokens_BTC, weights_BTT = _block(block, tokens_BTC, block.layer_norm1(tokens_BTC))
                attention.append(weights_BTT)
            activations_BTC = blocks[-1].layer_norm1(tokens_BTC).requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            tokens_BTC, weights_BTT = _block(blocks[-1], tokens_BTC, activations_BTC)
            pooled_BC = tower.post_layernorm(tokens_BTC)[:, 1:].mean(1)
            images_BD = functional.normalize(clip.visual_projection(pooled_BC), dim=1)
            logits_BP = clip.logit_scale.exp() * images_BD @ self.prompts_PD.T
        attention = [*attention, weights_BTT.detach()][-BLOCKS:]
        attention_BNN = torch.stack(attention).mean(0)[:, 1:, 1:]
        return View(activations_BTC, logits_BP, attention_BNN, (height // self.patch, width // self.patch))

    def cam(self, view: View, labels_B: Tensor, rivals: Rivals) -> Tensor:
        """GradCAM of each frame for its own class.

        CLIP-ES takes the gradient of the class's share p in a softmax over the class and its rivals. That of the log
        odds log(p / (1 - p)) = z - logsumexp(rivals' z) differs from it by the factor p (1 - p) per frame, which the
        stretching to [0, 1] removes; but unlike p it is neither rounded to nothing near 1 nor near 0.

        Args:
            view: of :meth:`look`.
            labels_B: integer ``[B]`` in [0, K).
            rivals: "none" takes the logit itself.

        Returns:
            float32 ``[B, h, w]`` in [0, 1]; a flat map is all zero.

        Raises:
            ConfigError: a class has no rivals.
        """
        with torch.inference_mode(False), torch.enable_grad():
            labels_B = labels_B.clone()  # one made in inference mode cannot be kept for the backward pass
            odds_B = view.logits_BP.gather(1, labels_B[:, None])[:, 0]
            if rivals != "none":
                against_KP = self.against_classes_KP if rivals == "classes" else self.against_background_KP
                if not bool(against_KP.any(1).all()):
                    raise ConfigError("a class has nothing to be compared with", where="rivals", got=rivals)
                odds_B = odds_B - view.logits_BP.masked_fill(~against_KP[labels_B], -torch.inf).logsumexp(1)
            (gradient_BTC,) = torch.autograd.grad(odds_B.sum(), view.activations_BTC, retain_graph=True)
        weights_BC = gradient_BTC[:, 1:].mean(1)
        cams_BN = torch.einsum("bnc,bc->bn", view.activations_BTC.detach()[:, 1:], weights_BC).relu()
        return min_max(cams_BN.view(len(labels_B), *view.size))


def _block(block: Any, tokens_BTC: Tensor, normalized_BTC: Tensor) -> tuple[Tensor, Tensor]:
    """A transformer block from behind its first normalization; its tokens, and its attention's mean over heads."""
    change_BTC, weights_BMTT = block.self_attn(normalized_BTC)
    tokens_BTC = tokens_BTC + change_BTC
    return tokens_BTC + block.mlp(block.layer_norm2(tokens_BTC)), weights_BMTT.mean(1)
