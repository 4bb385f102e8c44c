from __future__ import annotations

import pytest
import torch

from colocam_dist.losses import (
    ColocalizationSettings,
    Counts,
    FrameCrfSettings,
    LocalizationLoss,
    LossSettings,
    PartialCrossEntropySettings,
    SizeBarrierSettings,
)

SETTINGS = {
    "partial_cross_entropy": PartialCrossEntropySettings(0.7),
    "size_barrier": SizeBarrierSettings(0.3),
    "frame_crf": FrameCrfSettings(3e-4, sigma_xy=4.0, backend="exact"),
    "colocalization": ColocalizationSettings(9.0),
}
OFF = {
    "partial_cross_entropy": PartialCrossEntropySettings(0.0),
    "size_barrier": SizeBarrierSettings(0.0),
    "frame_crf": FrameCrfSettings(0.0),
    "colocalization": ColocalizationSettings(0.0),
}
# Windows have 3, 2 and 1 valid frames; only the first two take part in co-localization.
SHARES = {2: [slice(0, 2), slice(2, 3)], 3: [slice(0, 1), slice(1, 2), slice(2, 3)]}


FRAMES = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.0, 0.2], [0.0, 0.1, 0.0]])  # weights


def shared_counts(example, mask, shares):
    """Every rank's Counts, with the reduction over ranks done by hand."""
    mine = []

    def note(counts):
        mine.append(counts.clone())
        return counts

    for share in shares:
        Counts.of(example.seeds[share], mask[share], note, len(shares))
    total = torch.stack(mine).sum(0)
    return [Counts.of(example.seeds[share], mask[share], lambda _: total, len(shares)) for share in shares]


def run(loss, example, share, counts, mask=None):
    """Total, reported values and the gradient at the logits of a part of the windows."""
    logits = example.logits[share].detach().clone().requires_grad_()
    mask = example.mask if mask is None else mask
    total, terms = loss(logits, example.images[share], example.seeds[share], mask[share], 3, None, counts)
    total.backward()
    return {"total": total.detach(), **terms}, logits.grad


def test_counts_of_a_batch(example):
    counts = Counts.of(example.seeds, example.mask)
    pixels = sum(int((example.seeds[w, n] >= 0).sum()) for w, n in example.mask.nonzero().tolist())
    assert [counts.pixels.item(), counts.frames.item(), counts.windows.item()] == [pixels, 6, 2]
    assert counts.pixels.dtype == torch.float32
    assert counts.frames_W.tolist() == [3, 2, 1]


def test_frames_count_as_much_as_they_weigh(example):
    weights = torch.tensor([[0.5, 1.0, 0.25], [0.0, 0.125, 0.5], [0.75, 0.0, 0.0]])
    counts = Counts.of(example.seeds, weights)
    pixels = sum(float((example.seeds[w, n] >= 0).sum() * weights[w, n]) for w in range(3) for n in range(3))
    assert [counts.pixels.item(), counts.frames.item(), counts.windows.item()] == [pixels, 3.125, 2]
    assert counts.pixels.dtype == counts.windows.dtype == torch.float32
    tiny = Counts.of(example.seeds, 1e-6 * weights)
    assert tiny.frames.item() == pytest.approx(3.125e-6, rel=1e-6), "not clamped to 1, as numbers of frames are"


def test_counts_are_the_mean_over_ranks(example):
    counts = Counts.of(example.seeds, example.mask, lambda own: own + torch.tensor([7, 3, 0]), 4)
    own = Counts.of(example.seeds, example.mask)
    assert counts.pixels.item() == (own.pixels.item() + 7) / 4
    assert [counts.frames.item(), counts.windows.item()] == [(6 + 3) / 4, 2 / 4]


def test_nothing_anywhere_is_not_divided_by_0(example):
    example.mask = torch.zeros_like(example.mask)
    counts = Counts.of(example.seeds, example.mask, lambda own: own, 4)
    values, gradient = run(LocalizationLoss(LossSettings(**SETTINGS)), example, slice(0, 3), counts)
    assert {value.item() for value in values.values()} == {0.0}
    assert gradient.eq(0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ranks", SHARES)
@pytest.mark.parametrize("name", [*SETTINGS, "all"])
def test_the_mean_over_ranks_is_the_value_of_the_whole_batch(example, name, ranks, weighted):
    mask = FRAMES if weighted else example.mask
    loss = LocalizationLoss(LossSettings(**(SETTINGS if name == "all" else OFF | {name: SETTINGS[name]})))
    shares = SHARES[ranks]
    want, gradient = run(loss, example, slice(0, 3), None, mask)
    parts = [
        run(loss, example, share, counts, mask)
        for share, counts in zip(shares, shared_counts(example, mask, shares), strict=True)
    ]
    for key, value in want.items():
        mean = torch.stack([values[key] for values, _ in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)
    together = torch.cat([part for _, part in parts]) / ranks
    torch.testing.assert_close(together, gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max().item())
    # With counts of their own the ranks would miss it.
    alone = [run(loss, example, share, None, mask)[0] for share in shares]
    assert abs(sum(values["total"] for values in alone) / ranks - want["total"]) > 1e-3 * abs(want["total"])


def test_a_rank_without_anything_has_a_graph(example):
    example.mask[2] = False
    everything = Counts.of(example.seeds, example.mask)
    own = Counts.of(example.seeds[2:], example.mask[2:])
    counts = Counts(everything.pixels / 2, everything.frames / 2, everything.windows / 2, own.frames_W)
    values, gradient = run(LocalizationLoss(LossSettings(**SETTINGS)), example, slice(2, 3), counts)
    assert {value.item() for value in values.values()} == {0.0}
    assert gradient.eq(0).all()
