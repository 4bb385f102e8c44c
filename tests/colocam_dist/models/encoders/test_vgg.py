from __future__ import annotations

import torch
from torch.nn import functional

from colocam_dist.models.encoders.vgg import VGG16
from colocam_dist.models.weights import load_state


def test_equals_torchvision_without_the_last_pools(torchvision_models, images):
    theirs = torchvision_models.vgg16(weights=None).eval()
    ours = VGG16().eval()
    left = load_state(ours, theirs.state_dict(), "torchvision")
    assert left == ["conv6.weight", "conv6.bias"]
    x_BCHW = ours.normalize(images(1, 65, 97))
    y_BChw, maps = x_BCHW, []
    with torch.no_grad():
        for number, layer in enumerate(theirs.features):
            if number in (9, 16):  # second and third pool
                maps.append(y_BChw)
            if number not in (23, 30):  # fourth and fifth pool
                y_BChw = layer(y_BChw)
        maps.append(functional.relu(ours.conv6(y_BChw)))
        for got, want in zip(ours(x_BCHW), maps, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_convolutions_are_matched_by_order_whatever_their_numbers():
    source, target = VGG16(), VGG16()
    names = sorted(source.features, key=int)
    renumbered = {
        f"features.{position}.{kind}": getattr(source.features[name], kind)
        for position, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    load_state(target, renumbered, "renumbered")
    for name in names:
        assert torch.equal(target.features[name].weight, source.features[name].weight)


def test_fast_parameters_are_conv6():
    encoder = VGG16()
    assert {id(p) for p in encoder.fast_parameters()} == {id(p) for p in encoder.conv6.parameters()}
