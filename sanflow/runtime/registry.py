"""Which engines there are, which of them this machine has, and opening a bundle with one.

Engines are imported only when one is opened, each in its own file: `import sanflow.runtime` works
on a machine that has none. An engine on the GPU counts as there only if a GPU answers; one that is
asked for by name is opened or refused, and nothing else steps in.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle, Graph
from ..bundle.manifest import Target, Tensor
from ..errors import EngineError, InputError, SanflowError
from .engine import Engine, TensorSpec, in_one_line
from .gpu import no_gpu
from .heap import lean_heap
from .machine import default_threads
from .private import scratch
from .setting import Gpu, Setting
from .trt.messages import explain
from .tuned import tuned_setting

OpenFiles = Callable[[list[Path], Setting], Engine]
"""A graph's files, which nobody else writes to, and the setting -> an engine."""
Load = Callable[[Bundle, Graph, Setting], Engine]
"""A bundle, the graph that is asked for, the setting -> an engine that says which graph it runs."""


def _onnxruntime(files: list[Path], setting: Setting) -> Engine:
    from .ort import OrtEngine

    return OrtEngine(
        files[0],
        setting.threads,
        in_flight=setting.in_flight,
        spinning=setting.spinning,
        parallel=setting.parallel,
    )


def _openvino(files: list[Path], setting: Setting) -> Engine:
    from .ov import OvEngine

    return OvEngine(
        files,
        setting.threads,
        in_flight=setting.in_flight,
        pinned=setting.pinned,
        hyper_threading=setting.hyper_threading,
        cores=setting.cores,
    )


def _onnxruntime_cuda(files: list[Path], setting: Setting) -> Engine:
    from .ort import OrtCudaEngine

    return OrtCudaEngine(files[0], setting.threads)


def _tensorrt(bundle: Bundle, graph: Graph, setting: Setting) -> Engine:
    from .trt.ladder import open_tensorrt

    return open_tensorrt(bundle, graph, setting)


def _reading(open_files: OpenFiles) -> Load:
    def load(bundle: Bundle, graph: Graph, setting: Setting) -> Engine:
        def put(folder: Path) -> list[Path]:
            return [bundle.copy(name, folder) for name in graph.files]

        size = sum(bundle.manifest.files[name].bytes for name in graph.files)
        engine = _open_copies(put, size, open_files, setting)
        engine.graph = graph
        return engine

    return load


def _open_copies(
    put: Callable[[Path], list[Path]], size: int, open_files: OpenFiles, setting: Setting
) -> Engine:
    """An engine on files that `put` writes to a folder, which is gone once the engine is open."""
    with lean_heap(), ExitStack() as until_open:
        try:
            files = put(until_open.enter_context(scratch(size)))
        except OSError as error:
            raise EngineError(
                "the graph cannot be copied to where an engine loads it from: "
                f"{in_one_line(error)}; set TMPDIR to a folder with room for it"
            ) from error
        return open_files(files, setting)


@dataclass(frozen=True)
class EngineKind:
    """One entry of the registry; the entry's key is also the name of the extra."""

    targets: tuple[str, ...]
    """The bundle targets it reads, its own first."""
    load: Load
    package: str
    """What Python imports."""
    open_files: OpenFiles | None = None
    """Opens a graph that is in no bundle yet; None where a plan has to be built first."""
    gpu: bool = False
    """Whether it computes on an NVIDIA GPU."""
    distribution: str = ""
    """What pip installs, where the package alone does not tell."""


ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(
        ("onnx", "tensorrt"), _reading(_onnxruntime), "onnxruntime", _onnxruntime
    ),
    "openvino": EngineKind(
        ("openvino", "onnx", "tensorrt"), _reading(_openvino), "openvino", _openvino
    ),
    "tensorrt": EngineKind(("tensorrt",), _tensorrt, "tensorrt", gpu=True),
    "tensorrt-rtx": EngineKind(("tensorrt",), _tensorrt, "tensorrt_rtx", gpu=True),
    "onnxruntime-cuda": EngineKind(
        ("onnx", "tensorrt"),
        _reading(_onnxruntime_cuda),
        "onnxruntime",
        _onnxruntime_cuda,
        gpu=True,
        distribution="onnxruntime-gpu",
    ),
}


def available_engines(target: str | None = None) -> tuple[str, ...]:
    """Engines that are installed here (and read this target), the preferred one first."""
    reading = [name for name, kind in ENGINES.items() if target in (None, *kind.targets)]
    return tuple(name for name in reading if not missing(name))


def missing(name: str) -> str:
    """What keeps this engine from being opened here, with what to do; empty if nothing does."""
    kind = ENGINES[name]
    if not (installed(kind.package) and _distributed(kind.distribution)):
        if "tensorrt" in kind.targets[0]:
            return explain(f"{kind.package} not installed")
        return f"not installed: {install(name)}"
    if "tensorrt" in kind.targets[0] and not installed("filelock"):
        return f"its helpers are not installed: {install('cuda')}"
    return explain(no_gpu()) if kind.gpu else ""


def installed(package: str) -> bool:
    """Whether Python would find the package; it is not imported."""
    return importlib.util.find_spec(package) is not None


def _distributed(name: str) -> bool:
    try:
        return not name or bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def install(extra: str) -> str:
    """The command that installs an engine, or another extra of ours."""
    return f'pip install "sanflow[{extra}]"'


def open_engine(
    bundle: Bundle,
    name: str | None = None,
    threads: int | None = None,
    *,
    precision: str | None = None,
    gpu: Gpu | None = None,
    setting: Setting | None = None,
) -> Engine:
    """Load a graph of the bundle into an engine, as tuned on this machine unless anything is given.

    Without a `precision` it is the preferred graph. Without a name, and not tuned, it is the first
    engine that reads the bundle; `threads` defaults to the physical cores this process may use;
    `gpu` is for engines on a GPU; `setting` says everything of the engine. Raises InputError for an
    unknown name or precision, EngineError if the engine is missing, does not read this target, or
    refuses the graph, BundleError if a file changed since the bundle was opened.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}, expected at least 1")
    graph = bundle.manifest.graph(precision)
    as_tuned = name is None and threads is None and gpu is None
    if setting is None and as_tuned and graph is bundle.manifest.graph():
        setting = tuned_setting(bundle)
    return _open(
        bundle, graph, setting or default_setting(bundle.manifest.target, name, threads, gpu)
    )


def open_graph(files: Mapping[str, bytes], setting: Setting) -> Engine:
    """Load a graph that is in no bundle yet, its files by name; InputError where none can be."""
    open_files = ENGINES[setting.engine].open_files
    if open_files is None:
        raise InputError(f"{setting.engine} builds a plan of a bundle; it opens no bare graph")

    def put(folder: Path) -> list[Path]:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return [folder / name for name in files]

    return _open_copies(put, sum(map(len, files.values())), open_files, setting)


def default_setting(
    target: Target,
    name: str | None = None,
    threads: int | None = None,
    gpu: Gpu | None = None,
) -> Setting:
    """What an untuned machine opens: the first engine that reads it, one inference at a time."""
    chosen = _choose(target) if name is None else _known(name)
    usual = 1 if ENGINES[chosen].gpu else default_threads()
    return Setting(chosen, threads or usual, gpu=gpu or Gpu())


def _open(bundle: Bundle, graph: Graph, setting: Setting) -> Engine:
    target, chosen = bundle.manifest.target, _known(setting.engine)
    if why := missing(chosen):
        raise EngineError(f"{chosen}: {why}")
    if target not in ENGINES[chosen].targets:
        readers = [other for other, kind in ENGINES.items() if target in kind.targets]
        raise EngineError(
            f"{chosen}: does not read an {target} bundle; use {' or '.join(readers)}, or export "
            f"the run with --target {ENGINES[chosen].targets[0]}"
        )
    engine = _load(chosen, bundle, graph, setting)
    try:
        _check_graph(engine, bundle)
    except EngineError:
        engine.close()
        raise
    return engine


def _load(name: str, bundle: Bundle, graph: Graph, setting: Setting) -> Engine:
    try:
        return ENGINES[name].load(bundle, graph, setting)
    except SanflowError:
        raise
    except ImportError as error:
        raise EngineError(
            f"{name}: installed, but cannot be imported: {in_one_line(error)}; install it again: "
            f"{install(name)} --force-reinstall"
        ) from error
    except Exception as error:  # engines raise types of their own, some undocumented
        raise EngineError(
            f"{name}: cannot load {bundle.path / graph.files[0]}: {in_one_line(error)}; update "
            f"{name}, or export the run again"
        ) from error


def _check_graph(engine: Engine, bundle: Bundle) -> None:
    """The manifest and the graph must mean the same tensors."""
    manifest = bundle.manifest
    pairs = ((engine.inputs, (manifest.input,)), (engine.outputs, manifest.outputs))
    for found, stated in pairs:
        if set(found) != set(map(_spec, stated)):
            raise EngineError(
                f"{engine.name}: {bundle.path / engine.graph.files[0]} has "
                f"{', '.join(map(str, found))}, the manifest says "
                f"{', '.join(str(_spec(t)) for t in stated)}; export the run again"
            )


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype, tensor.shape)


def _choose(target: Target) -> str:
    """The target's own engine if it is there, else another that reads it.

    Never the CPU in place of a GPU: where one answers, a tensorrt bundle is for it.
    """
    reading = [name for name, kind in ENGINES.items() if target in kind.targets]
    own = [name for name in reading if ENGINES[name].targets[0] == target]
    if target == "tensorrt" and not no_gpu():
        reading = own
    for name in sorted(reading, key=lambda name: name not in own):
        if not missing(name):
            return name
    raise EngineError(f"no engine for this {target} bundle: {own[0]}: {missing(own[0])}")


def _known(name: str) -> str:
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ENGINES)}"
        raise InputError(f"unknown engine {name!r}; {hint}")
    return name
