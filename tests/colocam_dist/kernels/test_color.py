"""Color affinity against dense float64 truth, published fixtures and closed forms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from colocam_dist.kernels import COLOR_BACKENDS, PreparedColors, color_affinity
from colocam_dist.kernels.color_torch import TorchColorForm

TO_FLOAT32 = ("histogram", "histogram_fp32", "exact")
PeakGrowth = Callable[[Callable[[], object]], float]


def value_total_gradient(fg: Tensor, frames: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    fg = fg.detach().clone().requires_grad_()
    value, total = color_affinity(fg, frames, **options)
    (gradient,) = torch.autograd.grad(value.sum(), fg)
    return value.detach(), total, gradient


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("backend", TO_FLOAT32)
@pytest.mark.parametrize("sigma", [7.5, 15.0, 40.0])
def test_value_total_and_gradient_are_exact(
    backend: str, sigma: float, natural: Tensor, soft: Tensor, dense: Any
) -> None:
    truth = dense(soft, natural, sigma)
    ours = value_total_gradient(soft, natural, backend=backend, sigma_rgb=sigma)
    assert relative(ours[0], truth[0]) < 1e-6
    assert relative(ours[1], truth[1]) < 1e-6
    assert relative(ours[2].flatten(), truth[2]) < 2e-6


@pytest.mark.parametrize("packed", [True, False])
def test_every_way_of_summing_is_exact(
    packed: bool, natural: Tensor, soft: Tensor, dense: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colocam_dist.kernels.color_torch.PART", 1000)
    value, total, gradient = dense(soft, natural)
    for dtype, error in ((torch.float32, 2e-6), (torch.float64, 1e-10)):
        form = TorchColorForm(15.0, packed=packed and dtype == torch.float32)
        core_t, core_1 = form.cores(soft.to(dtype)[None], natural[None], None)
        ones_form = core_1.square().sum()
        assert relative((ones_form - core_t.square().sum()) / 2, value) < error
        assert relative(ones_form, total) < error
        assert relative(2 * form.product(natural[None], core_t).flatten(), gradient) < error


def test_the_mixed_form_is_close_and_consistent(natural: Tensor, soft: Tensor, dense: Any) -> None:
    truth = dense(soft, natural)
    ours = value_total_gradient(soft, natural, backend="mixed")
    assert relative(ours[0], truth[0]) < 1e-4
    assert relative(ours[1], truth[1]) < 1e-4
    assert relative(ours[2].flatten(), truth[2]) < 5e-4
    fg = soft.double()
    direction = torch.randn(fg.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, _, gradient = value_total_gradient(fg, natural, backend="mixed")
    ahead, behind = (color_affinity(fg + step * direction, natural, backend="mixed")[0] for step in (1e-4, -1e-4))
    assert float((ahead - behind) / 2e-4) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_the_order_of_the_pixels_does_not_change_a_bit(natural: Tensor, soft: Tensor) -> None:
    order = torch.randperm(soft.numel(), generator=torch.Generator().manual_seed(5))
    value, total, gradient = value_total_gradient(soft, natural, backend="histogram")
    moved = natural.transpose(0, 1).flatten(1)[:, order].view(3, *soft.shape).transpose(0, 1)
    shuffled = value_total_gradient(soft.flatten()[order].view(soft.shape), moved, backend="histogram")
    assert torch.equal(shuffled[0], value)
    assert torch.equal(shuffled[1], total)
    assert torch.equal(shuffled[2].flatten(), gradient.flatten()[order])


@pytest.mark.parametrize("backend", ["histogram", "histogram_fp32", "exact"])
def test_weights_of_pixels_scale_map_and_background(backend: str, natural: Tensor, soft: Tensor) -> None:
    weights = torch.rand(soft.shape, generator=torch.Generator().manual_seed(7))
    weights[1, 4:9] = 0
    colors = natural.permute(0, 2, 3, 1).reshape(-1, 3).double() / 15.0
    affinity = torch.exp(-0.5 * torch.cdist(colors, colors).square())
    fg, weight = soft.double().flatten(), weights.double().flatten()
    fg_there = soft.masked_fill(weights == 0, float("nan"))
    value, total, gradient = value_total_gradient(fg_there, natural, backend=backend, mask=weights)
    assert relative(value, 2 * (weight * fg) @ affinity @ (weight * (1 - fg))) < 1e-5
    assert relative(total, weight @ affinity @ weight) < 1e-5
    assert relative(gradient.flatten(), 2 * weight * (affinity @ (weight * (1 - 2 * fg)))) < 1e-5


def test_a_mask_of_pixels_is_a_mask_of_frames_where_it_is_constant(natural: Tensor, soft: Tensor) -> None:
    mask = torch.tensor([True, False, True])
    frames = value_total_gradient(soft, natural, backend="histogram", mask=mask)
    pixels = value_total_gradient(soft, natural, backend="histogram", mask=mask[:, None, None].expand(soft.shape))
    assert all(torch.equal(one, other) for one, other in zip(frames, pixels, strict=True))


def test_windows_of_a_batch_do_not_see_each_other(natural: Tensor, soft: Tensor) -> None:
    fg = torch.stack([soft, 1 - soft.flip(0)])
    frames = torch.stack([natural, natural.flip(1)])
    value, total, gradient = value_total_gradient(fg, frames, backend="histogram")
    for window in range(2):
        alone = value_total_gradient(fg[window], frames[window], backend="histogram")
        assert torch.equal(value[window], alone[0])
        assert torch.equal(total[window], alone[1])
        assert torch.equal(gradient[window], alone[2])


@pytest.mark.parametrize("backend", ["histogram", "mixed"])
def test_prepared_colors_serve_many_maps(backend: str, natural: Tensor, soft: Tensor) -> None:
    mask = torch.tensor([True, True, False])
    prepared = PreparedColors(natural, backend=backend, mask=mask)
    for fg in (soft, 1 - soft.square()):
        leaf = fg.clone().requires_grad_()
        value, total = prepared(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        direct = value_total_gradient(fg, natural, backend=backend, mask=mask)
        assert torch.equal(value.detach(), direct[0])
        assert torch.equal(total, direct[1])
        assert torch.equal(gradient, direct[2])
    with pytest.raises(ValueError, match="no core to prepare"):
        PreparedColors(natural, backend="exact")


def test_the_graph_of_a_compiled_loss_has_no_break(natural: Tensor, soft: Tensor) -> None:
    def loss(fg: Tensor) -> Tensor:
        value, total = color_affinity(fg.sigmoid(), natural, backend="histogram")
        return (value - total) / total

    leaf = soft.clone().requires_grad_()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results = [torch.autograd.grad(function(leaf), leaf)[0] for function in (loss, compiled)]
    assert torch.equal(*results)


def test_too_many_pixels_for_a_packed_word_are_said(
    natural: Tensor, soft: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("colocam_dist.kernels.inputs._ANNOUNCED", set())
    monkeypatch.setattr("colocam_dist.kernels.color_op.packing_for", lambda pixels: None)
    with caplog.at_level(logging.INFO):
        color_affinity(soft, natural, backend="histogram")
    assert caplog.messages == [
        f"color_affinity: backend torch:histogram_fp32 ({soft.numel()} pixels are too many for the packed word)"
    ]


@pytest.mark.shared
@pytest.mark.parametrize("backend", TO_FLOAT32)
@pytest.mark.parametrize("case", ["smooth_n1", "smooth_n2", "smooth_n4", "noise_n1", "noise_n2", "noise_n4"])
def test_the_published_fixtures(case: str, backend: str, shared: Path) -> None:
    data = np.load(shared / "fixtures" / "crf_filters.npz")
    frames = torch.from_numpy(data[f"{case}_images"])
    fg = torch.from_numpy(data[f"{case}_S"])[:, 1]
    value, total, gradient = value_total_gradient(fg, frames, backend=backend)
    assert float(value - total) == pytest.approx(float(data[f"{case}_color_loss_exact"]), rel=1e-5)
    assert float(total) == pytest.approx(float(data[f"{case}_color_degree_total_exact"]), rel=1e-5)
    filtered = torch.from_numpy(data[f"{case}_color_AS_exact"])[0]  # [2, H, n * W], frames along the width
    expected = 2 * (filtered[0] - filtered[1]).view(32, len(fg), 32).transpose(0, 1)
    assert relative(gradient, expected) < 1e-5
    assert float((gradient - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("backend", COLOR_BACKENDS)
def test_gradcheck_with_a_mask_and_an_upstream_gradient(backend: str, natural: Tensor, soft: Tensor) -> None:
    fg = soft[:, 3:5, 5:6].double().expand(2, 3, 2, 1).clone().requires_grad_()
    frames = natural[:, :, 3:5, 5:6].expand(2, 3, 3, 2, 1)
    mask = torch.tensor([[True, False, True], [True, True, True]])

    def scaled(fg: Tensor) -> Tensor:
        value, _ = color_affinity(fg, frames, backend=backend, mask=mask)
        return (value * torch.tensor([0.7, -1.3], dtype=torch.float64)).sum().sin()

    assert torch.autograd.gradcheck(scaled, (fg,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", COLOR_BACKENDS)
def test_masked_frames_are_as_if_they_were_not_there(backend: str, natural: Tensor, soft: Tensor) -> None:
    mask = torch.tensor([True, False, True])
    with_mask = value_total_gradient(soft, natural, backend=backend, mask=mask)
    without = value_total_gradient(soft[mask], natural[mask], backend=backend)
    assert torch.allclose(with_mask[0], without[0], rtol=1e-6)
    assert torch.allclose(with_mask[1], without[1], rtol=1e-6)
    assert torch.allclose(with_mask[2][mask], without[2], rtol=1e-5)
    assert with_mask[2][1].abs().max() == 0
    nothing = value_total_gradient(soft, natural, backend=backend, mask=torch.zeros(3, dtype=torch.bool))
    assert [float(part.abs().max()) for part in nothing] == [0, 0, 0]


@pytest.mark.parametrize("backend", COLOR_BACKENDS)
def test_symmetries(backend: str, natural: Tensor, soft: Tensor) -> None:
    value, _, gradient = value_total_gradient(soft, natural, backend=backend)
    swapped = value_total_gradient(1 - soft, natural, backend=backend)
    assert torch.allclose(swapped[0], value, rtol=1e-5)
    assert torch.allclose(swapped[2], -gradient, rtol=1e-4, atol=1e-3)
    order = torch.tensor([2, 0, 1])
    permuted = value_total_gradient(soft[order], natural[order], backend=backend)
    assert torch.allclose(permuted[0], value, rtol=1e-6)
    assert torch.allclose(permuted[2], gradient[order], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("backend", COLOR_BACKENDS)
def test_closed_forms(backend: str) -> None:
    one = torch.full((2, 3, 9, 11), 77, dtype=torch.uint8)
    fg = torch.full((2, 9, 11), 0.25)
    pixels = fg.numel()
    value, total, gradient = value_total_gradient(fg, one, backend=backend)
    assert float(total) == pytest.approx(pixels**2, rel=1e-5)
    assert float(value) == pytest.approx(2 * 0.25 * 0.75 * pixels**2, rel=1e-5)
    assert torch.allclose(gradient, torch.full_like(fg, 2 * (1 - 0.5) * pixels), rtol=1e-5)
    two = one.clone()
    two[1, 0] += 20  # another color at distance 20 in red
    half = pixels // 2
    apart = float(np.exp(-(20.0**2) / (2 * 15.0**2)))
    hard = torch.stack([torch.zeros(9, 11), torch.ones(9, 11)])
    value, total, _ = value_total_gradient(hard, two, backend=backend)
    assert float(total) == pytest.approx(2 * half**2 * (1 + apart), rel=1e-5)
    assert float(value) == pytest.approx(2 * half**2 * apart, rel=1e-5)


def test_all_black_windows_are_finite() -> None:
    black = torch.zeros(4, 3, 40, 40, dtype=torch.uint8)
    value, total, gradient = value_total_gradient(torch.rand(4, 40, 40), black)
    assert torch.isfinite(gradient).all()
    assert 0 < float(value) < float(total) / 2 + 1
    assert float(total) == pytest.approx(6400**2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_computed_in_float32(dtype: torch.dtype, natural: Tensor, soft: Tensor) -> None:
    half = soft.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _, gradient = value_total_gradient(half, natural, backend="histogram")
    exact = value_total_gradient(half.float(), natural, backend="histogram")
    assert value.dtype == torch.float32
    assert torch.equal(value, exact[0])
    assert gradient.dtype == dtype
    assert torch.equal(gradient, exact[2].to(dtype))


def test_a_large_window_needs_no_memory_of_the_square_of_its_pixels(peak_growth: PeakGrowth) -> None:
    frames = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fg = torch.rand(4, 128, 128)
    grown = peak_growth(lambda: value_total_gradient(fg, frames, backend="histogram"))
    assert grown < 300, f"{grown:.0f} MiB; the matrix would have {4 * fg.numel() ** 2 / 2**20:.0f} MiB"


def test_only_the_core_is_kept_for_the_backward_pass(natural: Tensor, soft: Tensor) -> None:
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append((tensor.dtype, tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        color_affinity(soft.requires_grad_(), natural, backend="histogram")
    assert (torch.float32, 32**3) in sizes
    assert all(dtype in (torch.uint8, torch.bool) for dtype, numel in sizes if numel != 32**3)


def test_letterboxed_windows_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(6)
    frames = torch.randint(0, 256, (2, 3, 160, 161), dtype=torch.uint8, generator=generator)
    frames[:, :, 20:140] = 0  # three quarters of all pixels in one bin
    fg = torch.rand(2, 160, 161, generator=generator)
    truth = value_total_gradient(fg.double(), frames, backend="histogram")
    ours = value_total_gradient(fg, frames, backend="histogram")
    assert [relative(one, other) < 1e-6 for one, other in zip(ours, truth, strict=True)] == [True] * 3


@pytest.mark.parametrize("backend", TO_FLOAT32)
def test_a_constant_map_has_a_closed_form(backend: str, natural: Tensor, dense: Any) -> None:
    fg = torch.full((3, 31, 47), 0.3)
    _, total, gradient = value_total_gradient(fg, natural, backend=backend)
    degrees = dense(torch.zeros(3, 31, 47), natural)[2] / 2  # W 1
    assert relative(gradient.flatten(), 2 * (1 - 0.6) * degrees) < 2e-6
    assert float(total) == pytest.approx(float(degrees.sum()), rel=1e-6)


def test_what_is_not_a_number_in_a_masked_frame_stays_there(natural: Tensor, soft: Tensor) -> None:
    soft[1] = float("nan")
    mask = torch.tensor([True, False, True])
    value, _, gradient = value_total_gradient(soft, natural, mask=mask)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_misuse_of_the_graph_is_an_error_and_not_a_wrong_gradient(natural: Tensor, soft: Tensor) -> None:
    fg = soft.requires_grad_()
    value, total = color_affinity(fg, natural)
    assert not total.requires_grad
    (gradient,) = torch.autograd.grad(value.square(), fg, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative|grad"):
        gradient.sum().backward()
    value, _ = color_affinity(fg, natural)
    natural[0, 0, 0, 0] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_training_after_inference_mode_in_the_same_process(natural: Tensor, soft: Tensor) -> None:
    with torch.inference_mode():
        first = color_affinity(soft, natural, sigma_rgb=14.25)[0].item()  # a width that no other test has cached
    value, _, gradient = value_total_gradient(soft, natural, sigma_rgb=14.25)
    assert float(value) == first
    assert torch.isfinite(gradient).all()


def test_auto_says_once_what_it_chose(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colocam_dist.kernels.inputs._ANNOUNCED", set())
    frames = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            color_affinity(torch.rand(2, 40, 40), frames)
        color_affinity(torch.rand(2, 4, 4), frames[..., :4, :4])
    assert [record.getMessage() for record in caplog.records] == [
        "color_affinity: backend torch:histogram (3200 pixels per window)",
        "color_affinity: backend torch:exact (32 pixels per window)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fg": torch.rand(2, 4, 4, dtype=torch.float32).long()}, "wanted float fg"),
        ({"fg": torch.rand(4, 4)}, "wanted float fg"),
        ({"frames": torch.rand(2, 3, 4, 4)}, "wanted uint8 frames"),
        ({"frames": torch.zeros(2, 3, 4, 5, dtype=torch.uint8)}, "wanted uint8 frames"),
        ({"frames": torch.rand(2, 3, 4, 4)}, "before normalization"),
        ({"fg": torch.rand(0, 4, 4), "frames": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, "at least one window"),
        ({"fg": torch.full((2, 4, 4), float("nan"))}, "others, the first nan"),
        ({"fg": torch.full((2, 4, 4), 1.5)}, "logits need a softmax"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, "wanted a bool or float mask"),
        ({"mask": torch.ones(2).long()}, "wanted a bool or float mask"),
        ({"mask": torch.tensor([1.0, -1.0])}, "wanted weights >= 0"),
        ({"backend": "lattice"}, "histogram, histogram_fp32, mixed, exact"),
        ({"backend": "cuda:histogram"}, "after torch: or triton:"),
        ({"sigma_rgb": 0.0}, "sigma_rgb > 0"),
        ({"sigma_rgb": float("nan")}, "sigma_rgb > 0"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], message: str) -> None:
    inputs: dict[str, Any] = {"fg": torch.rand(2, 4, 4), "frames": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=message):
        color_affinity(**(inputs | change))


def test_frames_and_maps_may_lie_in_memory_in_any_order(natural: Tensor, soft: Tensor) -> None:
    expected = value_total_gradient(soft, natural, backend="histogram")
    frames = natural.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    fg = soft.transpose(1, 2).contiguous().transpose(1, 2)
    assert not frames.is_contiguous()
    ours = value_total_gradient(fg, frames, backend="histogram")
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_a_forced_backend_that_cannot_run_is_an_error(
    natural: Tensor, soft: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="triton:histogram cannot run: they need a CUDA device"):
        color_affinity(soft, natural, backend="triton:histogram")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"fg is torch.float64"):
        color_affinity(soft.double(), natural, backend="triton:histogram")
    with pytest.raises(ValueError, match=r"sigma_rgb >= 3\.5"):
        color_affinity(soft, natural, sigma_rgb=2.0, backend="triton:histogram")


def test_without_validation_what_is_not_a_number_comes_out(natural: Tensor, soft: Tensor) -> None:
    fg = torch.stack([soft, soft])
    fg[1, 2, 3, 4] = float("nan")
    frames = natural.expand(2, *natural.shape)
    for backend in COLOR_BACKENDS:
        value, total, gradient = value_total_gradient(fg, frames, backend=backend, validate=False)
        assert value.isnan().tolist() == [False, True], backend
        assert total.isfinite().all()
        assert gradient[1].isnan().any()
        assert gradient[0].isfinite().all()


def test_the_kernels_hold_the_widths_they_say() -> None:
    from colocam_dist.kernels.color_op import TRITON_SIGMA
    from colocam_dist.kernels.gaussian import padded_rank

    assert padded_rank(TRITON_SIGMA, torch.float32) == 128
