"""Maps that wait in a file come back as they were, and take no name on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from colocam_dist.inference.overlay import MapStore


def test_maps_come_back_in_order_to_half_a_gray_level(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((5, 31, 31), np.float32)
    maps[0] = 0.0
    maps[1] = 1.0
    with MapStore(tmp_path) as store:
        for map_SS in maps:
            store.append(map_SS)
        assert list(tmp_path.iterdir()) == []
        back = np.stack(list(store))
        assert np.array_equal(np.stack(list(store)), back), "more than once"
    assert back.dtype == np.float32
    assert np.abs(back - maps).max() <= 0.5001 / 255
    assert np.array_equal(back[:2], maps[:2])
