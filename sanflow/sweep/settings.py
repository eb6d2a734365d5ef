"""What the authors of a method chose for each category of a public data set (methods 3)."""

from __future__ import annotations

from ..errors import ConfigError

_CFLOW_SIZES = {
    512: "bottle carpet grid leather screw tile toothbrush wood zipper",
    256: "cable capsule hazelnut metal_nut pill",
    128: "transistor",
}
_SIZES = {
    ("mvtec-ad", "cflow"): {
        category: size for size, names in _CFLOW_SIZES.items() for category in names.split()
    }
}


def paper_settings(layout: str, method: str, category: str) -> dict[str, object]:
    """Fields of a run and their values; ConfigError where there are none for this method."""
    sizes = _SIZES.get((layout, method))
    if sizes is None:
        known = ", ".join(f"{method} on {layout}" for layout, method in _SIZES)
        raise ConfigError(f"paper_settings: none are known of {method} on {layout}; known: {known}")
    return {"model.height": sizes[category], "model.width": sizes[category]}
