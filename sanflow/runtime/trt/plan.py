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
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from ...bundle import Bundle, Graph
from ...errors import EngineError, InputError, ParityError
from ..engine import TensorSpec
from ..parity import replay_goldens
from ..setting import CudaChoice
from . import build, cache
from .api import Api, Product, Recipe, load
from .build import Progress
from .cache import Plan, Proof
from .child import Job
from .cuda import Device, device, open_cuda
from .engine import CLASSES, PlanRefusedError, TrtEngine
from .key import PlanKey, plan_key

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
    work = _Work(bundle, graph, api, gpu, cuda_backend, limit, force, progress or _logged())
    unproven = ""
    for recipe in _recipes(graph):
        plan = work.plan(recipe)
        proof = plan.meta.proof
        assert proof is not None
        if not proof.failures:
            return plan
        unproven = _unproven(graph, proof)
        if recipe.tf32:
            _log.warning("%s; it is built once more without TF32", unproven)
    raise ParityError(f"{engine} {api.version} on {gpu.name}: {unproven}")


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


@dataclass(frozen=True)
class _Work:
    """One graph on one device, for any recipe."""

    bundle: Bundle
    graph: Graph
    api: Api
    gpu: Device
    cuda_backend: CudaChoice
    workspace: int
    """Bytes."""
    force: bool
    progress: Progress

    def plan(self, recipe: Recipe) -> Plan:
        """Found in the cache or built, and with this bundle's proof, which may be a failed one."""
        sha256 = self.bundle.manifest.files[self.graph.files[0]].sha256
        key = plan_key(sha256, self.graph.precision, self.api, self.gpu, recipe)
        with cache.locked(key, _tell_waiting):
            found = None if self.force else cache.find(key)
            try:
                return self._proven(found or self._build(key, recipe))
            except PlanRefusedError as error:
                cache.remove(key)
                if found is None:
                    raise
                _log.warning("%s; building it again", error)
                return self._proven(self._build(key, recipe))

    def _build(self, key: PlanKey, recipe: Recipe) -> Plan:
        name, gpu = self.graph.files[0], self.gpu
        what = f"{name} for {gpu.name} with {key.product} {key.version}{_flags(recipe)}"
        _log.warning("building %s, once; this takes minutes", what)
        place, timings = cache.folder(key), cache.timings(key)
        with TemporaryDirectory(dir=place, prefix=cache.WORK) as folder:
            job = Job(
                product=key.product,
                recipe=recipe,
                workspace=self.workspace,
                tensors=_tensors(self.bundle),
                plan=os.path.join(folder, "plan"),
                timings=os.path.join(folder, "timings"),
                timing_bytes=len(timings),
                sm="".join(map(str, gpu.sm)),
            )
            graph = self.bundle.read(name)
            try:
                built = build.run(job, timings, graph, place / cache.LOG, self.progress)
            except EngineError as error:
                free = f"{gpu.free / MIB:.0f} of {gpu.total / MIB:.0f} MiB were free"
                raise EngineError(
                    f"{name}: {error} [{free}, workspace {self.workspace / MIB:.0f} MiB]"
                ) from error
            if os.path.exists(job.timings):
                cache.keep_timings(key, Path(job.timings).read_bytes())
            return cache.store(
                key,
                Path(job.plan),
                seconds=built.seconds,
                workspace=self.workspace,
                now=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                warnings=built.warnings,
            )

    def _proven(self, plan: Plan) -> Plan:
        """The plan with this bundle's proof, stored or made by replaying the golden samples now."""
        digest = self.bundle.manifest.digest
        if plan.meta.proof is not None and plan.meta.proof.bundle == digest:
            return plan
        opened = open_plan(plan, self.graph, self.bundle, cuda_backend=self.cuda_backend)
        with opened:
            compared = replay_goldens(opened, self.bundle)
        maps = compared.map_absolute
        return plan.with_proof(
            Proof(
                bundle=digest,
                images=compared.images,
                score_error=_finite(compared.score_relative.max),
                map_error=None if maps is None else _finite(maps.max),
                flips=len(compared.flips),
                cuda_graph=not opened.plain_launches,
                failures=compared.failures,
            )
        )


def _unproven(graph: Graph, proof: Proof) -> str:
    """Why a plan that could be built is not used, and what else can be."""
    if proof.score_error is None or proof.map_error is None:
        what = "scores or maps of the golden samples are not finite"
    else:
        failures = "; ".join(proof.failures)
        what = f"it does not give PyTorch's verdicts on the golden samples: {failures}"
    fix = "use --precision fp32, or --allow-fallback to let a higher precision step in"
    if graph.precision == "fp32":
        fix = "judge no parts with it; update TensorRT, and report it with: sanflow doctor BUNDLE"
    again = f"sanflow build BUNDLE --precision {graph.precision} --force"
    return (
        f"{graph.files[0]}: {what}; {fix}; the plan stays refused until it is built anew: {again}"
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
