from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from colocam_dist.cams.gradients import class_gradients
from colocam_dist.cams.layercam import layercam
from colocam_dist.errors import WeightsError
from colocam_dist.models.encoders import build_encoder
from colocam_dist.models.encoders.timm_pyramid import import_timm
from colocam_dist.models.encoders.vit import VisionTransformer
from colocam_dist.models.localizer import Classifier
from colocam_dist.models.weights import load_encoder_weights, load_state

WIDTHS = {"vit_tiny": 192, "vit_small": 384, "vit_base": 768}
BACKBONE = {"vit_tiny": 5_524_416, "vit_small": 21_665_664, "vit_base": 85_798_656}
PUBLIC_BLOCK = (
    *("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias"),
    *("norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
PUBLIC = (
    *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
    *(f"blocks.{block}.{name}" for block in range(12) for name in PUBLIC_BLOCK),
)


def spread(encoder: torch.nn.Module) -> None:
    """Give every parameter values of its own, so that a forgotten one shows."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(base, 0.5 if name in ("cls_token", "pos_embed") else 0.05)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1.0, -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1.0 - np.abs(x), 0.0, None)


def resampling(n_in: int, n_out: int, kernel) -> np.ndarray:
    """``[n_out, n_in]`` weights of a resampling that is widened where it reduces, from its definition.

    Pixels are squares: sample i lies at i + 1/2. Samples outside of the signal do not count.
    """
    scale = n_in / n_out
    centers = (np.arange(n_out) + 0.5) * scale
    weights = kernel((np.arange(n_in) + 0.5 - centers[:, None]) / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


def resample(x: np.ndarray, size: tuple[int, int], kernel) -> np.ndarray:
    rows, columns = resampling(x.shape[-2], size[0], kernel), resampling(x.shape[-1], size[1], kernel)
    return np.einsum("yh,...hw,xw->...yx", rows, x, columns)


def reference(state: dict[str, np.ndarray], heads: int, images: np.ndarray) -> list[np.ndarray]:
    """The network again in float64, token by token as the papers write it; nothing of it is ours or torch's."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attention(x: np.ndarray, name: str) -> np.ndarray:
        queries, keys, values = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        parts = []
        for q, k, v in zip(*(np.split(each, heads, axis=-1) for each in (queries, keys, values)), strict=True):
            scores = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
            parts.append(scores / scores.sum(-1, keepdims=True) @ v)
        return linear(np.concatenate(parts, -1), f"{name}.proj")

    grid = tuple(math.ceil(side / 16) for side in images.shape[2:])
    # Enlarging never widens a kernel, so the triangle is plain bilinear interpolation; at the border its missing part
    # counts as the nearest pixel, which is what leaving it out and normalizing gives.
    images = resample(images, (16 * grid[0], 16 * grid[1]), triangle)
    patches = images.reshape(len(images), 3, grid[0], 16, grid[1], 16).transpose(0, 2, 4, 1, 3, 5)
    kernel = state["patch_embed.proj.weight"]
    tokens = patches.reshape(len(images), grid[0] * grid[1], -1) @ kernel.reshape(len(kernel), -1).T
    tokens = tokens + state["patch_embed.proj.bias"]
    positions = state["pos_embed"][0, 1:].T.reshape(-1, 14, 14)
    positions = resample(positions, grid, cubic).reshape(len(positions), -1).T
    first = np.broadcast_to(state["cls_token"][0] + state["pos_embed"][0, :1], (len(images), 1, len(kernel)))
    x = np.concatenate([first, tokens + positions], 1)
    maps = []
    for number in range(12):
        x = x + attention(norm(x, f"blocks.{number}.norm1"), f"blocks.{number}.attn")
        inner = linear(norm(x, f"blocks.{number}.norm2"), f"blocks.{number}.mlp.fc1")
        gelu = inner * 0.5 * (1.0 + np.vectorize(math.erf)(inner / math.sqrt(2.0)))
        x = x + linear(gelu, f"blocks.{number}.mlp.fc2")
        if number in (2, 5, 8, 11):
            maps.append(norm(x, "norm")[:, 1:].swapaxes(1, 2).reshape(len(x), -1, *grid))
    padded = np.pad(maps[-1], ((0, 0), (0, 0), (1, 1), (1, 1)))
    cam = np.zeros_like(maps[-1]) + state["cam_conv.bias"][:, None, None]
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i : i + grid[0], j : j + grid[1]]
            cam += np.einsum("oc,bchw->bohw", state["cam_conv.weight"][:, :, i, j], shifted)
    return [*maps, np.maximum(cam, 0.0)]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny", (64, 48)),
        ("vit_tiny", (33, 50)),  # both sides enlarged
        ("vit_tiny", (32, 241)),  # a grid with fewer rows and more columns than the stored positions
        ("vit_small", (32, 32)),
    ],
)
def test_equals_an_independent_computation(name, size, images):
    encoder = VisionTransformer(name).double().eval()
    spread(encoder)
    x_BCHW = encoder.normalize(images(2, *size)).double()
    with torch.no_grad():
        got = encoder(x_BCHW)
    state = {key: value.numpy() for key, value in encoder.state_dict().items()}
    want = reference(state, WIDTHS[name] // 64, x_BCHW.numpy())
    grid = (math.ceil(size[0] / 16), math.ceil(size[1] / 16))
    for mine, truth in zip(got, want, strict=True):
        assert mine.shape == (2, WIDTHS[name], *grid)
        np.testing.assert_allclose(mine.numpy(), truth, rtol=1e-9, atol=1e-9)
    assert 0.2 < (got[-1] > 0).double().mean() < 0.8


def test_stored_positions_are_used_as_they_are_at_224_pixels(images):
    encoder = VisionTransformer("vit_tiny").eval()
    assert encoder._positions(14, 14) is encoder.pos_embed
    resampled = encoder._positions(14, 13)
    assert resampled.shape == (1, 1 + 14 * 13, 192)
    assert torch.equal(resampled[:, :1], encoder.pos_embed[:, :1])
    with torch.no_grad():
        assert encoder(encoder.normalize(images(1, 224)))[-1].shape == (1, 192, 14, 14)
        assert encoder(encoder.normalize(images(1, 209)))[-1].shape == (1, 192, 14, 14)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra `timm`")
@pytest.mark.parametrize(("name", "size"), [("tiny", (96, 160)), ("small", (64, 64))])
def test_equals_timm(name, size, images):
    theirs = import_timm().create_model(f"deit_{name}_patch16_224", dynamic_img_size=True).eval()
    spread(theirs)
    ours = VisionTransformer(f"vit_{name}").eval()
    assert load_state(ours, theirs.state_dict(), "timm") == ["cam_conv.weight", "cam_conv.bias"]
    x_BCHW = ours.normalize(images(2, *size))
    with torch.no_grad():
        want = theirs.forward_intermediates(x_BCHW, indices=[2, 5, 8, 11], norm=True, intermediates_only=True)
        for mine, truth in zip(ours(x_BCHW), want, strict=False):
            torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WIDTHS)
def test_number_of_parameters(name):
    encoder = VisionTransformer(name)
    width = WIDTHS[name]
    block = 12 * width**2 + 13 * width  # four and eight squares of attention and MLP, their biases, two norms
    backbone = 3 * 16 * 16 * width + width + (14 * 14 + 2) * width + 12 * block + 2 * width
    assert backbone == BACKBONE[name]
    new = sum(p.numel() for p in encoder.cam_conv.parameters())
    assert new == 9 * width**2 + width
    assert sum(p.numel() for p in encoder.parameters()) == backbone + new


def public_state(name: str = "vit_tiny") -> dict[str, torch.Tensor]:
    """Names and shapes as in the files of DeiT and DINO, with values of their own."""
    own = VisionTransformer(name).state_dict()
    return {key: torch.randn_like(own[key]) for key in PUBLIC}


def test_our_names_are_the_public_ones():
    assert set(VisionTransformer("vit_tiny").state_dict()) - set(PUBLIC) == {"cam_conv.weight", "cam_conv.bias"}


@pytest.mark.parametrize("form", ["deit", "dino"])
def test_public_files_load(form, tmp_path):
    """DeiT's files hold everything under `model`, with a head; DINO's are plain and have none."""
    state = public_state()
    head = {"head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)}
    torch.save({"model": state | head} if form == "deit" else state, tmp_path / "public.pth")
    encoder = build_encoder("vit_tiny")
    line = load_encoder_weights(encoder, str(tmp_path / "public.pth"))
    assert line.endswith("left random: cam_conv.weight, cam_conv.bias")
    own = encoder.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dist_token": torch.zeros(1, 1, 192)}, "unknown dist_token"),  # DeiT, distilled
        ({"pos_embed": torch.zeros(1, 577, 192)}, r"\(1, 577, 192\) instead of \(1, 197, 192\)"),  # for 384 pixels
    ],
)
def test_other_files_are_refused(more, message, tmp_path):
    torch.save(public_state() | more, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=rf"{message}(.|\n)*names of DeiT and DINO"):
        load_encoder_weights(build_encoder("vit_tiny"), str(tmp_path / "other.pth"))


def test_fast_parameters_are_the_new_convolution():
    encoder = VisionTransformer("vit_tiny")
    fast = {id(p) for p in encoder.fast_parameters()}
    assert fast == {id(p) for name, p in encoder.named_parameters() if name.startswith("cam_conv.")}


def test_initial_weights():
    encoder = VisionTransformer("vit_tiny")
    for weight in (encoder.blocks[3].mlp.fc1.weight, encoder.patch_embed.proj.weight, encoder.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (encoder.patch_embed.proj.bias == 0).all()
    assert encoder.cam_conv.weight.std().item() == pytest.approx((2.0 / (9 * 192)) ** 0.5, rel=0.05)


def test_classification_teaches_every_parameter(images):
    classifier = Classifier(VisionTransformer("vit_tiny"), 3)
    logits_BK = classifier(images(2, 70, 49)).logits_BK
    functional.cross_entropy(logits_BK, torch.tensor([0, 2])).backward()
    gradients = {name: p.grad for name, p in classifier.named_parameters()}
    assert not [name for name, each in gradients.items() if each is None or not each.isfinite().all() or not each.any()]


def test_layercam_is_its_own_definition(images):
    """The closed form equals ``relu(sum_k relu(dz_c / dA_k) A_k)`` by autograd, on this encoder's maps."""
    classifier = Classifier(VisionTransformer("vit_tiny"), 4).double().eval()
    labels_B = torch.tensor([2, 0])
    x_BCHW = classifier.encoder.normalize(images(2, 100, 65)).double()
    cams_layer = classifier.encoder(x_BCHW)[-1].detach().requires_grad_()
    classifier.head(cams_layer)[torch.arange(2), labels_B].sum().backward()
    assert cams_layer.grad is not None
    want_Bhw = (cams_layer.grad.relu() * cams_layer).sum(1).relu().detach()
    features_BChw = cams_layer.detach().float()
    got_Bhw = layercam(features_BChw, class_gradients(classifier.head, features_BChw, labels_B))
    assert want_Bhw.amax() > 0
    torch.testing.assert_close(got_Bhw.double(), want_Bhw, rtol=1e-5, atol=1e-8)
