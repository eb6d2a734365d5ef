"""Region overlap by brute force, in plain Python: every threshold, every component, every pixel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixel = tuple[int, int]


def components(mask: NDArray[np.bool_]) -> list[set[Pixel]]:
    """8-connected components of a mask."""
    return components_of({(int(r), int(c)) for r, c in np.argwhere(mask)})


def components_of(pixels: set[Pixel]) -> list[set[Pixel]]:
    """8-connected components by flood filling."""
    left = set(pixels)
    found = []
    while left:
        todo = [left.pop()]
        part = set(todo)
        while todo:
            r, c = todo.pop()
            for near in [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    part.add(near)
                    todo.append(near)
        found.append(part)
    return found


def curve(
    heats: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> list[tuple[float, float]]:
    """(false-positive rate, mean overlap) at every distinct value, from (0, 0)."""
    parts = [
        (heat, part) for heat, mask in zip(heats, masks, strict=True) for part in components(mask)
    ]
    normal = [float(v) for heat, mask in zip(heats, masks, strict=True) for v in heat[~mask]]
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for heat in heats for v in heat.ravel()}, reverse=True):
        overlaps = [sum(heat[p] >= threshold for p in part) / len(part) for heat, part in parts]
        alarms = sum(v >= threshold for v in normal)
        points.append((alarms / len(normal), float(sum(overlaps)) / len(parts)))
    return points


def aupro(
    heats: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
    limit: float = 0.3,
) -> float:
    """Area under the curve's straight lines up to the limit, over the limit."""
    area = 0.0
    points = curve(heats, masks)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def filled(part: set[Pixel]) -> set[Pixel]:
    """The component and every pixel that cannot leave its bounding box around it (8 ways)."""
    rows, columns = [r for r, _ in part], [c for _, c in part]
    box = {
        (r, c)
        for r in range(min(rows) - 1, max(rows) + 2)
        for c in range(min(columns) - 1, max(columns) + 2)
    }
    outside = max(components_of(box - part), key=lambda s: (min(rows) - 1, min(columns) - 1) in s)
    return box - outside


def aupro_cflow(heats: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]) -> float:
    """The loop of CFLOW-AD's evaluation: 1000 thresholds, FPR <= 0.3 stretched to [0, 1]."""
    largest = max(float(h.max()) for h in heats)
    smallest = min(float(h.min()) for h in heats)
    parts = []
    for heat, mask in zip(heats, masks, strict=True):
        for part in components(mask):
            parts.append((heat, filled(part), len(part)))
    normal = np.concatenate([h[~m] for h, m in zip(heats, masks, strict=True)]).astype(np.float64)
    x, y = [], []
    for step in range(1000):
        threshold = largest - step * (largest - smallest) / 1000
        rate = float(np.mean(normal > threshold))
        if rate > 0.3:
            continue
        x.append(rate)
        y.append(float(np.mean([sum(h[p] > threshold for p in f) / a for h, f, a in parts])))
    scaled = [(v - min(x)) / (max(x) - min(x)) for v in x]
    return sum((scaled[i + 1] - scaled[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(scaled) - 1))
