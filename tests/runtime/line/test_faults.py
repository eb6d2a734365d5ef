"""The fault matrix, shortened: 0 lost, 0 twice, 0 out of order, 0 OK without a valid score."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanflow.bundle import Bundle

from .faults import CASES, LIVE, Case, run

PACED = [case for case in CASES if case.uri.startswith(LIVE) or case.triggered or case.meanwhile]
"""Those that take as long as the camera does."""
QUICK = [case for case in CASES if case not in PACED]


def name(case: Case) -> str:
    return case.name.replace(" ", "-")


@pytest.mark.parametrize("case", QUICK, ids=name)
def test_no_promise_breaks(case: Case, bundle: Bundle, tmp_path: Path) -> None:
    found = run(case, bundle, tmp_path / "run", 250)
    assert not found["broken promises"], found


@pytest.mark.slow
@pytest.mark.parametrize("case", PACED, ids=name)
def test_no_promise_breaks_either(case: Case, bundle: Bundle, tmp_path: Path) -> None:
    found = run(case, bundle, tmp_path / "run", 1000 if case.share == 1 else 400)
    assert not found["broken promises"], found
