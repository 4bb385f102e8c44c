from __future__ import annotations

import pytest
import torch

from colocam_dist.data.batch import FrameBatch, WindowBatch


def window_batch(cams: bool) -> WindowBatch:
    return WindowBatch(
        images_WNCHW=torch.zeros((2, 3, 3, 5, 5), dtype=torch.uint8),
        mask_WN=torch.ones((2, 3), dtype=torch.bool),
        labels_W=torch.zeros(2, dtype=torch.int64),
        crops_WN3=torch.zeros((2, 3, 3), dtype=torch.int32),
        frame_ids_WN=torch.zeros((2, 3), dtype=torch.int64),
        shot_ids_W=torch.zeros(2, dtype=torch.int64),
        substituted_W=torch.zeros(2, dtype=torch.bool),
        cams_WNhw=torch.zeros((2, 3, 4, 4), dtype=torch.float16) if cams else None,
        replaced=1,
        skipped_shots=2,
    )


@pytest.mark.parametrize("cams", [True, False])
def test_every_tensor_moves_and_the_counts_stay(cams: bool) -> None:
    batch = window_batch(cams)
    moved = batch.to("meta")
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) == 7 + cams
    for name, value in tensors.items():
        there = getattr(moved, name)
        assert (there.device.type, there.dtype, there.shape) == ("meta", value.dtype, value.shape)
        assert value.device.type == "cpu"
    assert (moved.replaced, moved.skipped_shots) == (1, 2)


@pytest.mark.parametrize("cams", [True, False])
def test_parts_of_the_frames_make_the_whole(cams: bool) -> None:
    batch = window_batch(cams)
    batch.frame_ids_WN = torch.arange(6).view(2, 3)
    parts = [batch.part(number, 3) for number in range(3)]
    assert [part.frame_ids_WN.tolist() for part in parts] == [[[0], [3]], [[1], [4]], [[2], [5]]]
    for part in parts:
        assert part.images_WNCHW.shape == (2, 1, 3, 5, 5)
        assert (part.mask_WN.shape, part.crops_WN3.shape) == ((2, 1), (2, 1, 3))
        assert part.cams_WNhw is None if not cams else part.cams_WNhw.shape == (2, 1, 4, 4)
        assert torch.equal(part.labels_W, batch.labels_W)
    assert batch.images_WNCHW.shape == (2, 3, 3, 5, 5)


def test_frame_batch_moves() -> None:
    batch = FrameBatch(torch.zeros(2, 3, 5, 5), torch.zeros(2), torch.zeros(2), torch.ones(2)).to("meta")
    assert {value.device.type for value in vars(batch).values()} == {"meta"}


@pytest.mark.gpu
def test_pinned_batch_copies_to_the_gpu() -> None:
    pinned = window_batch(True).pin_memory()
    assert all(value.is_pinned() for value in vars(pinned).values() if isinstance(value, torch.Tensor))
    assert pinned.to("cuda").images_WNCHW.is_cuda
