"""Plain vision transformers with patches of 16 pixels, under the parameter names of DeiT and DINO (those of timm).

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), in the sizes of Touvron et al., DeiT (2021). The paper
leaves such an encoder to future work (end of section 5).

Shape suffixes: B frames, C channels (the width of a token), P patches, T = 1 + P tokens, H and W the image size, h and
w the size of the grid of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.models.encoders.base import Encoder, init_convolutions
from colocam_dist.models.token_head import TokenHead

__all__ = ["VisionTransformer"]

PATCH = 16
GRID = 14  # patches along a side at 224 pixels, for which public files store position embeddings
DEPTH = 12
TAPPED = (3, 6, 9, 12)  # blocks whose tokens the localization head sees, counted from 1
INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """``[B, T, C]`` to the same shape."""
        queries, keys, values = self.qkv(x_BTC).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)  # [B, heads, T, C / heads]
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """``[B, T, C]`` to the same shape."""
        return self.fc2(functional.gelu(self.fc1(x_BTC)))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut.

    Unlike DeiT's training code there is no stochastic depth: its draws would depend on the rank.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = _norm(width)
        self.mlp = Mlp(width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """``[B, T, C]`` to the same shape."""
        x_BTC = x_BTC + self.attn(self.norm1(x_BTC))
        return x_BTC + self.mlp(self.norm2(x_BTC))


class PatchEmbed(nn.Module):
    """One token for each square of 16 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """``[B, 3, H, W]`` with sides that are multiples of 16, to ``[B, P, C]``."""
        return self.proj(images_BCHW).flatten(2).transpose(1, 2)


class VisionTransformer(Encoder):
    """A vision transformer of 12 blocks, as five maps of one size (at 224 pixels: 14²).

    Four maps are the patch tokens after blocks 3, 6, 9 and 12 (the depths that DPT takes from a ViT-Base, Ranftl et al.
    2021), each through the final LayerNorm, as DINO hands out tokens of inner blocks. The fifth is the CAM layer: a 3x3
    convolution over the last of them, as in TS-CAM (Gao et al. 2021), and a ReLU. TS-CAM's convolution has one output
    per class and is pooled at once; here it keeps the width, and the head that every encoder has follows, so that CAMs
    are made as for a CNN (VGG-16's ``conv6`` is the same thing). TS-CAM's product with the attention of the class token
    is left out; that token only takes part in the blocks.

    Sides that are not multiples of 16 are enlarged to the next ones (bilinear), so that a map always spans the whole
    image. Position embeddings are stored for 14 x 14 patches and resampled for other grids (bicubic, antialiased).

    Public weight files: those of DeiT (not the distilled ones, which have a second class token) and of DINO for 224
    pixels and patches of 16. They have no convolution for the CAM layer; it stays random until stage 1 has trained it.

    Args:
        name: ``vit_tiny``, ``vit_small`` or ``vit_base``.
        output_stride: 16, or None for 16.

    Raises:
        ConfigError: another output stride.
    """

    strides = (PATCH,)
    decoder_channels = (256, 128, 64, 32, 16)
    public_names = "DeiT and DINO"
    public_ignored = ("head.",)
    public_missing = ("cam_conv.",)

    layouts: ClassVar[dict[str, tuple[int, int]]] = {  # width, heads
        "vit_tiny": (192, 3),
        "vit_small": (384, 6),
        "vit_base": (768, 12),
    }

    def __init__(self, name: str, output_stride: int | None = None) -> None:
        self.name = name
        super().__init__(output_stride)
        width, heads = self.layouts[name]
        self.feature_channels = (width,) * (len(TAPPED) + 1)
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(DEPTH))
        self.norm = _norm(width)
        self.cam_conv = nn.Conv2d(width, width, 3, padding=1)
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal, as DeiT; the new convolution like those of the other encoders."""
        for tensor in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(tensor, std=INIT_STD)
        layers: list[nn.Linear | nn.Conv2d] = [each for each in self.modules() if isinstance(each, nn.Linear)]
        for layer in [self.patch_embed.proj, *layers]:
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # all of them have one
        init_convolutions(self.cam_conv)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Five maps, see the class."""
        h, w = (-(-side // PATCH) for side in images_BCHW.shape[2:])
        size = (PATCH * h, PATCH * w)
        if images_BCHW.shape[2:] != size:
            images_BCHW = functional.interpolate(images_BCHW, size, mode="bilinear", align_corners=False)
        patches_BPC = self.patch_embed(images_BCHW)
        x_BTC = torch.cat([self.cls_token.expand(len(patches_BPC), -1, -1), patches_BPC], 1)
        x_BTC = x_BTC + self._positions(h, w)
        maps = []
        for count, block in enumerate(self.blocks, start=1):
            x_BTC = block(x_BTC)
            if count in TAPPED:
                maps.append(self.norm(x_BTC[:, 1:]).transpose(1, 2).unflatten(2, (h, w)))
        return [*maps, functional.relu(self.cam_conv(maps[-1]), inplace=True)]

    def _positions(self, h: int, w: int) -> Tensor:
        """Position embeddings ``[1, T, C]`` of a grid; that of the class token stays as it is."""
        if (h, w) == (GRID, GRID):
            return self.pos_embed
        grid_1Chw = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        grid_1Chw = functional.interpolate(grid_1Chw, (h, w), mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :1], grid_1Chw.flatten(2).transpose(1, 2)], 1)

    def fast_parameters(self) -> list[nn.Parameter]:
        """The convolution of the CAM layer, which no public file has."""
        return list(self.cam_conv.parameters())

    def build_decoder(self, channels: Sequence[int] | None = None, map_stride: int = 1) -> nn.Module:
        """A :class:`~colocam_dist.models.token_head.TokenHead`: there is no pyramid that a U-Net could climb."""
        widths = channels or self.decoder_channels[: len(self.decoder_channels) - map_stride.bit_length() + 1]
        return TokenHead(self.feature_channels, widths, self.output_stride // map_stride)
