"""What cannot be used is said before the station starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.cli import app
from sanflow.errors import ConfigError
from sanflow.runtime.line.monitor.options import load_monitor
from sanflow.runtime.line.output import OutputError


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prot": 1}, "unknown field 'prot'; did you mean 'port'"),
        ({"port": 0}, "port 0: no such port"),
        ({"stale": "5"}, "stale: '5' is not a duration"),
        ({"drift_parts": 50}, "drift_parts is 50, expected 0"),
        ({"rejects": 1.0}, "rejects is 1.0, expected a share"),
        ({"keep_days": 0}, "keep_days is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_used_is_said(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_monitor(table)


def test_a_missing_library_is_said_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load_monitor(None) is None
    with pytest.raises(OutputError, match=r"pip install 'sanflow\[monitor\]'"):
        load_monitor({})


def test_the_command_line_says_it_and_does_not_start(bundle: Bundle, tmp_path: Path) -> None:
    toml = tmp_path / "line.toml"
    toml.write_text('[line]\ndeadline = "1s"\n[source]\nuri = "sim:"\n[monitor]\nprot = 1\n')
    words = ["run", str(bundle.path), "--config", str(toml), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"{toml}.monitor: unknown field 'prot'; did you mean 'port'?" in done.stderr
    assert not (tmp_path / "out").exists()
