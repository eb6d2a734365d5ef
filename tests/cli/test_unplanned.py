"""What no command plans for: a mistyped one, an exception from anywhere, Ctrl-C, a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.cli import app
from sanflow.runtime.ort import OrtEngine

from .conftest import fails


@pytest.mark.parametrize(
    "words",
    [["trian"], ["train"], ["infer", "b"], ["verify", "b", "--engin", "x"], ["bench", "b", "c"]],
    ids=" ".join,
)
def test_usage_errors(words: list[str]) -> None:
    assert fails(2, *words)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make opening a bundle raise an exception of choice."""

    def raises(error: BaseException) -> None:
        def opened(*_: object) -> None:
            raise error

        monkeypatch.setattr(Bundle, "open", opened)

    return raises


def test_the_unexpected_is_one_line_and_the_way_to_its_traceback(
    opening: Callable[[BaseException], None],
) -> None:
    opening(ZeroDivisionError("by nothing"))
    message = fails(1, "threshold", "bundle")
    assert "unexpected ZeroDivisionError: by nothing" in message
    assert "--debug" in message
    done = CliRunner().invoke(app, ["--debug", "threshold", "bundle"])
    assert isinstance(done.exception, ZeroDivisionError)


def test_a_missing_package_names_its_extra(opening: Callable[[BaseException], None]) -> None:
    opening(ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"))
    assert 'pip install "sanflow[train]"' in fails(1, "threshold", "bundle")


def test_a_system_error_is_input(opening: Callable[[BaseException], None]) -> None:
    opening(PermissionError(13, "Permission denied", "bundle/manifest.json"))
    assert "bundle/manifest.json: Permission denied" in fails(2, "threshold", "bundle")


def test_ctrl_c_is_130(opening: Callable[[BaseException], None]) -> None:
    opening(KeyboardInterrupt())
    assert "interrupted" in fails(130, "threshold", "bundle")


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("layout", ["bundle", "triton"])
def test_a_signal_ends_an_export_with_nothing_left(
    layout: str,
    number: signal.Signals,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While an engine replays the staged bundle: what it raises is made an error of the engine."""
    staged: list[Path] = []

    def run(engine: OrtEngine, images: object) -> object:
        staged.extend(tmp_path.rglob("model.onnx"))
        os.kill(os.getpid(), number)
        return engine

    monkeypatch.setattr(OrtEngine, "_run", run)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        words = ("export", tiny_run, "--out", tmp_path / "b", "--layout", layout)
        assert f"{number.name}: export stopped; {tmp_path / 'b'} is as it was" in fails(130, *words)
    finally:
        signal.signal(number, before)
    assert len(staged) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_is_loaded_is_130(repository: Path) -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "runpy.run_module('sanflow', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, stderr=subprocess.PIPE)
    assert done.returncode == 130
    assert done.stderr == b"error: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_what_is_done_kept(
    number: signal.Signals,
    parts: Path,
    tiny_options: list[str],
    repository: Path,
    tmp_path: Path,
) -> None:
    """In a real process, after at least one epoch; then it can be resumed."""
    run = tmp_path / "run"
    words = [sys.executable, "-m", "sanflow", "train", str(parts), "--out", str(run)]
    words += [*tiny_options, "--epochs", "500"]
    process = subprocess.Popen(words, cwd=repository, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (run / "metrics.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 130, message
    assert "--resume" in message
    assert "Traceback" not in message
    assert (run / "metrics.csv").read_text().count("\n") >= 2
