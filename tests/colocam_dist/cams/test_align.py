from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from colocam_dist.cams import crop_cams

CROPS = torch.tensor([[0, 0, 0], [5, 3, 1], [14, 14, 0], [1, 13, 1]], dtype=torch.int32)


def frame_by_frame(cams: torch.Tensor, crops: torch.Tensor, resize: int, crop: int) -> torch.Tensor:
    out = []
    for cam, (top, left, flip) in zip(cams, crops.tolist(), strict=True):
        full = F.interpolate(cam.float()[None, None], size=(resize, resize), mode="bilinear", align_corners=False)
        cut = full[0, 0, top : top + crop, left : left + crop]
        out.append(cut.flip(1) if flip else cut)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_equals_one_frame_at_a_time(dtype):
    cams = torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = crop_cams(cams, CROPS, resize=37, crop=23)
    assert got.dtype == torch.float32
    assert torch.equal(got, frame_by_frame(cams, CROPS, 37, 23))


def test_whole_frame_and_flip():
    cams = torch.rand(2, 6, 6)
    whole = crop_cams(cams, torch.tensor([[0, 0, 0], [0, 0, 1]]), resize=6, crop=6)
    assert torch.equal(whole, torch.stack([cams[0], cams[1].flip(1)]))


def test_window_outside_the_frame_is_refused():
    with pytest.raises(IndexError):
        crop_cams(torch.rand(1, 6, 6), torch.tensor([[15, 0, 0]]), resize=37, crop=23)


@pytest.mark.parametrize(
    ("cams", "crops", "resize", "crop"),
    [((4, 7), (4, 3), 37, 23), ((4, 7, 5), (3, 3), 37, 23), ((4, 7, 5), (4, 2), 37, 23), ((4, 7, 5), (4, 3), 22, 23)],
)
def test_wrong_arguments(cams, crops, resize, crop):
    with pytest.raises(ValueError, match="crop_cams: wanted"):
        crop_cams(torch.rand(cams), torch.zeros(crops, dtype=torch.int64), resize=resize, crop=crop)
