"""Which parts, and how many, show a graph what its values can be.

Parts that look alike say the same thing twice, so the ones chosen lie far from each other in
feature space: each next one is the part farthest from all chosen before (the greedy 2-approximation
of the k-centre problem). Prefixes are nested: the first 16 of 64 are the 16 that would be chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

NEEDED = 32
"""Images after which ranges changed no verdict and no map by more than rounding does, measured in
benchmarks/int8.py."""
SETTLED = 0.05
"""Growth of the ranges over the second half of the images up to which they count as settled."""


def choose(features: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Indices of `count` of the rows of features (n, d), the most typical first; all if fewer.

    The same features give the same indices. Raises InputError when there is none, or a value is
    not finite.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or not len(values) or count < 1:
        raise InputError(f"expected features (n, d) and a count, got {values.shape} and {count}")
    if not np.isfinite(values).all():
        raise InputError("features of the calibration images are not finite; train the run again")
    nearest = np.square(values - values.mean(axis=0)).sum(axis=1)
    chosen = [int(nearest.argmin())]
    nearest[:] = np.inf
    while len(chosen) < min(count, len(values)):
        nearest = np.minimum(nearest, np.square(values - values[chosen[-1]]).sum(axis=1))
        nearest[chosen[-1]] = -np.inf
        chosen.append(int(nearest.argmax()))
    return np.array(chosen, np.int64)


def enough(count: int, growth: float) -> str | None:
    """What to tell the user about ranges of `count` images (`Ranges.count`, `Ranges.growth`).

    None where they are enough: there are as many as were found to be needed, and the second half
    of them, the less typical one, taught little more.
    """
    if count < NEEDED:
        return (
            f"int8 ranges come from {count} images, expected {NEEDED}: another choice of parts "
            "could give other verdicts; add good parts to the calibration role"
        )
    if growth > SETTLED:
        return (
            f"int8 ranges grew by {growth:.0%} over the second half of {count} images, expected "
            f"at most {SETTLED:.0%}; add good parts to the calibration role, or keep fp16"
        )
    return None
