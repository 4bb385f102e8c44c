from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colocam_dist.seeds import SeedDraw, SeedSettings, box_of_largest, otsu_threshold, pixel_noise, sample_seeds

PAPER = SeedSettings(region="otsu", fg_fraction=1.0, bg_complement=True, n_fg=1, n_bg=1, dilation=1)


def blobs(n: int, height: int = 41, width: int = 53, seed: int = 0) -> torch.Tensor:
    """Smooth maps in [0, 1] with two bumps each."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 1, 5, 6, generator=generator)
    maps = F.interpolate(low, size=(height, width), mode="bicubic", align_corners=False)[:, 0]
    low_B, high_B = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low_B) / (high_B - low_B)


def seeded(value: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def otsu_by_search(cam: np.ndarray) -> float:
    """Every split of numpy's own 256-bin histogram, one after the other."""
    gray = np.floor(cam.astype(np.float32) * np.float32(255)).astype(np.float64)
    counts, edges = np.histogram(gray, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    best, threshold = -1.0, 0.0
    for split in range(1, 256):
        n0, n1 = counts[:split].sum(), counts[split:].sum()
        mean0 = (counts[:split] * centers[:split]).sum() / n0
        mean1 = (counts[split:] * centers[split:]).sum() / n1
        between = float(n0) * float(n1) * (mean0 - mean1) ** 2
        if between > best * (1 + 1e-12):
            best, threshold = between, centers[split - 1]
    return threshold


@pytest.mark.shared
def test_matches_the_public_codes_regions(shared):
    facts = np.load(shared / "fixtures" / "eval_boxes.npz")
    cams = F.interpolate(torch.from_numpy(facts["cam_low"])[:, None], (224, 224), mode="bilinear", align_corners=False)
    cams = cams[:, 0]
    threshold = otsu_threshold(cams)
    np.testing.assert_array_equal(threshold.numpy(), facts["otsu_255"])
    blob = cams.double() * 255 >= threshold[:, None, None]
    np.testing.assert_array_equal(blob.sum((1, 2)).numpy(), facts["roi_all_area"])
    boxes = box_of_largest(blob)
    np.testing.assert_array_equal(boxes.numpy(), facts["roi_largest_bbox"])
    x0, y0, x1, y1 = boxes.numpy().T
    np.testing.assert_array_equal((x1 - x0) * (y1 - y0), facts["roi_largest_bbox_mask_area"])


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_otsu_equals_a_search_over_all_splits(scale):
    maps = blobs(6) * scale + 0.1 * (1 - scale)
    got = otsu_threshold(maps).numpy()
    np.testing.assert_allclose(got, [otsu_by_search(cam.numpy()) for cam in maps], rtol=1e-12)


def test_otsu_of_a_constant_map_is_its_gray_value():
    assert otsu_threshold(torch.full((2, 4, 4), 0.5)).tolist() == [127.0, 127.0]


def test_box_of_largest_component():
    masks = torch.zeros(5, 9, 11, dtype=torch.bool)
    masks[0, 1:4, 2:5] = True  # 9 pixels
    masks[0, 6, 3:10] = True  # 7 pixels, wider
    masks[1, 2, 2] = masks[1, 3, 3] = masks[1, 4, 4] = True  # diagonal neighbors are not connected
    masks[1, 7, 5:7] = True
    masks[3, 5:, 8:] = True  # touches both far borders
    masks[4, 0, 0] = masks[4, 8, 4] = True  # tie
    assert box_of_largest(masks).tolist() == [[2, 1, 5, 4], [5, 7, 7, 8], [0, 0, 0, 0], [8, 5, 10, 8], [0, 0, 1, 1]]


def test_published_recipe_counts_and_places():
    cams = blobs(4)
    settings = SeedSettings(n_fg=50, n_bg=40, dilation=1)
    labels = sample_seeds(cams, settings, seeded())
    assert labels.dtype == torch.int64
    assert set(labels.unique().tolist()) == {-255, 0, 1}
    boxes = box_of_largest(cams.double() * 255 >= otsu_threshold(cams)[:, None, None])
    for cam, label, (x0, y0, x1, y1) in zip(cams, labels, boxes.tolist(), strict=True):
        fg, bg = label == 1, label == 0
        assert (int(fg.sum()), int(bg.sum())) == (50, 40)
        inside = torch.zeros_like(fg)
        inside[y0:y1, x0:x1] = True
        assert not (fg & ~inside).any()
        in_box = cam[y0:y1, x0:x1].flatten().sort(descending=True).values
        assert cam[fg].min() >= in_box[int(0.7 * len(in_box)) - 1]
        assert cam[bg].max() <= cam.flatten().sort().values[int(0.1 * cam.numel()) - 1]


def test_candidates_are_exactly_the_stated_shares():
    """Asking for more pixels than there are candidates returns all of them."""
    cams = blobs(3)
    cams[0] = (cams[0] * 8).round() / 8  # many ties
    labels = sample_seeds(cams, SeedSettings(region="all", fg_fraction=0.3, bg_fraction=0.2, dilation=1), seeded())
    assert (labels == 1).sum((1, 2)).tolist() == [int(0.3 * 41 * 53)] * 3
    assert (labels == 0).sum((1, 2)).tolist() == [int(0.2 * 41 * 53)] * 3
    everything = SeedSettings(region="otsu", fg_fraction=1.0, bg_complement=True, n_fg=9999, n_bg=9999, dilation=1)
    blob = cams.double() * 255 >= otsu_threshold(cams)[:, None, None]
    assert torch.equal(sample_seeds(cams, everything, seeded()), blob.long())


def test_paper_recipe():
    cams = blobs(9)
    labels = sample_seeds(cams, PAPER, seeded())
    blob = cams.double() * 255 >= otsu_threshold(cams)[:, None, None]
    assert (labels == 1).sum((1, 2)).tolist() == [1] * 9
    assert (labels == 0).sum((1, 2)).tolist() == [1] * 9
    assert blob[labels == 1].all()
    assert not blob[labels == 0].any()


def test_weighted_draw_has_the_stated_probabilities():
    """First pick ~ weight, second pick ~ weight among the rest: inclusion probabilities of 4 pixels, 2 drawn."""
    cam = torch.tensor([[0.1, 0.2, 0.3, 1.0], [0.0, 0.0, 0.0, 0.0]])
    weight = cam[0].double()
    p = weight / weight.sum()
    truth = torch.stack([p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)])
    settings = SeedSettings(region="all", fg_fraction=0.5, n_fg=2, n_bg=0, dilation=1)
    frames = 10_000
    drawn = sample_seeds(cam.expand(frames, 2, 4).contiguous(), settings, seeded()) == 1
    assert drawn.sum((1, 2)).eq(2).all()
    error = (drawn[:, 0].double().mean(0) - truth).abs()
    assert (error <= 4 * (truth * (1 - truth) / frames).sqrt()).all()
    uniform = sample_seeds(
        cam.expand(frames, 2, 4).contiguous(),
        SeedSettings(region="all", fg_fraction=0.5, n_fg=2, n_bg=0, dilation=1, weighted=False),
        seeded(),
    )
    assert ((uniform[:, 0] == 1).double().mean(0) - 0.5).abs().max() <= 4 * (0.25 / frames) ** 0.5


def test_background_is_uniform_over_the_weakest_pixels():
    cam = torch.linspace(0, 1, 20).view(1, 4, 5)
    settings = SeedSettings(n_fg=0, n_bg=1, bg_fraction=0.25, dilation=1)
    drawn = (sample_seeds(cam.expand(10_000, 4, 5).contiguous(), settings, seeded()) == 0).double().mean(0).flatten()
    assert drawn[5:].sum() == 0
    assert (drawn[:5] - 0.2).abs().max() <= 4 * (0.16 / 10_000) ** 0.5


def test_dilation_and_conflicts():
    cam = torch.full((1, 6, 7), 0.5)
    cam[0, 2, 3] = 1.0
    cam[0, 5, 0] = 0.0
    one = SeedSettings(region="all", fg_fraction=1 / 42, bg_fraction=1 / 42, n_fg=1, n_bg=1, dilation=3)
    label = sample_seeds(cam, one, seeded())[0]
    expected = torch.full((6, 7), -255)
    expected[1:4, 2:5] = 1
    expected[4:6, 0:2] = 0
    assert torch.equal(label, expected)
    # With squares of 5 they meet at row 3 and 4, columns 1 and 2: nobody gets the shared pixels.
    label = sample_seeds(cam, SeedSettings("all", 1 / 42, 1 / 42, n_fg=1, n_bg=1, dilation=5), seeded())[0]
    expected = torch.full((6, 7), -255)
    expected[0:5, 1:6] = 1
    expected[3:6, 0:3] = 0
    expected[3:5, 1:3] = -255
    assert torch.equal(label, expected)


@pytest.mark.parametrize("settings", [SeedSettings(), PAPER, SeedSettings(region="all")])
def test_constant_and_masked_frames_get_no_seeds_and_disturb_no_other(settings):
    cams = blobs(4)
    truth = sample_seeds(cams, settings, seeded())
    changed = cams.clone()
    changed[1] = 0.7
    changed[3] = 0.0
    labels = sample_seeds(changed, settings, seeded(), mask_B=torch.tensor([True, True, False, True]))
    assert labels[1:].eq(-255).all()
    assert torch.equal(labels[0], truth[0])
    assert (truth != -255).flatten(1).any(1).all()


def test_reproducible_under_a_generator_only():
    cams, settings = blobs(3), SeedSettings(n_fg=20, n_bg=20)
    first = sample_seeds(cams, settings, seeded(1))
    torch.rand(5)
    assert torch.equal(first, sample_seeds(cams, settings, seeded(1)))
    assert not torch.equal(first, sample_seeds(cams, settings, seeded(2)))
    generator = seeded(1)
    sample_seeds(cams, settings, generator)
    assert not torch.equal(first, sample_seeds(cams, settings, generator))


@pytest.mark.parametrize("region", ["box_of_largest", "otsu", "all"])
def test_a_draw_in_two_parts_is_fixed_when_it_begins(region):
    cams, settings = blobs(3), SeedSettings(region=region, n_fg=30, n_bg=30)
    mask = torch.tensor([True, False, True])
    expected = sample_seeds(cams, settings, seeded(), mask)
    generator = seeded()
    draw = SeedDraw(cams, settings, generator, mask)
    torch.rand(100, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(draw.labels(), expected)
    assert torch.equal(draw.labels(), expected)


def test_seeds_of_a_frame_depend_on_its_id_and_not_on_its_batch():
    cams, settings = blobs(3), SeedSettings(n_fg=20, n_bg=20)
    ids = torch.tensor([7, 2**40, 9])

    def draw(frames: list[int], **key: int) -> torch.Tensor:
        noise = pixel_noise(ids[frames], (41, 53), **({"seed": 3, "epoch": 1} | key))
        return sample_seeds(cams[frames], settings, noise)

    together = draw([0, 1, 2])
    assert torch.equal(together[[2, 0]], draw([2, 0]))
    for other in ({"seed": 4}, {"epoch": 2}):
        assert (draw([0, 1, 2], **other) != together).flatten(1).any(1).all()


def test_foreground_and_background_noise_are_independent():
    """One candidate set for both draws: equal noise would pick the same pixels, which would then all be dropped."""
    cams = torch.linspace(0, 1, 30).view(1, 5, 6).expand(400, 5, 6)
    settings = SeedSettings("all", 1.0, 1.0, n_fg=10, n_bg=10, weighted=False, dilation=1)
    labels = sample_seeds(cams, settings, pixel_noise(torch.arange(400), (5, 6), seed=0, epoch=0))
    fg, bg = ((labels == kind).sum((1, 2)).double().mean().item() for kind in (1, 0))
    # 10 of 30 each: a drawn pixel keeps its label with probability 2/3.
    assert fg == pytest.approx(20 / 3, abs=0.3)
    assert bg == pytest.approx(20 / 3, abs=0.3)


def test_half_precision_cams():
    cams = blobs(2).half()
    assert torch.equal(
        sample_seeds(cams, SeedSettings(), seeded()), sample_seeds(cams.float(), SeedSettings(), seeded())
    )


@pytest.mark.parametrize(
    "wrong",
    [{"region": "largest"}, {"fg_fraction": 0.0}, {"bg_fraction": 1.1}, {"n_fg": -1}, {"n_bg": -1}, {"dilation": 2}],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SeedSettings(**wrong)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"CAMs \[B, H, W\]"):
        sample_seeds(torch.rand(4, 4), SeedSettings())
    with pytest.raises(ValueError, match=r"mask \[B\]"):
        sample_seeds(torch.rand(2, 4, 4), SeedSettings(), mask_B=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"noise \(2, 2, 4, 4\)"):
        sample_seeds(torch.rand(2, 4, 4), SeedSettings(), torch.rand(2, 4, 4))
