from __future__ import annotations

import pytest
import torch

from colocam_dist.errors import ConfigError
from colocam_dist.models import Classifier, Localizer, build_encoder

# Reference facts: encoder + head, decoder, total; GMACs of the classifier and of the whole at 224 pixels, 10 classes.
SIZES = [
    ("resnet50", 23_528_522, 9_013_218, 32_541_740, 19.077, 27.647),
    ("vgg16", 19_444_554, 23_120_770, 42_565_324, 23.208, 62.109),
    ("inceptionv3", 25_493_226, 5_704_674, 31_197_900, 22.093, 28.160),
]
MAPS = {
    "resnet50": [(64, 112), (256, 56), (512, 28), (1024, 28), (2048, 28)],
    "vgg16": [(128, 112), (256, 56), (1024, 28)],
    "inceptionv3": [(64, 112), (80, 57), (288, 29), (768, 29), (1024, 29)],
}


def parameters(model: torch.nn.Module, *, learning: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not learning)


@pytest.mark.parametrize(("name", "classifier_size", "learning", "total", "gmacs", "total_gmacs"), SIZES)
def test_published_sizes(name, classifier_size, learning, total, gmacs, total_gmacs, images, count_macs):
    classifier = Classifier(build_encoder(name), 10).eval()
    assert parameters(classifier) == parameters(classifier, learning=True) == classifier_size
    macs = count_macs(classifier, images(1, 224))
    localizer = Localizer(classifier).eval()
    assert (parameters(localizer, learning=True), parameters(localizer)) == (learning, total)
    total_macs = count_macs(localizer, images(1, 224))
    assert macs / 1e9 == pytest.approx(gmacs, rel=1e-3)
    assert total_macs / 1e9 == pytest.approx(total_gmacs, rel=1e-3)
    if name == "resnet50":
        assert (total_macs - macs) / 1e9 == pytest.approx(8.569, rel=1e-3)
    with torch.no_grad():
        shapes = [tuple(m.shape[1:]) for m in classifier(images(1, 224)).features]
    assert shapes == [(channels, side, side) for channels, side in MAPS[name]]


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "inceptionv3", "efficientnet_lite0", "vit_tiny"])
@pytest.mark.parametrize("size", [(97, 97), (65, 112)])
def test_maps_have_the_size_of_the_images(name, size, images):
    localizer = Localizer(Classifier(build_encoder(name), 3)).eval()
    with torch.no_grad():
        output = localizer(images(2, *size))
    assert output.map_logits_B2HW.shape == (2, 2, *size)
    assert output.class_logits_BK.shape == (2, 3)
    assert output.features_BChw.shape[:2] == (2, localizer.classifier.encoder.feature_channels[-1])


@pytest.mark.parametrize("side", [225, 200])
def test_large_odd_sizes(side, images):
    localizer = Localizer(Classifier(build_encoder("resnet18"), 3)).eval()
    with torch.no_grad():
        assert localizer(images(1, side)).map_logits_B2HW.shape[2:] == (side, side)


def test_head_pools_then_projects(images):
    classifier = Classifier(build_encoder("resnet18"), 4).eval()
    classifier.head.bias.data.normal_()
    with torch.no_grad():
        features, logits_BK = classifier(images(3, 65, 97))
    weight_KC = classifier.head.weight.detach().double()
    maps = torch.einsum("kc,bchw->bkhw", weight_KC, features[-1].double())
    want = maps.mean((2, 3)) + classifier.head.bias.detach().double()
    torch.testing.assert_close(logits_BK.double(), want, rtol=1e-5, atol=1e-5)


def test_head_starts_xavier_uniform_with_zero_bias():
    head = Classifier(build_encoder("resnet18"), 10).head
    bound = (6.0 / (512 + 10)) ** 0.5
    assert 0.98 * bound < head.weight.abs().max().item() <= bound
    assert (head.bias == 0).all()


@pytest.mark.parametrize("name", ["resnet18", "inceptionv3", "efficientnet_lite0", "vit_tiny"])
def test_training_the_localizer_changes_nothing_in_the_classifier(name, images):
    localizer = Localizer(Classifier(build_encoder(name), 3))
    before = {key: value.clone() for key, value in localizer.state_dict().items()}
    optimizer = torch.optim.SGD(localizer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        localizer.train(step != 1)
        optimizer.zero_grad()
        output = localizer(images(2, 65))
        assert not output.class_logits_BK.requires_grad
        assert not output.features_BChw.requires_grad
        output.map_logits_B2HW.backward(torch.randn_like(output.map_logits_B2HW))
        optimizer.step()
    after = localizer.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not {key for key in changed if key.startswith("classifier.")}
    assert changed == {key for key in before if key.startswith("decoder.")}


def test_modes():
    localizer = Localizer(Classifier(build_encoder("resnet18"), 3))
    assert localizer.decoder.training
    assert not any(m.training for m in localizer.classifier.modules())
    torch.nn.Sequential(localizer).eval().train()
    assert localizer.decoder.training
    assert not any(m.training for m in localizer.classifier.modules())
    assert not localizer.eval().decoder.training
    assert not any(p.requires_grad for p in localizer.classifier.parameters())


def test_no_graph_is_kept_for_the_encoder(images):
    localizer = Localizer(Classifier(build_encoder("resnet18"), 3))
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    localizer.classifier.requires_grad_(True)  # even where somebody undoes the freezing
    encoder_weights = {p.data_ptr() for p in localizer.classifier.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        localizer(images(2, 65))
    assert saved
    assert not encoder_weights & {tensor.data_ptr() for tensor in saved}


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vit_tiny"])
def test_autocast(name, images):
    localizer = Localizer(Classifier(build_encoder(name), 3)).eval()
    with torch.no_grad():
        exact = localizer(images(2, 65)).map_logits_B2HW
    with torch.autocast("cpu", torch.bfloat16):
        output = localizer(images(2, 65))
    logits = output.map_logits_B2HW
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).norm() < 0.05 * exact.norm()
    logits.backward(torch.randn_like(logits))
    assert all(p.grad is not None for p in localizer.decoder.parameters())


def test_widths_can_be_chosen(images):
    localizer = Localizer(Classifier(build_encoder("resnet18"), 3), (8, 8, 8, 4, 4)).eval()
    assert localizer.decoder.head.in_channels == 4
    assert localizer(images(1, 65)).map_logits_B2HW.shape == (1, 2, 65, 65)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "inceptionv3", "efficientnet_lite0", "vit_tiny"])
@pytest.mark.parametrize("stride", [2, 4])
def test_smaller_maps(name, stride, images):
    classifier = Classifier(build_encoder(name), 3)
    whole, small = Localizer(classifier).eval(), Localizer(classifier, map_stride=stride).eval()
    saved = stride.bit_length() - 1
    kept = {key: value for key, value in whole.decoder.state_dict().items() if "head" not in key}
    for block in range(len(whole.decoder.blocks) - saved, len(whole.decoder.blocks)):
        kept = {key: value for key, value in kept.items() if not key.startswith(f"blocks.{block}.")}
    assert {key for key in small.decoder.state_dict() if "head" not in key} == set(kept)
    pictures = images(2, 96, 64)
    with torch.no_grad():
        own, full = small.own_maps(pictures), small(pictures)
    assert own.map_logits_B2HW.shape == (2, 2, 96 // stride, 64 // stride)
    assert full.map_logits_B2HW.shape == (2, 2, 96, 64)
    truth = torch.nn.functional.interpolate(own.map_logits_B2HW, scale_factor=stride, mode="bilinear")
    torch.testing.assert_close(full.map_logits_B2HW, truth)


def test_smaller_maps_have_fewer_widths():
    with pytest.raises(ConfigError, match=r"model\.map_stride 2"):
        Localizer(Classifier(build_encoder("resnet18"), 3), (16, 16, 8, 8, 8), map_stride=2)


def test_only_the_head_learns(images):
    classifier = Classifier(build_encoder("efficientnet_lite0"), 3)
    classifier.train_only_head()
    before = {name: value.clone() for name, value in classifier.encoder.state_dict().items()}
    classifier.train()
    assert classifier.head.training
    classifier(images(2, 64)).logits_BK.sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]
    for name, value in classifier.encoder.state_dict().items():  # BatchNorm's statistics, too
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vgg16", "inceptionv3", "vit_tiny"])
def test_an_encoder_with_new_layers_has_to_learn(name):
    with pytest.raises(ConfigError, match="would stay random"):
        Classifier(build_encoder(name), 3).train_only_head()
