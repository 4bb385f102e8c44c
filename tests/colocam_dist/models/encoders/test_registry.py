from __future__ import annotations

import pytest
import torch

from colocam_dist.config import load
from colocam_dist.config.model import ENCODERS as KNOWN
from colocam_dist.errors import ConfigError
from colocam_dist.models.encoders import ENCODERS, build_encoder
from colocam_dist.models.encoders.base import Encoder, init_convolutions


@pytest.mark.parametrize("name", ENCODERS)
def test_every_name_builds_what_it_says(name, images):
    encoder = build_encoder(name)
    assert encoder.name == name
    assert encoder.output_stride == encoder.strides[0]
    assert len(encoder.feature_channels) == len(encoder.decoder_channels)
    with torch.no_grad():
        maps = encoder.eval()(encoder.normalize(images(1, 65)))
    assert [m.shape[1] for m in maps] == list(encoder.feature_channels)
    assert maps[-1].amin() >= 0


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        build_encoder("resnet-50")


@pytest.mark.parametrize(
    ("name", "stride"), [("vgg16", 16), ("resnet50", 4), ("efficientnet_lite0", 8), ("vit_tiny", 8)]
)
def test_impossible_output_stride(name, stride):
    with pytest.raises(ConfigError, match=f"got: {stride}"):
        build_encoder(name, output_stride=stride)


def test_state_holds_no_names_of_our_own():
    assert not [name for name in build_encoder("resnet18").state_dict() if "mean_C" in name or "std_C" in name]


def test_normalization_by_hand(images):
    encoder = build_encoder("resnet18")
    pixels = images(2, 3, 5)[:, None]  # a leading axis more than usual
    got = encoder.normalize(pixels)
    assert got.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    want = (pixels.double() / 255.0 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)]
)
def test_only_uint8_rgb_is_normalized(wrong):
    with pytest.raises(ValueError, match="wanted uint8 RGB"):
        build_encoder("resnet18").normalize(wrong)


def test_encoder_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Encoder(8)  # type: ignore[abstract]


@pytest.mark.parametrize(("groups", "fan"), [(1, 64 * 9), (64, 9)])
def test_initial_weights_keep_the_variance(groups, fan):
    layer = torch.nn.Conv2d(64, 64, 3, groups=groups)
    init_convolutions(layer)
    assert layer.weight.std().item() == pytest.approx((2.0 / fan) ** 0.5, rel=0.1)
    assert (layer.bias == 0).all()


def test_settings_know_the_same_names() -> None:
    assert tuple(ENCODERS) == KNOWN
    with pytest.raises(ConfigError, match=r"model.encoder \[command line\]: unknown encoder.*did you mean resnet50\?"):
        load(None, ["data.shards=x", "model.encoder=resnet-50"])
    assert load(None, ["data.shards=x", "model.encoder=timm:convnext_tiny"]).model.encoder == "timm:convnext_tiny"
