"""The graphs of a tensorrt bundle: the precision that is asked for, and what is fallen back to.

How fast a graph is on a GPU that is not here cannot be measured, so nothing is searched: each
precision has one plan, and the gate says whether it may be shipped. It hears the emulation of what
a GPU computes first, then the engines of this machine, which read the bundle as well.
"""

from __future__ import annotations

from collections.abc import Callable

from ..bundle.manifest import Precision
from ..errors import ParityError
from .candidate import Bench, Candidate
from .explain import share
from .gate import Contract, Jury, Loss
from .search import Outcome, Tell

WANTED: dict[str, tuple[Precision, ...]] = {
    "fp32": (),
    "fp16": ("fp16",),
    "int8": ("int8", "fp16"),
    "auto": ("int8", "fp16"),
}
"""What is tried for each precision that may be asked for; FP32 is always there as well."""


def recipe(
    bench: Bench,
    asked: str,
    jury: Jury,
    contract: Contract,
    *,
    tell: Tell = lambda line: None,
    step: Callable[[int], None] = lambda parts: None,
) -> tuple[Outcome, ...]:
    """The graphs that pass the gate, the lowest precision first; FP32 is always among them.

    `auto` leaves out what does not pass. Raises ParityError when the very precision that was asked
    for does not.
    """
    passed = []
    for precision in WANTED[asked]:
        candidate = bench.uniform(precision)
        losses = _hear(candidate, jury, contract, step)
        broken = [line for loss in losses for line in loss.broken(contract)]
        used = share(max(loss.used(contract) for loss in losses))
        tell(
            f"{precision}: left out: {'; '.join(broken)}"
            if broken
            else f"{precision}: keeps the contract ({used} of it)"
        )
        if broken and precision == asked:
            raise ParityError(
                f"{precision} breaks the contract, so no bundle was written.\n"
                + "\n".join(f"  {line}" for line in broken)
                + "\nuse `--precision auto`, which takes the lowest that passes, or give the "
                "calibrate role more good parts"
            )
        if not broken:
            passed.append(Outcome(candidate, losses, ()))
    return (*passed, Outcome(bench.uniform("fp32"), (), ()))


def _hear(
    candidate: Candidate, jury: Jury, contract: Contract, step: Callable[[int], None]
) -> tuple[Loss, ...]:
    """What each judge says, up to the first that finds the contract broken."""
    losses: list[Loss] = []
    for name in candidate.judges:
        with candidate.open(name) as engine:
            losses.append(jury.hear(engine, step))
        if losses[-1].broken(contract):
            break
    return tuple(losses)
