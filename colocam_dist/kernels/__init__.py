"""Gaussian affinity operators on color and position, exact and differentiable. Usable without the rest of the project.

``color_affinity`` couples all pixels of a window of frames by color alone (CoLo-CAM, Eq. 4); ``frame_affinity`` couples
the pixels of each frame by color and position (Eq. 2). Both return ``(value, total)``::

    value = sum_r S_r' W (1 - S_r) = 2 S' W (1 - S),    r = foreground, background,  S_1 = S, S_0 = 1 - S
    total = 1' W 1
    value - total = -sum_r S_r' W S_r,    the number that the published code minimizes
"""

from colocam_dist.kernels.color import COLOR_BACKENDS, PreparedColors, color_affinity
from colocam_dist.kernels.frame import FRAME_BACKENDS, frame_affinity

__all__ = ["COLOR_BACKENDS", "FRAME_BACKENDS", "PreparedColors", "color_affinity", "frame_affinity"]
