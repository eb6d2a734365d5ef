"""Building a bundle's plans ahead of time, so that the first part on the line does not wait."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...bundle import Bundle
from ...errors import InputError
from ..registry import ENGINES, missing
from ..setting import Gpu, Setting
from .api import MODULES
from .build import Progress
from .cache import Meta
from .ladder import built


@dataclass(frozen=True)
class BuildReport:
    """A proven plan, and where it lies."""

    bundle: str
    digest: str
    asked: str
    """The precision that was asked for."""
    precision: str
    note: str
    """Why another precision stepped in; empty if none did."""
    folder: str
    plan: Meta

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each fact, for a table."""
        key, proof = self.plan.key, self.plan.proof
        rows = [
            ("precision", self.precision + (f" ({self.note})" if self.note else "")),
            ("engine", f"{key.product} {key.version}{', TF32' if key.tf32 else ''}"),
            (
                "GPU",
                f"{key.gpu}, SM {key.sm}, {key.multiprocessors} multiprocessors, {key.driver}",
            ),
            ("plan", f"{self.plan.bytes / 2**20:.1f} MiB, {self.folder}"),
            ("built", f"{self.plan.built}, in {self.plan.seconds:.0f} s, "
             f"workspace {self.plan.workspace / 2**20:.0f} MiB"),
        ]  # fmt: skip
        if proof is not None:
            error = "not finite" if proof.score_error is None else f"{proof.score_error:.1e}"
            rows.append(
                (
                    "proven",
                    f"{proof.images} golden samples, largest score error {error}, "
                    f"{proof.flips} flips, {'with' if proof.cuda_graph else 'without'} CUDA graph",
                )
            )
        return rows


def build_bundle(
    bundle: Bundle | str | os.PathLike[str],
    *,
    engine: str | None = None,
    precision: str | None = None,
    gpu: Gpu | None = None,
    workspace: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Build and prove the plan of one graph, the preferred one unless a precision is named.

    `engine` is tensorrt or tensorrt-rtx, by default the first that is here; `workspace` in MiB.
    Raises InputError, BundleError, EngineError or ParityError.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    manifest = opened.manifest
    if manifest.target != "tensorrt":
        raise InputError(
            f"{opened.path}: an {manifest.target} bundle needs no plan; export the run with "
            "--target tensorrt"
        )
    if engine is not None and engine not in MODULES:
        raise InputError(f"{engine!r} builds no plans; use {' or '.join(MODULES)}")
    here = [name for name in ENGINES if name in MODULES and not missing(name)]
    graph = manifest.graph(precision)
    plan, chosen, note = built(
        opened,
        graph,
        Setting(engine or (here[0] if here else "tensorrt"), 1, gpu=gpu or Gpu()),
        workspace=workspace,
        force=force,
        progress=progress,
    )
    return BuildReport(
        bundle=str(opened.path),
        digest=manifest.digest,
        asked=graph.precision,
        precision=chosen.precision,
        note=note,
        folder=str(plan.folder),
        plan=plan.meta,
    )
