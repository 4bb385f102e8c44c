"""Random numbers keyed by what they are for, never by rank, worker or time.

The generator is Philox, a counter-based one, whose 128-bit key is a hash of (seed, epoch, item, purpose): any process
can draw the numbers of any item without having drawn those before it, so results do not depend on how the work was
divided. NumPy keeps the bits of Philox for ever, but may change how ``Generator`` turns them into draws: equal numbers
on two machines need the same NumPy release on both.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

__all__ = ["generator"]


def generator(seed: int, epoch: int, item: int, purpose: str) -> np.random.Generator:
    """Generator of one item in one epoch for one purpose.

    Args:
        seed: seed of the run, any int.
        epoch: epoch, counted from 0.
        item: what the numbers are drawn for, for example a shot's id.
        purpose: a name that separates draws of the same item, for example "window" and "crop".
    """
    # Ints are written without separators of their own, so "/" keeps (1, 23) and (12, 3) apart.
    name = f"{int(seed)}/{int(epoch)}/{int(item)}/{purpose}".encode()
    key = int.from_bytes(blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
