"""A bundle on this machine: opened, every graph in every engine loaded, replayed and timed."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from ...bundle import Bundle, Graph
from ...errors import BundleError, ParityError
from ..bench import full_batches, latency
from ..engine import Engine
from ..parity import replay_goldens
from ..registry import available_engines, default_setting, open_engine
from ..setting import Gpu
from ..trt.api import MODULES, Product
from ..tuned import location
from ..tuned import read as read_tuned
from . import lint
from .check import Check, failure

RUNS, WARMUP, SECONDS = 100, 5, 2.0
"""How an engine is timed, at most; `sanflow bench` does it thoroughly."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which engine and graph of a bundle are looked at; None: all that there are."""

    engine: str | None = None
    precision: str | None = None
    threads: int | None = None
    gpu: Gpu | None = None


def checks(path: str | os.PathLike[str], asked: Asked) -> Iterator[Check]:
    """Whatever is wrong is in the checks; nothing is raised."""
    try:
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        graphs = manifest.graphs if asked.precision is None else (manifest.graph(asked.precision),)
    except Exception as error:
        yield failure("open", error)
        return
    size = f"{manifest.pixels.height} x {manifest.pixels.width}"
    what = f"{manifest.target}, {manifest.model.extractor}, {size}, digest {manifest.digest[:12]}"
    yield Check("bundle", "open", "ok", f"{what}; {len(manifest.files)} files as hashed")
    yield from _graphs(bundle, graphs)
    yield _tuning(bundle)
    # Without any engine, opening says which one to install.
    for name in (asked.engine,) if asked.engine else available_engines(manifest.target) or (None,):
        for graph in graphs:
            yield from _engine(bundle, graph, name, asked)


def _graphs(bundle: Bundle, graphs: tuple[Graph, ...]) -> Iterator[Check]:
    """What can be known of the graphs before any engine reads them."""
    for name in (graph.files[0] for graph in graphs):
        if not name.endswith(".onnx"):
            continue
        try:
            found = lint.read(bundle.read(name))
        except Exception as error:
            yield failure(name, error)
            continue
        wrong = list(lint.problems(found, tensorrt=bundle.manifest.target == "tensorrt"))
        what = f"opset {found.opset}, {len(found.nodes)} operators"
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            detail, fix = f"{what}: {'; '.join(wrong[:3])}{more}", "export the run again"
            yield Check("bundle", name, "failed", detail, fix, BundleError.exit_code)
        else:
            yield Check("bundle", name, "ok", f"{what}, nothing that an engine refuses")


def _tuning(bundle: Bundle) -> Check:
    found, problem = read_tuned(bundle)
    fix = "sanflow bench BUNDLE --tune"
    if found is not None:
        gain = f"{found.ratio:.2f} times as fast as the default ({found.goal})"
        return Check("bundle", "tuning", "ok", f"{found.setting}; {gain}")
    if problem:
        return Check("bundle", "tuning", "failed", f"{location(bundle)}: {problem}", fix)
    return Check("bundle", "tuning", "missing", "engine and threads at their defaults", fix)


def _engine(bundle: Bundle, graph: Graph, name: str | None, asked: Asked) -> Iterator[Check]:
    label = f"{name or 'engine'} {graph.precision}"
    options: dict[str, Any] = {"precision": graph.precision, "gpu": asked.gpu}
    builds = bundle.manifest.target == "tensorrt"
    product: Product | None = name if name in MODULES and builds else None
    try:
        if product is not None:
            yield _plan(bundle, graph, product, asked.gpu)
        begin = time.perf_counter()
        with open_engine(bundle, name, asked.threads, **options) as engine:
            seconds = time.perf_counter() - begin
            yield _replayed(engine, bundle, label, seconds)
            speed = _speed(engine, bundle)
            plain = getattr(engine, "plain_launches", None)
        if product is not None:
            speed = f"{speed}; {plain}" if plain else _both(bundle, graph, product, asked, speed)
        yield Check("bundle", f"{label} speed", "ok", speed)
    except Exception as error:
        yield failure(label, error)


def _plan(bundle: Bundle, graph: Graph, product: Product, gpu: Gpu | None) -> Check:
    """Build the plan, or find the one that was built; it is proven then."""
    from ..trt.plan import build_plan

    begin = time.perf_counter()
    package = (gpu or Gpu()).cuda_backend
    plan = build_plan(bundle, graph, engine=product, cuda_backend=package)
    meta, seconds = plan.meta, time.perf_counter() - begin
    found = "built now" if seconds > meta.seconds else f"built {meta.built}"
    detail = f"{found} in {meta.seconds:.1f} s, {meta.bytes / 2**20:.1f} MiB, in {plan.folder}"
    return Check("bundle", f"{product} {graph.precision} plan", "ok", detail)


def _both(bundle: Bundle, graph: Graph, name: str, asked: Asked, with_graph: str) -> str:
    """The speed with a CUDA graph, and without."""
    usual = default_setting(bundle.manifest.target, name, asked.threads, asked.gpu)
    setting = dataclasses.replace(usual, cuda_graphs=False)
    with open_engine(bundle, precision=graph.precision, setting=setting) as engine:
        return f"CUDA graph {with_graph}; plain launches {_speed(engine, bundle)}"


def _replayed(engine: Engine, bundle: Bundle, label: str, seconds: float) -> Check:
    found = replay_goldens(engine, bundle)
    if not found.passed:
        failures = f"golden samples: {'; '.join(found.failures)}"
        fix = f"judge no parts with {found.engine} here; update it, or export the run again"
        return Check("bundle", label, "failed", failures, fix, ParityError.exit_code)
    maps = "" if found.map_absolute is None else f", map error {found.map_absolute.max:.1e}"
    return Check(
        "bundle",
        label,
        "ok",
        f"loaded in {seconds:.2f} s, {found.images} golden samples: largest score error "
        f"{found.score_relative.max:.1e}{maps}, {len(found.flips)} flips",
    )


def _speed(engine: Engine, bundle: Bundle) -> str:
    batches = cycle(full_batches([golden.image for golden in bundle.goldens()], bundle.batch))
    times: list[float] = []
    deadline = time.perf_counter() + SECONDS
    for run in range(WARMUP + RUNS):
        batch = next(batches)
        begin = time.perf_counter()
        engine.infer(batch)
        end = time.perf_counter()
        if run >= WARMUP or end > deadline:
            times.append(1e3 * (end - begin))
        if end > deadline:
            break
    found = latency(times)
    high = f", p99 {found.p99:.2f}" if found.p99 is not None else ""
    return f"p50 {found.p50:.2f}{high}, max {found.max:.2f} ms ({found.runs} runs)"
