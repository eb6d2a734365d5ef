"""What an export did, as tables: for the terminal (`--explain`) and for the bundle's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bundle.manifest import Target
from .candidate import judges
from .compile import PassRecord
from .gate import Contract, Loss
from .search import Outcome, Trial


@dataclass(frozen=True)
class Table:
    """A title, headings, and rows; the first `left` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    left: int = 1


def passes_table(passes: Sequence[PassRecord]) -> Table:
    """What each exact simplification saved, and what is left."""
    rows = [
        (
            f"{p.number} {p.name}",
            p.note,
            _giga(p.macs_before),
            _giga(p.macs_after),
            _mega(p.values_after),
        )
        for p in passes
    ]
    first, last = passes[0], passes[-1]
    saved = 1 - last.macs_after / first.macs_before
    whole = (
        "all",
        "",
        _giga(first.macs_before),
        _giga(last.macs_after),
        _mega(last.values_after),
    )
    return Table(
        "Exact simplifications",
        ("pass", "what it does", "GMAC before", "GMAC after", "million values"),
        (*rows, whole),
        f"Multiply-accumulates of one image, {100 * saved:.0f} % fewer than as trained.",
        left=2,
    )


def graph_tables(outcomes: Sequence[Outcome], contract: Contract) -> list[Table]:
    """What each graph is and what it lost; where there are several, the titles name them."""
    tables = []
    for outcome in outcomes:
        of = f", {outcome.candidate.precision}" if len(outcomes) > 1 else ""
        if len(set(outcome.candidate.plan.regions.values())) > 1 or not of:
            tables.append(_regions_table(outcome, of))
        if outcome.losses:
            tables.append(_gate_table(outcome.losses, contract, of))
    return tables


def _regions_table(outcome: Outcome, of: str) -> Table:
    """The precision of each region, and what the region alone saved and cost if that was tried."""
    alone = {(t.alone, t.plan.of(t.alone)): t for t in outcome.trials if t.alone}
    rows = []
    for region, precision in outcome.candidate.plan.regions.items():
        tried = [t for (name, _), t in alone.items() if name == region]
        rows.append((region, precision, *_cost(tried[-1] if tried else None)))
    columns = ("region", "precision", "tried alone in", "times as fast", "share of the contract")
    shown = len(columns) if alone else 2
    return Table(f"Precision by region{of}", columns[:shown], tuple(row[:shown] for row in rows))


def _gate_table(losses: Sequence[Loss], contract: Contract, of: str) -> Table:
    """What the shipped graph lost in each engine, beside the limits."""
    heads = ("", "limit", *(loss.engine for loss in losses))
    rows = (
        ("parts judged", "", *(str(loss.parts) for loss in losses)),
        (
            "verdicts that flip outside the uncertain band",
            str(contract.flips_outside),
            *(str(len(loss.flips_outside)) for loss in losses),
        ),
        (
            "flips inside the band",
            "",
            *(str(len(loss.flips) - len(loss.flips_outside)) for loss in losses),
        ),
        (
            "rank correlation of scores",
            f"{contract.rank_correlation:g}",
            *(f"{loss.rank_correlation:.4f}" for loss in losses),
        ),
        (
            "map error, of the good parts' score range",
            f"{contract.map_error:g}",
            *(f"{loss.map_error:.4f}" for loss in losses),
        ),
        (
            "AUPRO lost on synthetic anomalies, points",
            f"{contract.aupro_loss:g}",
            *(_points(loss.synthetic_aupro_loss) for loss in losses),
        ),
        (
            "image AUROC lost on labelled defects, points",
            f"{contract.auroc_loss:g}",
            *(_points(loss.auroc_loss) for loss in losses),
        ),
        (
            "AUPRO lost on labelled defects, points",
            f"{contract.aupro_loss:g}",
            *(_points(loss.aupro_loss) for loss in losses),
        ),
    )
    return Table(f"The gate{of}", heads, rows)


def trials_table(trials: Sequence[Trial], target: Target) -> Table:
    """Everything that was tried, in order."""
    engine = judges(target)[0]
    rows = [
        (
            trial.title,
            str(trial.losses[0].parts),
            f"{trial.speed:.2f}",
            share(trial.share),
            "; ".join(trial.broken) or "kept",
        )
        for trial in trials
    ]
    columns = ("plan", "parts", "times as fast as FP32", "share of the contract", "contract")
    note = (
        f"In {engine}; plan and FP32 took turns, five to forty inferences each: a busy machine "
        "moves the ratios of one graph apart."
    )
    return Table("What was tried", columns, tuple(rows), note)


def share(value: float) -> str:
    """A share of the contract that is used."""
    return f"{100 * value:.0f} %" if value < 100 else "beyond any"


def _cost(trial: Trial | None) -> tuple[str, str, str]:
    if trial is None or trial.alone is None:
        return "", "", ""
    return trial.plan.of(trial.alone), f"{trial.speed:.2f}", share(trial.share)


def _points(value: float | None) -> str:
    return "none given" if value is None else f"{round(value, 2) + 0:.2f}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.3f}"


def _mega(count: int) -> str:
    return f"{count / 1e6:.2f}"
