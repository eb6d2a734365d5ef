"""What every test shares: one thread, the place of the real photographs, and when to skip them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports NumPy or torch: tests run beside each other and must not fight for cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `real_parts` tests, with the reason, on a machine without the photographs."""
    if (SHARED / "data").is_dir():
        return
    skip = pytest.mark.skip(reason="real photographs are not on this machine (../shared/data)")
    for item in items:
        if item.get_closest_marker("real_parts"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real photographs (`data/`) and weights (`weights/`), or a skip."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real photographs are not on this machine (../shared/data)")
    return SHARED
