"""What is told of a GPU, of a Jetson, and of the plans that lie there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sanflow.runtime import registry
from sanflow.runtime.doctor import gpu, jetson, machine
from sanflow.runtime.doctor.check import Check
from sanflow.runtime.doctor.probe import Answer
from sanflow.runtime.private import cache_root

from .conftest import Answers, tensorrt, with_gpu

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
MODES = """\
# < POWER_MODEL ID=9 NAME=COMMENT >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of an Orin Nano in its mode 1, whose clocks may go down."""
    clock = "sys/class/devfreq/17000000.gpu"
    for name, text in {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "etc/nvpmodel.conf": MODES,
        "var/lib/nvpmodel/status": "pmode:0001\n",
        f"{clock}/min_freq": "306000000\n",
        f"{clock}/max_freq": "1020000000\n",
        "sys/class/devfreq/15340000.vic/min_freq": "1\n",
        "sys/class/devfreq/15340000.vic/max_freq": "1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(jetson, "l4t", lambda: "36.4.3")
    for module in (gpu, machine):
        monkeypatch.setattr(module, "jetson", lambda: jetson.jetson(tmp_path))
    return tmp_path


def checks() -> dict[str, Check]:
    found = list(gpu.checks())
    assert {check.group for check in found} == {"gpu"}
    assert not any(check.code for check in found)  # without one, a CPU does the work
    return {check.name: check for check in found}


def test_a_gpu_with_everything_that_is_known_of_it(answers: Answers) -> None:
    with_gpu(answers)
    found = checks()
    assert found["driver"].detail.startswith("/usr/lib/libcuda.so.1")
    assert found["cuda-python"].status == "ok"
    for words in ("cuda-python 12.9.10", "Orin", "SM 8.7", "5120 of 8192 MiB", "CUDA 12.6"):
        assert words in found["cuda-python"].detail
    assert "shared with the CPU" in found["cuda-python"].detail
    assert found["pycuda"].status == "missing"  # and that is no fault
    with_gpu(answers, integrated=False)
    assert "shared" not in checks()["cuda-python"].detail


def test_a_gpu_that_no_package_reaches(answers: Answers) -> None:
    with_gpu(answers)
    answers["gpu cuda-python"] = answers["gpu pycuda"]
    assert checks()["GPU"].status == "missing"


def test_a_binding_that_fails_is_not_one_that_is_missing(answers: Answers) -> None:
    with_gpu(answers)
    answers["gpu pycuda"] = Answer("failed", "pycuda: the driver sees no GPU")
    assert checks()["pycuda"].status == "failed"
    answers["gpu pycuda"] = Answer("killed", "ended by SIGILL")
    found = checks()["pycuda"]
    assert "SIGILL" in found.detail
    assert found.fix


def test_plans_are_counted_and_damaged_ones_are_no_plans(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_gpu(answers)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checks()["plans"].status == "missing"
    proofs = {"a": None, "b": {"failures": []}, "c": {"failures": ["a verdict flips"]}}
    for name, proof in proofs.items():
        folder = cache_root() / "trt" / name
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"proof": proof}))
        (folder / "plan").write_bytes(bytes(2**20))
    for name, text in {
        "d": "",
        "e": "[]",
        "f": '{"proof": null}',  # and no plan
        "g": '{"proof": {}}',
    }.items():
        folder = cache_root() / "trt" / name
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(text)
    (cache_root() / "trt" / "g" / "plan").write_bytes(b"a plan")
    found = checks()["plans"]
    assert found.detail == f"3 in {cache_root() / 'trt'}, 1 of them proven, 3 MiB"


def test_a_jetson_and_what_would_make_it_faster(board: Path) -> None:
    found = checks()
    for words in ("Orin Nano", "Jetson Linux 36.4.3", "JetPack 6.1 to 6.2", "TensorRT 10.3"):
        assert words in found["Jetson"].detail
    assert found["power mode"].detail == "25W"
    assert "sudo nvpmodel -m 2 (MAXN_SUPER)" in found["power mode"].fix
    assert "follows the load" in found["clocks"].detail
    assert "jetson_clocks" in found["clocks"].fix


def test_a_jetson_at_full_speed_has_nothing_to_mend(board: Path) -> None:
    (board / "var/lib/nvpmodel/status").write_text("pmode:0002\n")
    (board / "sys/class/devfreq/17000000.gpu/min_freq").write_text("1020000000\n")
    found = checks()
    assert (found["power mode"].detail, found["power mode"].fix) == ("MAXN_SUPER", "")
    assert (found["clocks"].detail, found["clocks"].fix) == ("the GPU's clock is fixed", "")


def test_what_cannot_be_read_is_not_told(board: Path) -> None:
    """In a container most of these files are not there."""
    for name in ("var", "sys", "proc", "etc"):
        (board / name).rename(board / f"no-{name}")
    found = checks()
    assert found.keys() == {"Jetson", "driver"}
    assert "a Jetson" in found["Jetson"].detail
    (board / "var/lib/nvpmodel").mkdir(parents=True)
    (board / "var/lib/nvpmodel/status").write_text("pmode:0003\n")
    assert checks()["power mode"].detail == "mode 3"


@pytest.mark.parametrize(
    ("version", "jetpack"),
    [
        ("35.4.1", "5"),
        ("36.3.0", "6.0"),
        ("36.4", "6.1 to 6.2"),
        ("36.4.7", "6.1 to 6.2"),
        ("38.2.2", "7.0 and 7.1"),
        ("39.2", "7.2"),
        ("32.7.1", None),
        ("41.0", None),
    ],
)
def test_the_jetpack_of_a_release(version: str, jetpack: str | None) -> None:
    found = jetson.release(version)
    assert (found.jetpack if found else None) == jetpack


def test_a_jetpack_that_is_too_old_or_not_known_is_said(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetson, "l4t", lambda: "35.4.1")
    assert checks()["Jetson"].status == "failed"
    assert "JetPack 6.1 or newer" in checks()["Jetson"].fix
    monkeypatch.setattr(jetson, "l4t", lambda: "41.0")
    assert "knows no JetPack" in checks()["Jetson"].detail


@pytest.mark.parametrize(("version", "fits"), [("10.3.0", True), ("10.30.1", False)])
def test_another_tensorrt_than_the_jetpacks(
    board: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    monkeypatch.setattr(registry, "installed", lambda package: True)
    with_gpu(answers)
    answers["tensorrt tensorrt"] = tensorrt(version, "/x")
    (found,) = [c for c in machine.engines() if c.name == "tensorrt"]
    assert (found.fix == "") is fits
    assert fits or "brings TensorRT 10.3" in found.fix


def test_the_real_release_file_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanflow.runtime.trt import key

    monkeypatch.setattr(key, "text_of", lambda path: RELEASE)
    found = jetson.jetson(tmp_path)
    assert found is not None
    assert (found.l4t, found.model) == ("36.4.3", "a Jetson")
