from __future__ import annotations

import csv
import importlib.util

import cv2
import numpy as np
import pytest
import torch

from colocam_dist.models.encoders.efficientnet_lite import EfficientNetLite0, SameConv2d
from colocam_dist.models.encoders.timm_pyramid import import_timm
from colocam_dist.models.localizer import Classifier
from colocam_dist.models.weights import LITE0_PACKAGE, load_encoder_weights, load_state, read_state

pretrained = pytest.mark.skipif(importlib.util.find_spec(LITE0_PACKAGE) is None, reason="needs the extra `pretrained`")
TABBY_TO_EGYPTIAN_CAT = range(281, 286)


def published_state() -> dict[str, torch.Tensor]:
    line = load_encoder_weights(EfficientNetLite0(), "imagenet")
    return read_state(line.split(": ")[1].split(" (")[0])


def imagenet_classifier(output_stride: int | None = None) -> Classifier:
    """The published network with its own 1000-class head."""
    state = published_state()
    encoder = EfficientNetLite0(output_stride)
    load_state(encoder, state, "package")
    model = Classifier(encoder, 1000)
    model.head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    return model.eval()


def squeeze(image_HWC: np.ndarray, side: int) -> torch.Tensor:
    return torch.from_numpy(cv2.resize(image_HWC, (side, side), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (5, 1, 2), (3, 1, 2)])
@pytest.mark.parametrize("size", [(7, 8), (8, 9), (15, 1)])
def test_same_padding_follows_tensorflows_definition(kernel, stride, dilation, size):
    convolution = SameConv2d(2, 4, kernel, stride, dilation=dilation, bias=False, groups=2).double()
    x_BChw = torch.randn(1, 2, *size, dtype=torch.float64)
    got = convolution(x_BChw)
    # From the definition, tap by tap: output i reads input i * stride - pad_before + tap * dilation.
    out = [-(-n // stride) for n in size]
    span = (kernel - 1) * dilation + 1
    before = [max((o - 1) * stride + span - n, 0) // 2 for o, n in zip(out, size, strict=True)]
    want = torch.zeros(1, 4, *out, dtype=torch.float64)
    for channel in range(4):
        for row, column in np.ndindex(*out):
            for i, j in np.ndindex(kernel, kernel):
                y, x = row * stride - before[0] + i * dilation, column * stride - before[1] + j * dilation
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    pixel = x_BChw[0, channel // 2, y, x]
                    want[0, channel, row, column] += pixel * convolution.weight[channel, 0, i, j].detach()
    torch.testing.assert_close(got.detach(), want)


@pytest.mark.parametrize(("output_stride", "deepest"), [(None, 7), (32, 7), (16, 14)])
def test_pyramid(output_stride, deepest, images):
    encoder = EfficientNetLite0(output_stride).eval()
    with torch.no_grad():
        maps = encoder(encoder.normalize(images(1, 224)))
    assert [m.shape[1] for m in maps] == [16, 24, 40, 112, 1280]
    assert [m.shape[-1] for m in maps] == [112, 56, 28, 14, deepest]
    assert maps[-1].amin() >= 0
    assert maps[-1].amax() <= 6


def test_input_scale(images):
    pixels = images(1, 5)
    expected = (pixels.numpy().astype(np.float64) - 127.0) / 128.0
    np.testing.assert_allclose(EfficientNetLite0().normalize(pixels).numpy(), expected, atol=1e-7)


@pretrained
def test_published_names_load_strictly():
    state = published_state()
    head = {name for name in state if name.startswith("_fc.")}
    assert {tuple(state[name].shape) for name in head} == {(1000, 1280), (1000,)}
    EfficientNetLite0().load_state_dict({k: v for k, v in state.items() if k not in head}, strict=True)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra `timm`")
def test_equals_timms_port_from_tensorflow(images, spread_norms):
    theirs = import_timm().create_model("tf_efficientnet_lite0")
    spread_norms(theirs)
    theirs.eval()
    ours = EfficientNetLite0().eval()
    stored = [value for name, value in theirs.state_dict().items() if not name.startswith("classifier.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), stored, strict=True)))  # other names, same order
    x_BCHW = ours.normalize(images(2, 97, 130))
    with torch.no_grad():
        got = theirs.classifier(ours(x_BCHW)[-1].mean((2, 3)))
        torch.testing.assert_close(got, theirs(x_BCHW), rtol=1e-5, atol=1e-5)


def test_fast_parameters_are_the_deepest_stages():
    encoder = EfficientNetLite0()
    fast = {id(p) for p in encoder.fast_parameters()}
    deep = (*(f"_blocks.{i}." for i in range(11, 16)), "_conv_head.", "_bn1.")
    assert fast == {id(p) for name, p in encoder.named_parameters() if name.startswith(deep)}


@pretrained
@pytest.mark.parametrize("output_stride", [32, 16])
def test_pretrained_network_knows_a_cat(output_stride):
    data = pytest.importorskip("skimage.data", reason="needs the extra `synthetic`")
    image = squeeze(data.chelsea(), 224)
    with torch.no_grad():
        logits_K = imagenet_classifier(output_stride)(image[None]).logits_BK[0]
    probability_K = logits_K.softmax(0)
    assert int(logits_K.argmax()) in TABBY_TO_EGYPTIAN_CAT
    assert probability_K[list(TABBY_TO_EGYPTIAN_CAT)].sum() > 0.8


WORDS = {"aeroplane": ("airliner", "warplane"), "train": ("locomotive", "bullet train", "freight car", "passenger car")}


@pretrained
@pytest.mark.shared
def test_pretrained_network_names_real_frames(shared):
    """Real video frames of two classes are named right far above chance, which is 2 and 6 labels of 1000."""
    folder = shared / "data" / "yto22-thumbs"
    labels = (shared / "weights" / "imagenet_labels.txt").read_text().splitlines()[1:]
    assert len(labels) == 1000
    with (folder / "frames.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["class"] in WORDS]
    model = imagenet_classifier()
    for name, words in WORDS.items():
        paths = [folder / row["path"] for row in rows if row["class"] == name][::8]
        frames = [squeeze(cv2.imread(str(path))[..., ::-1].copy(), 224) for path in paths]
        with torch.no_grad():
            answers = model(torch.stack(frames)).logits_BK.argmax(1).tolist()
        right = sum(any(word in labels[answer] for word in words) for answer in answers)
        assert right >= 0.4 * len(frames), f"{name}: {right} of {len(frames)}"
