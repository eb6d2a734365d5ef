"""Choosing an engine for a bundle, and every reason why it cannot be opened."""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from sanflow.bundle import Bundle
from sanflow.errors import BundleError, EngineError, InputError
from sanflow.runtime import ENGINES, available_engines, open_engine, private, registry

from .conftest import MakeBundle, network, noise


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets packages look as if they were not installed."""
    find = importlib.util.find_spec

    def hide(*names: str) -> None:
        monkeypatch.setattr(
            registry.importlib.util,
            "find_spec",
            lambda name, *rest: None if name in names else find(name, *rest),
        )

    return hide


@pytest.mark.parametrize(
    ("target", "name"),
    [("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino")],
)
def test_every_engine_opens_what_it_reads(make_bundle: MakeBundle, target: str, name: str) -> None:
    bundle = make_bundle(target=target)
    assert target in ENGINES[name].targets
    with open_engine(bundle, name, threads=1) as engine:
        assert engine.name == name
        assert engine.threads == 1
        assert engine.infer(noise(1)).map.shape == (1, *engine.inputs[0].shape[1:3])


@pytest.mark.parametrize(("target", "name"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_without_a_name_the_targets_own_engine_is_opened(
    make_bundle: MakeBundle, target: str, name: str
) -> None:
    with open_engine(make_bundle(target=target)) as engine:
        assert engine.name == name
        assert engine.threads >= 1


def test_another_engine_that_reads_the_target_steps_in(bundle: Bundle, without: Any) -> None:
    without("onnxruntime")
    assert available_engines("onnx") == ("openvino",)
    with open_engine(bundle) as engine:
        assert engine.name == "openvino"


def test_available_engines_are_those_installed_and_built(without: Any) -> None:
    assert available_engines() == ("onnxruntime", "openvino")
    assert available_engines("openvino") == ("openvino",)
    without("onnxruntime", "openvino")
    assert available_engines() == ()


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_with_no_engine_the_command_that_installs_one_is_named(
    make_bundle: MakeBundle, without: Any, target: str
) -> None:
    bundle = make_bundle(target=target)
    without("onnxruntime", "openvino", "tensorrt")
    own = "onnxruntime" if target == "onnx" else "openvino"
    with pytest.raises(EngineError) as caught:
        open_engine(bundle)
    assert f'pip install "sanflow[{own}]"' in str(caught.value)
    with pytest.raises(EngineError, match="not installed: pip install"):
        open_engine(bundle, "openvino")


def test_tensorrt_says_what_is_missing(bundle: Bundle, without: Any) -> None:
    without("tensorrt")
    with pytest.raises(EngineError) as caught:
        open_engine(bundle, "tensorrt")
    assert "sudo apt install python3-libnvinfer" in str(caught.value)
    assert 'pip install "sanflow[tensorrt]"' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("onnx-runtime", "did you mean 'onnxruntime'"), ("cuda", "known: onnxruntime, openvino")],
)
def test_an_unknown_name_is_answered_with_a_known_one(bundle: Bundle, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        open_engine(bundle, name)


@pytest.mark.parametrize("threads", [0, -2])
def test_threads_must_be_positive(bundle: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        open_engine(bundle, threads=threads)


def test_an_engine_that_does_not_read_the_target_names_one_that_does(
    make_bundle: MakeBundle,
) -> None:
    with pytest.raises(EngineError, match="use openvino, or export the run with --target onnx"):
        open_engine(make_bundle(target="openvino"), "onnxruntime")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_graph_that_the_engine_cannot_load(make_bundle: MakeBundle, name: str) -> None:
    model = network()
    model.graph.node[4].op_type = "Frobnicate"
    bundle = make_bundle(graph=model)
    with pytest.raises(EngineError, match=rf"{name}: cannot load .*model\.onnx: .*Frobnicate"):
        open_engine(bundle, name)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_graph_and_manifest_must_mean_the_same(make_bundle: MakeBundle, name: str) -> None:
    model = network()
    dims = model.graph.output[1].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = dims[2].dim_value, dims[1].dim_value
    model.graph.node.insert(
        len(model.graph.node) - 1,
        helper.make_node("Transpose", ["map"], ["turned"], perm=[0, 2, 1]),
    )
    model.graph.output[1].name = "turned"
    for node in model.graph.node:
        names = {"map": "upright", "turned": "map"}
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    model.graph.output[1].name = "map"
    with pytest.raises(EngineError, match=r"map float32 \(1, 20, 24\).*manifest says.*24, 20\)"):
        open_engine(make_bundle(graph=model), name)


def test_a_file_that_changed_after_the_bundle_was_opened_is_not_loaded(bundle: Bundle) -> None:
    data = bytearray((bundle.path / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="altered or damaged"):
        open_engine(bundle)


@pytest.mark.parametrize(("target", "name"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_engine_reads_a_copy_that_is_gone_once_it_is_open(
    make_bundle: MakeBundle,
    target: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever becomes of the bundle's own file then: it is cut short, and the scores stay."""
    bundle, room = make_bundle(target=target), tmp_path / "room"
    room.mkdir()
    monkeypatch.setenv("TMPDIR", str(room))
    seen: list[Path] = []
    copy = Bundle.copy
    monkeypatch.setattr(Bundle, "copy", lambda *a: seen.append(copy(*a)) or seen[-1])
    with open_engine(bundle, name, threads=1) as engine:
        before = engine.infer(noise(1))
        assert [path.parent.parent for path in seen] == [room] * len(bundle.manifest.graph().files)
        assert not list(room.iterdir())
        for file in bundle.manifest.graph().files:
            (bundle.path / file).write_bytes(b"")
        after = engine.infer(noise(1))
    assert np.array_equal(before.map, after.map)


def test_a_copy_lies_in_a_folder_of_this_user_alone(bundle: Bundle, monkeypatch: Any) -> None:
    modes: list[int] = []
    copy = Bundle.copy

    def look(opened: Bundle, name: str, folder: Path) -> Path:
        modes.append(folder.stat().st_mode & 0o777)
        return copy(opened, name, folder)

    monkeypatch.setattr(Bundle, "copy", look)
    open_engine(bundle, "onnxruntime").close()
    assert modes == [0o700]


def test_a_disk_that_fills_up_under_the_copy(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Bundle, "copy", full)
    reason = r"cannot be copied .*No space left on device; set TMPDIR to a folder with room for it"
    with pytest.raises(EngineError, match=reason):
        open_engine(bundle)
    assert not list(tmp_path.glob("sanflow-*"))


def test_on_a_full_disk_the_copy_lies_in_memory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A station that starts again must judge, whatever the archive has filled."""
    free = {"/dev/shm": 2**30}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(
        private.shutil, "disk_usage", lambda place: SimpleNamespace(free=free.get(place, 1000))
    )
    seen: list[Path] = []
    copy = Bundle.copy
    monkeypatch.setattr(Bundle, "copy", lambda *a: seen.append(copy(*a)) or seen[-1])
    open_engine(bundle, "onnxruntime").close()
    assert [path.parts[:3] for path in seen] == [("/", "dev", "shm")]
    free["/dev/shm"] = 1000
    reason = rf"1 MiB are free in none of {tmp_path}, /var/tmp, /tmp, /dev/shm; set TMPDIR"
    with pytest.raises(EngineError, match=reason):
        open_engine(bundle, "onnxruntime")


def test_a_broken_installation_is_told_apart_from_a_missing_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bundle: Any, graph: Any, setting: Any) -> Any:
        raise ImportError("libfoo.so.1: cannot open shared object file")

    kind = registry.EngineKind(("onnx",), broken, "onnxruntime")
    monkeypatch.setitem(registry.ENGINES, "onnxruntime", kind)
    with pytest.raises(EngineError, match=r"libfoo.*--force-reinstall"):
        open_engine(bundle, "onnxruntime")
