"""Learn to localize objects in videos from video-level class tags alone (CoLo-CAM), on one laptop or many GPUs.

``from colocam_dist import Localizer`` gives a run's trained localizer (:mod:`colocam_dist.inference.api`). torch is
imported with it, not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colocam_dist.inference.api import Localizer

__all__ = ["Localizer", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Localizer":
        from colocam_dist.inference.api import Localizer

        return Localizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
