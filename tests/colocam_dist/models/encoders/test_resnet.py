from __future__ import annotations

import pytest
import torch

from colocam_dist.models.encoders.resnet import ResNet


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_equals_torchvision(name, torchvision_models, images, spread_norms):
    theirs = getattr(torchvision_models, name)(weights=None)
    spread_norms(theirs)
    theirs.eval()
    ours = ResNet(name, 32).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    x_BCHW = ours.normalize(images(2, 97, 129))
    with torch.no_grad():
        logits_BK = theirs.fc(ours(x_BCHW)[-1].mean((2, 3)))
        torch.testing.assert_close(logits_BK, theirs(x_BCHW), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("output_stride", "sizes"), [(8, [28, 28, 28]), (16, [28, 14, 14]), (32, [28, 14, 7])])
def test_output_stride_removes_strides(output_stride, sizes, images):
    encoder = ResNet("resnet18", output_stride).eval()
    with torch.no_grad():
        maps = encoder(encoder.normalize(images(1, 224)))
    assert [tuple(m.shape[1:]) for m in maps[:2]] == [(64, 112, 112), (64, 56, 56)]
    assert [m.shape[-1] for m in maps[2:]] == sizes
    assert [m.shape[1] for m in maps] == list(encoder.feature_channels)
    assert (maps[-1] >= 0).all()


def test_strides_are_removed_without_dilation():
    dilations = {layer.dilation for layer in ResNet("resnet50").modules() if isinstance(layer, torch.nn.Conv2d)}
    assert dilations == {(1, 1)}


def test_fast_parameters_are_layer4():
    encoder = ResNet("resnet50")
    fast = {id(p) for p in encoder.fast_parameters()}
    assert fast == {id(p) for name, p in encoder.named_parameters() if name.startswith("layer4.")}
    assert len(fast) == 30
