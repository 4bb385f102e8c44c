from __future__ import annotations

import pytest
import torch

from colocam_dist.models.encoders.inception import InceptionV3
from colocam_dist.models.weights import load_state


@pytest.fixture
def pair(torchvision_models, spread_norms):
    theirs = torchvision_models.inception_v3(weights=None, init_weights=False)
    spread_norms(theirs)
    ours = InceptionV3()
    left = load_state(ours, theirs.state_dict(), "torchvision")
    assert sorted(left) == ["SPG_A3_1b.bias", "SPG_A3_1b.weight", "SPG_A3_2b.bias", "SPG_A3_2b.weight"]
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize(
    ("block", "channels"),
    [("Mixed_5b", 192), ("Mixed_5c", 256), ("Mixed_5d", 288), ("Mixed_6b", 768), ("Mixed_6c", 768), ("Mixed_6e", 768)],
)
def test_unchanged_blocks_equal_torchvision(pair, block, channels):
    ours, theirs = pair
    x_BChw = torch.rand(2, channels, 9, 13)
    with torch.no_grad():
        got, want = getattr(ours, block)(x_BChw), getattr(theirs, block)(x_BChw)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_reduction_block_keeps_the_size_and_otherwise_equals_torchvision(pair):
    ours, theirs = pair
    block = theirs.Mixed_6a
    for layer in (block.branch3x3.conv, block.branch3x3dbl_3.conv):
        layer.stride, layer.padding = (1, 1), (1, 1)
    x_BChw = torch.rand(2, 288, 9, 13)
    with torch.no_grad():
        pooled = torch.nn.functional.max_pool2d(x_BChw, 3, 1, 1)
        parts = [block.branch3x3(x_BChw)]
        parts.append(block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x_BChw))))
        torch.testing.assert_close(ours.Mixed_6a(x_BChw), torch.cat([*parts, pooled], 1), rtol=1e-6, atol=1e-6)


def test_fast_parameters_are_the_spg_convolutions():
    encoder = InceptionV3()
    fast = {id(p) for p in encoder.fast_parameters()}
    assert fast == {id(p) for name, p in encoder.named_parameters() if name.startswith("SPG")}
    assert len(fast) == 4


def test_dropout_acts_in_training_only(images):
    encoder = InceptionV3()
    x_BCHW = encoder.normalize(images(2, 65))
    with torch.no_grad():
        encoder.eval()
        assert torch.equal(encoder(x_BCHW)[-1], encoder(x_BCHW)[-1])
        encoder.dropout.train()
        assert not torch.equal(encoder(x_BCHW)[-1], encoder(x_BCHW)[-1])
