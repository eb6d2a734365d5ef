"""Opening a bundle with TensorRT: the asked precision, and what may step in where it fails.

Nothing steps in unasked: a line whose bundle suddenly runs in another precision has another speed
and another decision. With --allow-fallback the next higher precision is tried, and every result
says so.
"""

from __future__ import annotations

import logging

from ...bundle import Bundle, Graph
from ...bundle.manifest import LOWER
from ...errors import EngineError, ParityError
from ..engine import Engine
from ..setting import Setting
from .api import Product, load
from .build import Progress
from .cache import Plan
from .cuda import device
from .engine import PlanRefusedError
from .plan import build_plan, open_plan

_log = logging.getLogger(__name__)


def climb(bundle: Bundle, graph: Graph, allow: bool) -> tuple[Graph, ...]:
    """The asked graph, then, if allowed, the bundle's others of higher precision, lowest first."""
    asked = LOWER.index(graph.precision)
    by_precision = {LOWER.index(other.precision): other for other in bundle.manifest.graphs}
    higher = [by_precision[index] for index in range(asked - 1, -1, -1) if index in by_precision]
    return (graph, *higher) if allow else (graph,)


def built(
    bundle: Bundle,
    graph: Graph,
    setting: Setting,
    *,
    workspace: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Plan, Graph, str]:
    """A proven plan, the graph it is of, and what to say if that is not the asked one.

    Raises EngineError or ParityError of the asked graph if none on the ladder works.
    """
    product = _product(setting)
    load(product), device(setting.gpu.cuda_backend)  # what no other precision would cure
    first: EngineError | ParityError | None = None
    steps = climb(bundle, graph, setting.gpu.allow_fallback)
    for candidate in steps:
        try:
            plan = build_plan(
                bundle,
                candidate,
                engine=product,
                cuda_backend=setting.gpu.cuda_backend,
                workspace=workspace,
                force=force,
                progress=progress,
            )
        except (EngineError, ParityError) as error:
            first = first or error
            if candidate is not steps[-1]:
                _log.warning("%s: %s; trying a higher precision", candidate.precision, error)
            continue
        instead = f"{candidate.precision} instead of {graph.precision}"
        return plan, candidate, "" if first is None else f"{instead}: {first}"
    assert first is not None
    raise first


def open_tensorrt(bundle: Bundle, graph: Graph, setting: Setting) -> Engine:
    """An engine over the proven plan of the asked graph; see `built`."""
    plan, chosen, note = built(bundle, graph, setting)
    try:
        opened = _open(plan, chosen, bundle, setting)
    except PlanRefusedError as error:
        _log.warning("%s; building it again", error)
        plan, chosen, again = built(bundle, chosen, setting, force=True)
        note = note or again
        opened = _open(plan, chosen, bundle, setting)
    opened.note = note
    return opened


def _open(plan: Plan, graph: Graph, bundle: Bundle, setting: Setting) -> Engine:
    return open_plan(
        plan,
        graph,
        bundle,
        cuda_backend=setting.gpu.cuda_backend,
        threads=setting.threads,
        in_flight=setting.in_flight,
        cuda_graphs=setting.cuda_graphs,
    )


def _product(setting: Setting) -> Product:
    return "tensorrt-rtx" if setting.engine == "tensorrt-rtx" else "tensorrt"
