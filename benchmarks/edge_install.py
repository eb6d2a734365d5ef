"""What an inspection PC pays: packages, disk, import time, and the first verdict from cold.

    python benchmarks/edge_install.py --bundle BUNDLE --image IMAGE [--extra openvino] [--out FILE]

Makes an empty environment in a temporary folder and installs `.[EXTRA]` into it. Times are medians
over fresh processes; "first verdict" is from starting Python to having judged one image, with
nothing of this environment or bundle opened before; the next starts find files in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_PACKAGES, LONGEST_IMPORT = 12, 0.3
REPEATS = 9
IMPORT = """
import time
begin = time.perf_counter()
import sanflow.runtime
print(time.perf_counter() - begin)
"""
JUDGE = """
import sys
from sanflow.runtime import Detector
with Detector(sys.argv[1]) as detector:
    print(detector.judge(sys.argv[2]).verdict)
"""


def main() -> int:
    """Measure, print, and fail when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extra", default="openvino")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), given.extra, given.bundle, given.image)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    heavy = {"torch", "torchvision", "scipy", "scikit-learn"} & set(result["packages"])
    too_many = len(result["packages"]) > MOST_PACKAGES
    too_slow = result["import_seconds"] > LONGEST_IMPORT
    return int(bool(heavy) or too_many or too_slow)


def measure(folder: Path, extra: str, bundle: Path | None, image: Path | None) -> dict[str, object]:
    """Everything about one fresh environment below `folder`."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    before = packages(python)
    begin = time.perf_counter()
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, f"{ROOT}[{extra}]"], check=True)
    result: dict[str, object] = {
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
        "extra": extra,
        "install_seconds": round(time.perf_counter() - begin, 1),
        "packages": {k: v for k, v in packages(python).items() if k not in before},
        "disk_mib": round(size(venv) / 2**20),
    }
    imports = [float(run(python, folder, IMPORT)) for _ in range(REPEATS)]
    result["import_seconds"] = round(statistics.median(imports), 3)
    if bundle is not None and image is not None:
        times = [seconds(python, folder, bundle.resolve(), image.resolve()) for _ in range(REPEATS)]
        result["first_verdict_seconds"] = round(times[0], 2)
        result["next_start_verdict_seconds"] = round(statistics.median(times[1:]), 2)
    return result


def packages(python: Path) -> dict[str, str]:
    """Installed distributions and their versions."""
    done = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {entry["name"]: entry["version"] for entry in json.loads(done.stdout)}


def run(python: Path, folder: Path, code: str, *arguments: object) -> str:
    """Standard output of the code in a fresh process, outside the working copy."""
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def seconds(python: Path, folder: Path, bundle: Path, image: Path) -> float:
    """From starting Python to a verdict."""
    begin = time.perf_counter()
    verdict = run(python, folder, JUDGE, bundle, image).strip()
    if verdict not in ("OK", "NG"):
        raise SystemExit(f"the verdict was {verdict!r}")
    return time.perf_counter() - begin


def size(folder: Path) -> int:
    """Bytes of all files below the folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
