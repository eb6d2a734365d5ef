"""The demo, small: every stage runs and leaves what it promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sanflow.demo import QUICK, run_demo
from sanflow.errors import ConfigError, InputError
from sanflow.imaging import read
from sanflow.run import open_run
from sanflow.runtime import Detector


class Quiet:
    """Shows nothing and remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def counting(self, what: str) -> Iterator[Any]:
        yield lambda done, total: None

    @contextmanager
    def training(self) -> Iterator[Any]:
        yield lambda status: None

    @contextmanager
    def judging(self) -> Iterator[Any]:
        yield lambda record: None


def test_a_negative_seed_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed -1 must be from 0"):
        run_demo(tmp_path / "demo", Quiet(), seed=-1, size=QUICK)
    assert not (tmp_path / "demo").exists()


def test_the_demo_leaves_parts_run_bundles_verdicts_and_report(tmp_path: Path) -> None:
    out, show = tmp_path / "demo", Quiet()
    found = run_demo(out, show, size=QUICK)
    assert (found.good, found.defective) == (6, 12)
    assert open_run(out / "run").record.weights.source == "none"
    lines = (out / "verdicts" / "results.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 18
    assert {json.loads(line)["verdict"] for line in lines} <= {"OK", "NG"}
    for target in ("onnx", "openvino"):
        with Detector(out / target) as detector:
            verdict = detector.judge(out / "parts" / "test" / "good" / "000.png")
        assert verdict.verdict in ("OK", "NG")
        assert any(target in line and "no verdict flips" in line for line in show.said)
    page = (out / "report" / "report.html").read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert read(out / "demo.png").shape[1] > 1000
    with pytest.raises(InputError, match="is not empty"):
        run_demo(out, show, size=QUICK)
