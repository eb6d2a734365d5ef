"""From graph to proven plan: built once, found again, never trusted without reason."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sanflow.bundle import Bundle
from sanflow.errors import EngineError, InputError, ParityError
from sanflow.runtime import Detector, open_engine, private, tuned
from sanflow.runtime.setting import Gpu
from sanflow.runtime.trt import cache, child, ladder
from sanflow.runtime.trt import key as key_module
from sanflow.runtime.trt import plan as module
from sanflow.runtime.trt.api import Recipe, load
from sanflow.runtime.trt.cuda import device
from sanflow.runtime.trt.engine import PlanRefusedError
from sanflow.runtime.trt.key import PlanKey, plan_key
from sanflow.runtime.trt.plan import build_plan
from sanflow.runtime.tuned import Tuned, this_device

from ..conftest import noise
from .conftest import FakeCuda, Trt, setting

Jobs = list[child.Job]


def plan_of(bundle: Bundle, precision: str | None = None, **options: Any) -> cache.Plan:
    return build_plan(bundle, bundle.manifest.graph(precision), **options)


def test_a_plan_is_built_proven_and_found_again(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle()
    first = plan_of(bundle)
    proof = first.meta.proof
    assert proof is not None
    assert (proof.bundle, proof.images, proof.flips) == (bundle.manifest.digest, 8, 0)
    assert proof.score_error is not None
    assert proof.score_error < 1e-5
    assert proof.failures == ()
    assert proof.cuda_graph
    assert first.meta.warnings == ()
    assert plan_of(bundle) == first
    assert len(in_process) == 1
    assert plan_of(bundle, force=True).meta.proof == proof
    assert len(in_process) == 2


def test_only_this_user_can_reach_it(standin: Any, in_process: Jobs, trt_bundle: Trt) -> None:
    folder = plan_of(trt_bundle()).folder
    assert {path.name for path in folder.iterdir()} == {"plan", "meta.json", ".lock"}
    for path in [folder, *folder.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0 or path.name == ".lock"
        assert path.stat().st_mode & 0o022 == 0


def test_another_decision_needs_another_proof_not_another_plan(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    first = trt_bundle(name="one")
    decision = dataclasses.replace(first.manifest.graph().decision, display_high=1e3)
    second = trt_bundle(name="two", decision=decision)
    assert plan_of(first).folder == plan_of(second).folder
    proof = plan_of(second).meta.proof
    assert proof is not None
    assert proof.bundle == second.manifest.digest != first.manifest.digest
    assert len(in_process) == 1


KEY = {
    "graph": "1" * 64,
    "precision": "int8",
    "product": "tensorrt-rtx",
    "version": "10.4.0",
    "driver": "CUDA 12.6",
    "gpu": "Orin Nano",
    "sm": "8.9",
    "multiprocessors": 16,
    "architecture": "aarch64",
    "system": "Windows",
    "tf32": True,
    "level": 5,
    "builder": 2,
}


def test_anything_that_a_plan_depends_on_gives_another_one(standin: Any) -> None:
    key = plan_key("0" * 64, "fp16", load("tensorrt"), device(), Recipe(tf32=False))
    assert {field.name for field in dataclasses.fields(PlanKey)} == set(KEY)
    others = [dataclasses.replace(key, **{name: value}) for name, value in KEY.items()]  # type: ignore[arg-type]
    assert len({key.digest, *(other.digest for other in others)}) == 1 + len(KEY)
    # Timings are the device's: shared by its graphs, by nothing else.
    shared = {name for name, other in zip(KEY, others, strict=True) if other.device == key.device}
    assert shared == {"graph", "precision"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13", "470.57.02"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release", "540.4.0"),
    ],
)
def test_the_drivers_version_is_read(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    files = {
        "/proc/driver/nvidia/version": text,
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
    }
    monkeypatch.setattr(key_module, "text_of", files.__getitem__)
    assert key_module.driver_version(device()) == f"CUDA 13.0, {found}, L4T 36.4.3"


def test_another_version_or_gpu_builds_its_own(
    standin: Any, in_process: Jobs, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trt_bundle()
    folders = {plan_of(bundle).folder}
    standin("10.16.1")
    folders.add(plan_of(bundle).folder)
    monkeypatch.setenv("FAKECUDA_SM", "86")
    folders.add(plan_of(bundle).folder)
    # Another module of the same family: its name and its compute capability are the same.
    monkeypatch.setenv("FAKECUDA_MULTIPROCESSORS", "16")
    folders.add(plan_of(bundle).folder)
    assert len(folders) == len(in_process) == 4


def test_workspace_follows_the_free_memory(
    standin: Any, in_process: Jobs, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trt_bundle()
    plan_of(bundle)
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "1")
    plan_of(bundle, force=True)
    monkeypatch.setenv("FAKECUDA_LIMIT", str(2**28))
    plan_of(bundle, force=True)
    plan_of(bundle, force=True, workspace=99)
    assert [job.workspace for job in in_process] == [2**32, 2**30, 2**27, 99 * 2**20]
    with pytest.raises(InputError, match="expected 16 or more"):
        plan_of(bundle, workspace=1)


def test_timings_of_one_graph_serve_the_next(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle("fp16", "fp32")
    plan_of(bundle, "fp16")
    found = plan_of(bundle, "fp16", force=True)
    assert b'"cached": 1' in found.data()
    assert in_process[1].timing_bytes == 1
    (stored,) = found.folder.parent.glob("timings-*")
    stored.write_bytes(stored.read_bytes() + b"!")  # damaged: as if there were none
    assert b'"cached": 0' in plan_of(bundle, "fp16", force=True).data()


# What is not trusted ------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def other_key(path: Path) -> None:
    meta = json.loads(path.read_text())
    meta["key"]["gpu"] = "another"
    path.write_text(json.dumps(meta))


def unknown_field(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "import os"}))


def writable(path: Path) -> None:
    path.chmod(0o666)


def link(path: Path) -> None:
    moved = path.rename(path.with_name("elsewhere"))
    path.symlink_to(moved)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("plan", flip_a_bit, "checksum is not the one it was built with"),
        ("plan", cut, "checksum is not the one it was built with"),
        ("plan", Path.unlink, "No such file"),
        ("plan", writable, "others may write to it"),
        ("plan", link, "symbolic links"),
        ("meta.json", cut, "Expecting"),
        ("meta.json", other_key, "belongs to another device"),
        ("meta.json", unknown_field, "code"),
        ("meta.json", writable, "others may write to it"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_plan_that_was_tampered_with_is_never_loaded_but_built_again(
    standin: Any,
    in_process: Jobs,
    trt_bundle: Trt,
    caplog: pytest.LogCaptureFixture,
    name: str,
    harm: Any,
    said: str,
) -> None:
    bundle = trt_bundle()
    plan = plan_of(bundle)
    harm(plan.folder / name)
    again = plan_of(bundle)
    assert len(in_process) == 2
    assert "not used, built again" in caplog.text
    assert said in caplog.text
    assert plan_of(bundle) == again


def test_a_plan_that_changes_after_it_was_found_is_not_loaded(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle()
    plan = plan_of(bundle)
    flip_a_bit(plan.folder / "plan")
    with pytest.raises(EngineError, match="altered or damaged, and is not loaded"):
        module.open_plan(plan, bundle.manifest.graph(), bundle)


def test_a_half_written_plan_is_none(standin: Any, in_process: Jobs, trt_bundle: Trt) -> None:
    bundle = trt_bundle()
    folder = plan_of(bundle).folder
    (folder / "meta.json").unlink()
    plan_of(bundle)
    assert len(in_process) == 2


def test_what_a_killed_builder_left_is_removed(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle()
    folder = plan_of(bundle).folder
    (folder / ".build-abc").mkdir()
    (folder / ".build-abc" / "plan").write_bytes(b"half")
    (folder / ".plan.0123abcd.tmp").write_bytes(b"half")
    plan_of(bundle)
    assert {path.name for path in folder.iterdir()} == {"plan", "meta.json", ".lock"}
    assert len(in_process) == 1


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_a_tuning_kept_before_does_not_open_the_cache_to_others(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    """Where users have groups of their own, as on a Jetson, the umask lets a group write."""
    bundle = trt_bundle()
    usual = os.umask(0o002)
    try:
        tuned.write(
            bundle,
            Tuned("sanflow.tune/1", this_device("tensorrt"), "latency", setting(), 1.5),
        )
        plan = plan_of(bundle)
    finally:
        os.umask(usual)
    for folder in (plan.folder, plan.folder.parent, private.cache_root()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cache_that_others_may_write_to_is_refused(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle()
    folder = plan_of(bundle).folder
    folder.parent.chmod(0o777)
    with pytest.raises(EngineError, match=r"/trt: .*others may write to it; give this user a fold"):
        plan_of(bundle)
    folder.parent.chmod(0o700)
    plan_of(bundle)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(
    standin: Any, trt_bundle: Trt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(closed))
    with pytest.raises(EngineError, match="cannot keep plans there"):
        plan_of(trt_bundle())


# What the device says ------------------------------------------------------------------------


def test_a_plan_for_another_device_is_built_again_once(
    standin: Any,
    in_process: Jobs,
    trt_bundle: Trt,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = trt_bundle()
    plan_of(bundle)
    standin("10.3.0", "deserialize")
    with pytest.raises(EngineError, match="made by another TensorRT or for another GPU"):
        open_engine(bundle, "tensorrt")
    assert len(in_process) == 2
    # The next time the plan is gone, and a device that is well again builds its own.
    standin()
    open_engine(bundle, "tensorrt").close()
    assert len(in_process) == 3


def test_tf32_that_is_too_coarse_is_left_out(
    standin: Any, in_process: Jobs, trt_bundle: Trt, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = trt_bundle("fp16", "fp32")
    standin("10.3.0", "tf32")
    found = plan_of(bundle)
    assert [job.recipe.tf32 for job in in_process] == [True, False]
    assert not found.meta.key.tf32
    assert "built once more without TF32" in caplog.text
    assert plan_of(bundle) == found  # both are known now, and nothing is built
    assert len(in_process) == 2


def test_an_fp32_graph_is_built_without_tf32(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    assert not plan_of(trt_bundle()).meta.key.tf32


def test_a_plan_that_fails_its_goldens_judges_nothing(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    bundle = trt_bundle("fp16", "fp32")
    standin("10.3.0", "fp16")
    for _ in range(2):  # the second time at once
        with pytest.raises(
            ParityError, match=r"model\.fp16\.onnx: it does not give PyTorch's"
        ) as caught:
            open_engine(bundle, "tensorrt")
    assert "--precision fp32" in str(caught.value)
    assert "built anew: sanflow build BUNDLE --precision fp16 --force" in str(caught.value)
    assert len(in_process) == 2
    with open_engine(bundle, "tensorrt", precision="fp32") as engine:
        assert engine.graph.precision == "fp32"
        assert engine.note == ""


def test_scores_that_are_not_finite_prove_nothing(
    standin: Any, in_process: Jobs, trt_bundle: Trt
) -> None:
    standin("10.3.0", "nan")
    with pytest.raises(ParityError, match=r"are not finite; judge no parts with it"):
        plan_of(trt_bundle())


# The ladder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["build_fp16", "fp16"])
def test_with_fallback_a_higher_precision_steps_in_and_every_result_says_so(
    standin: Any, in_process: Jobs, trt_bundle: Trt, fault: str
) -> None:
    from sanflow.runtime.infer import _engine

    bundle = trt_bundle("int8", "fp16", "fp32")
    standin("10.3.0", fault)
    with pytest.raises((EngineError, ParityError), match="int8"):
        open_engine(bundle, "tensorrt")
    asked = setting(gpu=Gpu(allow_fallback=True))
    with Detector(bundle, open_engine(bundle, setting=asked)) as detector, detector.engine:
        assert detector.engine.graph is bundle.manifest.graph("fp32")
        assert detector.engine.note.startswith("fp32 instead of int8: ")
        assert "fp32 instead of int8" in _engine(detector)
        assert detector.judge(noise(1)[0]).verdict in ("OK", "NG")


def test_what_stepped_in_is_said_after_a_plan_was_refused_too(
    trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trt_bundle("fp16", "fp32")
    asked, higher = bundle.manifest.graph("fp16"), bundle.manifest.graph("fp32")
    forced: list[bool] = []

    def built(_: Any, graph: Any, setting: Any, *, force: bool = False) -> tuple[Any, Any, str]:
        forced.append(force)
        return "plan", higher, "" if graph is higher else "fp32 instead of fp16: it overflows"

    def opened(*_: Any) -> Any:
        if len(forced) == 1:
            raise PlanRefusedError("the driver was updated")
        return SimpleNamespace(note="")

    monkeypatch.setattr(ladder, "built", built)
    monkeypatch.setattr(ladder, "_open", opened)
    engine = ladder.open_tensorrt(bundle, asked, setting())
    assert forced == [False, True]
    assert engine.note == "fp32 instead of fp16: it overflows"


def test_the_ladder_goes_up_only(trt_bundle: Trt) -> None:
    bundle = trt_bundle("fp16", "int8", "fp32")
    graph = bundle.manifest.graph
    for asked, wanted in (("int8", "int8 fp16 fp32"), ("fp16", "fp16 fp32"), ("fp32", "fp32")):
        steps = ladder.climb(bundle, graph(asked), allow=True)
        assert [step.precision for step in steps] == wanted.split()
        assert ladder.climb(bundle, graph(asked), allow=False) == (graph(asked),)


def test_what_no_precision_would_cure_ends_the_ladder_at_once(
    standin: Any, in_process: Jobs, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKECUDA")
    asked = setting(gpu=Gpu(allow_fallback=True))
    bundle = trt_bundle("fp16", "fp32")
    with pytest.raises(EngineError, match="the driver sees no GPU"):
        ladder.built(bundle, bundle.manifest.graph(), asked)
    assert not in_process
