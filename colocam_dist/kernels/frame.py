"""Affinity of the pixels of one frame by color and position (CoLo-CAM, Eq. 2), for each frame of a batch.

W = sum_k (v_k v_k') o W_color: the spatial Gaussian is wide (sigma 100 pixels), so a few products of one-dimensional
eigenvectors v_k give it. W_color is factored on landmarks, the mean colors of the occupied cells of a coarse color grid
(Nystrom): W_color = K_pm K_mm^-1 K_mp. The result is symmetric and positive semi-definite, so that loss and gradient
are exactly consistent. B windows, N frames, P pixels of a frame, M landmarks, K modes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from colocam_dist.kernels.exact import exact_product
from colocam_dist.kernels.gaussian import spatial_modes
from colocam_dist.kernels.operator import check, choose, quadratic_form

__all__ = ["FRAME_BACKENDS", "frame_affinity"]

FRAME_BACKENDS = ("landmarks", "exact")
CELLS = (16, 20, 24, 32, 40)  # color steps per side of a landmark's cell; the finest that stays below the limit is used
MAX_LANDMARKS = 1024  # natural frames have 80 to 600 occupied cells of 16 steps; the cost grows with the square
SMALL = 2048  # pixels below which the dense form is used
CHUNK_ENTRIES = 1 << 23  # of K_pm held at once
JITTER = 1e-6  # on the diagonal of K_mm, whose condition number reaches 1e6


def frame_affinity(
    fg: Tensor,
    frames: Tensor,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    backend: str = "auto",
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """R = 2 S' W (1 - S) of each frame, W_pq = exp(-|c_p - c_q|² / (2 sigma_rgb²) - |x_p - x_q|² / (2 sigma_xy²)).

    Differentiable in `fg`, with the gradient 2 W (1 - 2 S) times the upstream one. Computed in float32 (float64 for
    float64 `fg`), also under autocast. Error of the landmark form against the exact one
    (value; relative L2 of the gradient): natural frames of 112 and 224 pixels 1e-4; 5e-4, full color gradients 7e-4;
    2e-3, the same with noise of 8 steps 3e-3; 9e-3. Frames of strong color noise need coarser cells to stay below
    MAX_LANDMARKS: with noise of 25 steps 0.11; 0.13.

    Args:
        fg: foreground probabilities S in [0, 1], float ``[n, H, W]`` or ``[B, n, H, W]``.
        frames: uint8 RGB ``[n, 3, H, W]`` or ``[B, n, 3, H, W]``.
        sigma_rgb: width of the color kernel in steps of 0..255.
        sigma_xy: width of the spatial kernel in pixels.
        backend: "landmarks", "exact" (O(P²), the oracle), or "auto".
        mask: bool ``[n]`` or ``[B, n]``; frames with False give 0.
        tolerance: largest error of an entry of the spatial kernel in the landmark form.

    Returns:
        (value, total), ``[n]`` or ``[B, n]``: R, and 1'W1 without gradient, per frame.

    Raises:
        ValueError: shapes, types or devices that do not fit; an unknown backend; a width or tolerance <= 0.
    """
    if not (sigma_rgb > 0.0 and sigma_xy > 0.0 and tolerance > 0.0):
        raise ValueError(
            f"frame_affinity: wanted sigma_rgb, sigma_xy and tolerance > 0, got {sigma_rgb}, {sigma_xy} and {tolerance}"
        )
    inputs = check("frame_affinity", fg, frames, mask)
    height, width = inputs.fg_BNHW.shape[-2:]
    small = height * width <= SMALL
    reason = f"{height * width} pixels per frame"
    backend = choose("frame_affinity", backend, FRAME_BACKENDS, "exact" if small else "landmarks", reason)
    fg_BHW, frames_BCHW = inputs.fg_BNHW.flatten(0, 1), inputs.frames_BNCHW.flatten(0, 1)
    values, totals = [], []
    for fg_HW, frame_CHW, valid in zip(fg_BHW, frames_BCHW, inputs.mask_BN.flatten(), strict=True):
        colors_PC = frame_CHW.permute(1, 2, 0).reshape(-1, 3)
        product = (
            _Exact(colors_PC, (height, width), sigma_rgb, sigma_xy)
            if backend == "exact"
            else _Landmarks(colors_PC, (height, width), sigma_rgb, sigma_xy, tolerance)
        )
        value, total = quadratic_form(fg_HW.reshape(-1), valid.expand(height * width), product)
        values.append(value)
        totals.append(total)
    shape = inputs.mask_BN.shape[1:] if inputs.single else inputs.mask_BN.shape
    empty = inputs.fg_BNHW.new_zeros(0)
    value, total = (torch.stack(values), torch.stack(totals)) if values else (empty, empty)
    return value.view(shape), total.view(shape)


class _Exact:
    def __init__(self, colors_PC: Tensor, size: tuple[int, int], sigma_rgb: float, sigma_xy: float) -> None:
        self.colors_PC = colors_PC
        self.size = size
        self.sigma_rgb, self.sigma_xy = sigma_rgb, sigma_xy

    def __call__(self, t_P: Tensor, valid_P: Tensor, need: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        axes = [torch.arange(side, device=t_P.device).double() / self.sigma_xy for side in self.size]
        place_P2 = torch.cartesian_prod(*axes).view(-1, 2)
        features_PD = torch.cat([self.colors_PC.double() / self.sigma_rgb, place_P2], 1)
        return exact_product(features_PD, t_P, valid_P, need)


class _Landmarks:
    def __init__(
        self, colors_PC: Tensor, size: tuple[int, int], sigma_rgb: float, sigma_xy: float, tolerance: float
    ) -> None:
        self.colors_PC = colors_PC
        self.size = size
        self.sigma_rgb, self.sigma_xy, self.tolerance = sigma_rgb, sigma_xy, tolerance

    def __call__(self, t_P: Tensor, valid_P: Tensor, need: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        modes_PK = spatial_modes(*self.size, self.sigma_xy, self.tolerance, t_P.dtype, t_P.device)
        colors_PC = self.colors_PC.to(t_P.dtype) / self.sigma_rgb
        landmarks_MC = _landmark_colors(self.colors_PC).to(t_P.dtype) / self.sigma_rgb
        rows = max(1, CHUNK_ENTRIES // len(landmarks_MC))
        parts = [slice(start, start + rows) for start in range(0, len(t_P), rows)]
        # With one part the affinity to the landmarks is kept for the second pass; with more it is computed again.
        kept = _gaussian(colors_PC, landmarks_MC) if len(parts) == 1 else None
        ones_P = valid_P.to(t_P.dtype)
        splat_ME = t_P.new_zeros(len(landmarks_MC), 2 * modes_PK.shape[1])
        for part in parts:
            affinity_QM = kept if kept is not None else _gaussian(colors_PC[part], landmarks_MC)
            both_QE = torch.cat([modes_PK[part] * t_P[part, None], modes_PK[part] * ones_P[part, None]], 1)
            splat_ME += affinity_QM.T @ both_QE
        between_MM = _gaussian(landmarks_MC.double(), landmarks_MC.double())
        between_MM.diagonal().add_(JITTER)
        root_MM = torch.linalg.cholesky(between_MM)
        core_ME = torch.linalg.solve_triangular(root_MM, splat_ME.double(), upper=False)
        core_t, core_1 = core_ME.chunk(2, dim=1)
        form, total = core_t.square().sum(), core_1.square().sum()
        if not need:
            return form, total, None
        weights_MK = torch.linalg.solve_triangular(root_MM.T, core_t, upper=True).to(t_P.dtype)
        filtered_P = torch.empty_like(t_P)
        for part in parts:
            affinity_QM = kept if kept is not None else _gaussian(colors_PC[part], landmarks_MC)
            filtered_P[part] = ((affinity_QM @ weights_MK) * modes_PK[part]).sum(1)
        return form, total, filtered_P


def _landmark_colors(colors_PC: Tensor) -> Tensor:
    """Mean colors of the cells of the finest grid with at most MAX_LANDMARKS of them occupied, float64 ``[M, 3]``."""
    for cell in CELLS:
        means_MC = _cell_means(colors_PC, cell)
        if len(means_MC) <= MAX_LANDMARKS:
            break
    return means_MC


def _cell_means(colors_PC: Tensor, cell: int) -> Tensor:
    """Mean color of each occupied cell of a color grid, float64 ``[M, 3]``."""
    side = 256 // cell + 1
    steps_PC = (colors_PC // cell).long()
    cells_P = (steps_PC[:, 0] * side + steps_PC[:, 1]) * side + steps_PC[:, 2]
    sums = torch.zeros(side**3, 4, dtype=torch.float64, device=colors_PC.device)
    ones_P1 = torch.ones(len(cells_P), 1, dtype=torch.float64, device=colors_PC.device)
    sums.index_add_(0, cells_P, torch.cat([colors_PC.double(), ones_P1], 1))
    occupied_M4 = sums[sums[:, 3] > 0]
    return occupied_M4[:, :3] / occupied_M4[:, 3:]


def _gaussian(left_PC: Tensor, right_MC: Tensor) -> Tensor:
    """exp(-|l - r|² / 2), ``[P, M]``; differences are taken first, so nothing cancels."""
    distance_PM = (left_PC[:, 0, None] - right_MC[:, 0]).square_()
    for axis in (1, 2):
        distance_PM += (left_PC[:, axis, None] - right_MC[:, axis]).square_()
    return distance_PM.mul_(-0.5).exp_()
