from __future__ import annotations

import torch

from colocam_dist.losses import PartialCrossEntropy, PartialCrossEntropySettings


def test_value_and_gradient(example):
    loss = PartialCrossEntropy(PartialCrossEntropySettings(weight=0.7))(example.logits, example.seeds, example.mask)
    (2.5 * loss).backward()
    maps = example.logits.detach().double().softmax(2)
    gradient, value, count = torch.zeros_like(maps), 0.0, 0
    for w, n, y, x in example.seeds.ge(0).nonzero().tolist():
        if example.mask[w, n]:
            label = int(example.seeds[w, n, y, x])
            value -= float(maps[w, n, label, y, x].log())
            gradient[w, n, :, y, x] = maps[w, n, :, y, x]
            gradient[w, n, label, y, x] -= 1
            count += 1
    assert count > 50
    torch.testing.assert_close(loss.double(), torch.tensor(0.7 * value / count).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(example.logits.grad.double(), 2.5 * 0.7 * gradient / count, rtol=1e-5, atol=1e-9)


def test_no_labeled_pixel_gives_exact_zero_with_a_graph(example):
    term = PartialCrossEntropy(PartialCrossEntropySettings())
    for seeds, mask in [
        (torch.full_like(example.seeds, -255), example.mask),
        (example.seeds, torch.zeros_like(example.mask)),
    ]:
        example.logits.grad = None
        loss = term(example.logits, seeds, mask)
        assert loss.item() == 0.0
        loss.backward()
        assert example.logits.grad.eq(0).all()


def test_masked_frames_equal_removed_frames(example):
    term = PartialCrossEntropy(PartialCrossEntropySettings())
    keep = example.mask.flatten()
    removed = term(
        example.logits.flatten(0, 1)[keep][None], example.seeds.flatten(0, 1)[keep][None], torch.ones(1, 6).bool()
    )
    torch.testing.assert_close(term(example.logits, example.seeds, example.mask), removed, rtol=1e-6, atol=0)
