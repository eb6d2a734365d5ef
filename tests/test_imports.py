"""What an inspection PC imports: no training package, quickly, and the layers as drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "jinja2", "onnx", "safetensors")
ENGINES = ("onnxruntime", "openvino", "tensorrt")
EDGE = ("sanflow.errors", "sanflow.schema", "sanflow.imaging", "sanflow.bundle", "sanflow.runtime")


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The code in a fresh interpreter that finds the package in the working copy."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("module", [*EDGE, "sanflow.cli", "sanflow.calibration.threshold"])
def test_nothing_heavy_is_imported(module: str, repository: Path) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = run(code, repository)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {*HEAVY, *ENGINES}


BLOCK = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize(
    "command", ["threshold", "verify", "build", "infer", "bench", "run", "doctor", "--version"]
)
def test_the_edge_commands_load_without_the_training_packages(
    command: str, repository: Path
) -> None:
    """On a PC without torch every command of the line at least explains itself."""
    arguments = [command] if command.startswith("-") else [command, "--help"]
    code = f"{BLOCK}\nsys.argv = ['sanflow', *{arguments!r}]\nfrom sanflow.cli import main\nmain()"
    done = run(code, repository)
    assert done.returncode == 0, done.stderr


def test_no_engine_sends_or_stores_anything(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's telemetry writes a device identifier and an outbox below the cache folder."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    done = run("import sanflow.runtime.ort, sanflow.runtime.ov", repository)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_training_command_without_torch_names_the_install_command(
    repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    arguments = ["train", str(tmp_path / "parts"), "--out", str(tmp_path / "run")]
    code = f"{BLOCK}\nsys.argv = ['sanflow', *{arguments!r}]\nfrom sanflow.cli import main\nmain()"
    done = run(code, repository)
    assert done.returncode == 1
    assert 'pip install "sanflow[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_layers_hold(repository: Path) -> None:
    """import-linter's contracts of pyproject.toml."""
    # In a process of its own: it silences the loggers of the one it runs in.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = run(code, repository)
    assert done.returncode == 0, done.stdout
