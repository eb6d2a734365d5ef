"""The true defect regions of one mask, as pixel weights for the region overlap (PRO)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Regions:
    """The 8-connected components of a defect mask (H, W), each of total weight 1.

    With the weights w of one component, its overlap with a prediction is the sum of w over the
    predicted pixels, so the mean overlap of all components is a weighted pixel count.
    """

    count: int
    weight: NDArray[np.float64]
    """(H, W): 1 / area inside each component, 0 elsewhere."""
    filled: NDArray[np.float64]
    """(H, W): the same with each component's holes filled but its area unchanged (CFLOW's way)."""


def find_regions(mask: NDArray[np.bool_]) -> Regions:
    """Label the 8-connected components of a bool mask (H, W)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    weight = np.where(labels > 0, 1 / areas[labels], 0.0)
    filled = np.zeros(mask.shape)
    for index in range(1, count):
        x, y, width, height = stats[index, : cv2.CC_STAT_AREA]
        box = np.s_[y : y + height, x : x + width]
        whole = ndimage.binary_fill_holes(labels[box] == index, structure=np.ones((3, 3)))
        filled[box] += whole / areas[index]
    return Regions(count - 1, weight, filled)
