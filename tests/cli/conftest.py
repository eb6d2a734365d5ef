"""A bundle to change, and what every command that fails must do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app


def fails(code: int, *words: object) -> str:
    """The message of a command that must end with this code and without a traceback."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert done.stderr.strip()
    return " ".join(done.stderr.split())


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
