"""Where the part is in its picture: a synthetic defect must not lie beside it (methods 7)."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Foreground = Literal["all", "dark", "bright"]
"""`dark`: a part darker than its background; `bright`: a brighter one; `all`: no background."""


def foreground(
    image: NDArray[np.uint8], kind: Foreground, *, fill_holes: bool = True
) -> NDArray[np.bool_]:
    """The part in an RGB image uint8 (H, W, 3) by Otsu's threshold, specks and cracks closed.

    `fill_holes` takes what the part surrounds as part of it.
    """
    if kind == "all":
        return np.ones(image.shape[:2], np.bool_)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    way = cv2.THRESH_BINARY_INV if kind == "dark" else cv2.THRESH_BINARY
    _, mask = cv2.threshold(grey, 0, 255, way + cv2.THRESH_OTSU)
    square = np.ones((3, 3), np.uint8)
    for operation in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE):
        mask = cv2.morphologyEx(mask, operation, square)
    # A blur, cut at its half, rounds the outline.
    mask = np.where(cv2.GaussianBlur(mask, (0, 0), 2) > 127, 255, 0).astype(np.uint8)
    if fill_holes:
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(mask, outlines, -1, 255, cv2.FILLED)
    return np.asarray(mask > 0)
