"""Counter-based uniforms: reproducible, independent of batch composition, and uniform."""

from __future__ import annotations

import pytest
import torch

from colocam_dist.noise import _mix, _mix_integer, _signed, content_keys, frame_normals, frame_uniforms


def test_tensor_and_integer_mixing_agree_on_the_published_generator() -> None:
    # First outputs of SplitMix64 from state 0 (reference implementation by Sebastiano Vigna).
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    gamma = 0x9E3779B97F4A7C15
    assert [_mix_integer(i * gamma) for i in range(3)] == published
    states = torch.tensor([_signed((i + 1) * gamma) for i in range(3)])
    assert _mix(states).tolist() == [_signed(value) for value in published]


def test_a_frame_draws_the_same_numbers_in_any_batch() -> None:
    together = frame_uniforms(torch.tensor([7, 3, 9]), 1000, seed=1, epoch=2)
    assert torch.equal(together[1:2], frame_uniforms(torch.tensor([3]), 1000, seed=1, epoch=2))


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 3}, {"frame": 8}])
def test_seed_epoch_and_frame_all_matter(change: dict[str, int]) -> None:
    base = {"seed": 1, "epoch": 2, "frame": 7}
    other = base | change
    one, two = (
        frame_uniforms(torch.tensor([f["frame"]]), 500, seed=f["seed"], epoch=f["epoch"]) for f in (base, other)
    )
    assert (one == two).float().mean() < 0.01


def test_numbers_are_uniform_and_inside_the_open_interval() -> None:
    numbers = frame_uniforms(torch.arange(64), 12544, seed=0, epoch=0)
    assert 0.0 < numbers.min() < 1e-4
    assert 1.0 - 1e-4 < numbers.max() < 1.0
    histogram = torch.histc(numbers, 100, 0.0, 1.0) / numbers.numel()
    assert (histogram - 0.01).abs().max() < 5 * (0.01 / numbers.numel()) ** 0.5
    neighbours = torch.corrcoef(torch.stack([numbers[:, :-1].flatten(), numbers[:, 1:].flatten()]))[0, 1]
    frames = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    assert max(abs(neighbours), abs(frames)) < 5 / numbers.numel() ** 0.5


def test_too_many_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\*\*24"):
        frame_uniforms(torch.tensor([0]), (1 << 24) + 1, seed=0, epoch=0)


def test_normals_are_normal() -> None:
    numbers = frame_normals(torch.arange(32), 9999, seed=0, epoch=3)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers[7:8], frame_normals(torch.tensor([7]), 9999, seed=0, epoch=3))
    assert abs(numbers.mean().item()) < 5 / numbers.numel() ** 0.5
    assert numbers.std().item() == pytest.approx(1.0, abs=5e-3)
    for bound, share in ((1.0, 0.8413447), (-2.0, 0.0227501), (3.0, 0.9986501)):
        assert (numbers < bound).float().mean().item() == pytest.approx(share, abs=2e-3)
    assert frame_normals(torch.arange(9), 1 << 16, seed=0, epoch=0).isfinite().all()


def test_a_key_is_a_function_of_an_images_values_and_places() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 7, 5), dtype=torch.uint8)
    images[1] = images[0]
    images[2] = images[0].flip(2)  # the same values elsewhere
    images[3] = images[0]
    images[3, 2, 6, 4] ^= 1
    images[4] = 0
    keys = content_keys(images)
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 5
    assert torch.equal(content_keys(images[[5, 2]]), keys[[5, 2]])
    mask, gamma = (1 << 64) - 1, 0x9E3779B97F4A7C15
    # _mix_integer(z) adds gamma first, so that it gives the mix of the place's multiple of gamma.
    total = sum(value * _mix_integer(place * gamma & mask) for place, value in enumerate(images[5].flatten().tolist()))
    assert keys[5].item() == _signed(_mix_integer((total - gamma) & mask))
