"""From a bundle's graph to a proven plan: found in the cache, or built, checked and proven here.

A plan is used for parts only after the bundle's golden samples have come out of it as PyTorch
judged them, on this device. Products of FP32 values may be rounded to TF32 where the graph is FP16
or INT8 anyway, for speed; a plan that fails its goldens so is built once more without.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from ...bundle import Bundle, Graph
from ...errors import EngineError, InputError, ParityError
from ..engine import TensorSpec
from ..parity import replay_goldens
from ..setting import CudaChoice
from . import build, cache
from .api import Product, Recipe, load
from .build import Progress
from .cache import Plan, Proof
from .child import Job
from .cuda import Device, device, open_cuda
from .engine import CLASSES, PlanRefusedError, TrtEngine
from .key import PlanKey, plan_key
from .messages import NON_FINITE

MIB = 2**20
INTEGRATED_WORKSPACE = 1024 * MIB
"""Where the CPU shares the memory, a builder that takes half of it gets the system killed."""
SMALLEST_WORKSPACE = 16 * MIB
_EVERY_S = 15.0

_log = logging.getLogger(__name__)


def build_plan(
    bundle: Bundle,
    graph: Graph,
    *,
    engine: Product = "tensorrt",
    cuda_backend: CudaChoice = "auto",
    workspace: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """The proven plan of one of the bundle's graphs on this device; minutes if it has to be built.

    `workspace` in MiB (default: half of the free memory, at most 1024 on a Jetson); `force` builds
    it anew. Raises EngineError if it cannot be built or loaded, ParityError if it does not give
    PyTorch's verdicts on the golden samples.
    """
    if workspace is not None and workspace < SMALLEST_WORKSPACE // MIB:
        raise InputError(f"workspace {workspace} MiB, expected {SMALLEST_WORKSPACE // MIB} or more")
    api, gpu = load(engine), device(cuda_backend)
    api.check_device(gpu)
    limit = _workspace(gpu) if workspace is None else workspace * MIB
    found: Proof | None = None
    for recipe in _recipes(graph):
        sha256 = bundle.manifest.files[graph.files[0]].sha256
        key = plan_key(sha256, graph.precision, api, gpu, recipe)
        with cache.locked(key, _tell_waiting):
            plan = None if force else cache.find(key)
            again = plan is not None
            if plan is None:
                plan = _build(bundle, graph, key, recipe, limit, gpu, progress)
            try:
                plan = _proven(plan, bundle, graph, cuda_backend)
            except PlanRefusedError as error:
                cache.remove(key)
                if not again:
                    raise
                _log.warning("%s; building it again", error)
                plan = _build(bundle, graph, key, recipe, limit, gpu, progress)
                plan = _proven(plan, bundle, graph, cuda_backend)
        found = plan.meta.proof
        assert found is not None
        if not found.failures:
            return plan
        _log.warning(
            "%s%s: golden samples: %s", graph.files[0], _flags(recipe), "; ".join(found.failures)
        )
    assert found is not None
    what = f"{engine} {api.version} on {gpu.name}: {graph.files[0]}"
    if found.score_error is None or found.map_error is None:
        raise ParityError(f"{what}: {'; '.join(NON_FINITE)}")
    raise ParityError(
        f"{what} does not give PyTorch's verdicts on the golden samples: "
        f"{'; '.join(found.failures)}; use --precision fp32, or --allow-fallback to let a higher "
        "precision step in"
    )


def open_plan(
    plan: Plan,
    graph: Graph,
    bundle: Bundle,
    *,
    cuda_backend: CudaChoice = "auto",
    threads: int = 1,
    in_flight: int = 1,
    cuda_graphs: bool = True,
) -> TrtEngine:
    """Load a plan; PlanRefusedError if TensorRT does not, EngineError if it is another graph's."""
    product = plan.meta.key.product
    api, data = load(product), plan.data()
    opened = CLASSES[product](
        api,
        open_cuda(cuda_backend),
        data,
        threads=threads,
        in_flight=in_flight,
        cuda_graphs=cuda_graphs,
    )
    opened.graph = graph
    found, stated = {*opened.inputs, *opened.outputs}, set(_tensors(bundle))
    if found != stated:
        opened.close()
        raise EngineError(
            f"{product}: the plan has {', '.join(map(str, found))}, the manifest says "
            f"{', '.join(map(str, stated))}; build it again with: sanflow build BUNDLE --force"
        )
    return opened


def _build(
    bundle: Bundle,
    graph: Graph,
    key: PlanKey,
    recipe: Recipe,
    workspace: int,
    gpu: Device,
    progress: Progress | None,
) -> Plan:
    folder = cache.folder(key)
    _log.warning(
        "building %s for %s with %s %s%s, once; this takes minutes",
        graph.files[0],
        gpu.name,
        key.product,
        key.version,
        _flags(recipe),
    )
    timings = cache.timings(key)
    with TemporaryDirectory(dir=folder, prefix=cache.WORK) as work:
        job = Job(
            product=key.product,
            recipe=recipe,
            workspace=workspace,
            tensors=_tensors(bundle),
            plan=os.path.join(work, "plan"),
            timings=os.path.join(work, "timings"),
            timing_bytes=len(timings),
            sm="".join(map(str, gpu.sm)),
        )
        try:
            built = build.run(
                job,
                timings,
                bundle.read(graph.files[0]),
                folder / cache.LOG,
                progress or _logged(),
            )
        except EngineError as error:
            free = f"{gpu.free / MIB:.0f} of {gpu.total / MIB:.0f} MiB were free"
            raise EngineError(
                f"{graph.files[0]}: {error} [{free}, workspace {workspace / MIB:.0f} MiB]"
            ) from error
        if os.path.exists(job.timings):
            cache.keep_timings(key, Path(job.timings).read_bytes())
        return cache.store(
            key,
            Path(job.plan),
            seconds=built.seconds,
            workspace=workspace,
            now=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            warnings=built.warnings,
        )


def _proven(plan: Plan, bundle: Bundle, graph: Graph, cuda_backend: CudaChoice) -> Plan:
    """The plan with this bundle's proof, from its meta or by replaying the golden samples now."""
    if plan.meta.proof is not None and plan.meta.proof.bundle == bundle.manifest.digest:
        return plan
    with open_plan(plan, graph, bundle, cuda_backend=cuda_backend) as opened:
        assert isinstance(opened, TrtEngine)
        compared = replay_goldens(opened, bundle)
        maps = compared.map_absolute
        return plan.with_proof(
            Proof(
                bundle=bundle.manifest.digest,
                images=compared.images,
                score_error=_finite(compared.score_relative.max),
                map_error=None if maps is None else _finite(maps.max),
                flips=len(compared.flips),
                cuda_graph=not opened.plain_launches,
                failures=compared.failures,
            )
        )


def _recipes(graph: Graph) -> Iterator[Recipe]:
    if graph.precision != "fp32":
        yield Recipe(tf32=True)
    yield Recipe(tf32=False)


def _workspace(gpu: Device) -> int:
    half = max(SMALLEST_WORKSPACE, gpu.free // 2)
    return min(half, INTEGRATED_WORKSPACE) if gpu.integrated else half


def _tensors(bundle: Bundle) -> tuple[TensorSpec, ...]:
    stated = (bundle.manifest.input, *bundle.manifest.outputs)
    return tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in stated)


def _flags(recipe: Recipe) -> str:
    return " (TF32)" if recipe.tf32 else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tell_waiting() -> None:
    _log.warning("another process is building the same plan; waiting for it")


def _logged() -> Progress:
    """Progress for where nobody watches: one line every quarter of a minute."""
    last = time.monotonic()

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_S:
            last = time.monotonic()
            _log.warning("TensorRT: %s, %d of %d", phase, done, total)

    return tell
