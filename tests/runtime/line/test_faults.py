"""The fault matrix, shortened: 0 lost, 0 twice, 0 out of order, 0 OK without a valid score."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanflow.bundle import Bundle

from .faults import CASES, Case, run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_no_promise_breaks(case: Case, bundle: Bundle, tmp_path: Path) -> None:
    found = run(case, bundle, tmp_path / "run", 1000 if case.share == 1 else 400)
    assert not found["broken promises"], found
