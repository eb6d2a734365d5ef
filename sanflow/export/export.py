"""From a calibrated run to a bundle whose engines keep PyTorch's verdicts, or to no bundle at all.

The model is compiled, given its precision by a plan, and has to pass the gate (gate.py) where that
is lower than FP32. Then graph, decision and goldens are written beside the output folder, opened as
on the line, and replayed through every engine on this machine that reads the target. Only if no
verdict flips outside the uncertain band and every error is within tolerance does the bundle take
its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle, staged_bundle, with_report
from ..bundle import manifest as m
from ..bundle.contents import PAGE_HEAD
from ..bundle.write import check_replaceable
from ..calibration.calibrate import Calibration, load_calibration
from ..errors import ParityError
from ..imaging import pixel_sha256
from ..model.method import Method
from ..run import Run
from ..runtime.parity import verify
from .asked import (
    Asked,
    check_flows,
    check_lowering,
    has_bf16,
    known_activation,
    known_precision,
    known_target,
)
from .candidate import Bench, judges
from .compile import PassRecord, compile_model
from .defects import defect_parts, find_defects
from .draft import Made, draft
from .gate import Contract, Jury, outputs
from .goldens import Goldens, make_goldens
from .graph import to_onnx
from .nvidia import accept, installed_here
from .parts import (
    Part,
    find_images,
    golden_parts,
    good_parts,
    load_good,
    spread,
    synthetic_count,
    synthetic_parts,
)
from .progress import Counter, Progress
from .quantise import Activation
from .recipe import WANTED, recipe
from .reference import torch_reference
from .report import measure_speed, page
from .search import Outcome, Search, Tell
from .settle import FP32, Settled, settle

GRAPH_STEPS, SEARCH_STEPS = 20, 1500
"""Share of the progress that making the graph and a search are given, in images."""


@dataclass(frozen=True)
class Prepared:
    """Everything a bundle is made of, before anything is written."""

    run: Run
    model: Method[Any]
    calibration: Calibration
    batch: int
    asked: Asked
    passes: tuple[PassRecord, ...]
    bench: Bench
    contract: Contract
    made: tuple[Made, ...]
    """The graphs, the preferred one first."""
    goldens: Goldens
    good: tuple[Part, ...]
    """The calibration parts that are replayed."""
    paths: tuple[Path, ...]
    """Their files."""
    defects: int
    """Labelled images that were given for the gate."""

    @property
    def nvidia(self) -> bool:
        """Whether NVIDIA's builder is to be asked: for TensorRT, where it is installed."""
        return self.bench.target == "tensorrt" and installed_here()

    @property
    def warning(self) -> str | None:
        """What the user should know about the parts that int8 ranges were taken from."""
        quantised = any(made.outcome.candidate.activation for made in self.made)
        return self.bench.warning if quantised else None


def export_run(
    run: Run,
    out: Path,
    target: str = "onnx",
    *,
    precision: str | None = None,
    activation: Activation | None = None,
    flows: bool = False,
    batch: int = 1,
    false_alarm_rate: float = 0.01,
    data: Path | None = None,
    defects: Path | None = None,
    contract: Contract = Contract(),  # noqa: B008  # frozen
    force: bool = False,
    explain: Callable[[Prepared], None] | None = None,
    tell: Tell = lambda line: None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a calibrated run for `target` (onnx, openvino or tensorrt) into the folder `out`.

    `precision` is fp32, fp16, bf16, int8, or auto, the fastest that keeps the contract; a tensorrt
    bundle holds the higher ones as well, and `flows` lowers its flows' products, too. `defects` is
    a folder of labelled defects for the gate, never the test set, `data` where the run's data set
    lies now, if it has moved. `explain` is called before anything is written, `tell` with a line
    per trial. An existing bundle is replaced only with `force`.

    Raises CalibrationError when the run is not calibrated or has too few parts for the false-alarm
    rate, DataError when its images are missing or changed, ParityError when the precision breaks
    the contract or an engine does not give PyTorch's verdicts; then nothing is left at `out`.
    """
    check_replaceable(Path(out).absolute(), force)
    counter = Counter(progress)
    prepared = prepare(
        run,
        target,
        precision=precision,
        activation=activation,
        flows=flows,
        batch=batch,
        false_alarm_rate=false_alarm_rate,
        data=data,
        defects=defects,
        contract=contract,
        tell=tell,
        progress=counter,
    )
    if explain is not None:
        explain(prepared)
    return _write(prepared, out, force, counter)


def prepare(
    run: Run,
    target: str = "onnx",
    *,
    precision: str | None = None,
    activation: Activation | None = None,
    flows: bool = False,
    batch: int = 1,
    false_alarm_rate: float = 0.01,
    data: Path | None = None,
    defects: Path | None = None,
    contract: Contract = Contract(),  # noqa: B008
    tell: Tell = lambda line: None,
    progress: Progress | Counter | None = None,
) -> Prepared:
    """What `export_run` would write, chosen and judged; nothing is written."""
    chosen_target = known_target(target)
    asked = known_precision(precision, chosen_target)
    form = known_activation(activation, chosen_target)
    check_lowering(asked, activation, defects is not None)
    check_flows(flows, chosen_target)
    calibration = load_calibration(run)
    decision = calibration.decision(false_alarm_rate)
    chosen = spread(calibration.images)
    paths = find_images(run, chosen, data)
    samples = [] if defects is None else find_defects(defects, run)
    counter = progress if isinstance(progress, Counter) else Counter(progress)
    steps = _steps(asked, len(chosen), len(samples), chosen_target)
    counter.begin(sum(steps.values()))

    with counter.phase(steps["judge"]):
        model = run.model()
        reference = torch_reference(model)
        good = good_parts(run, chosen, paths, reference, counter.add)
        goldens = make_goldens([part.image for part in good], run.config.synth, reference)
        others: list[Part] = []
        if asked != "fp32":
            others += synthetic_parts(good, run.config.synth, reference, counter.add)
            others += golden_parts(goldens)
            others += defect_parts(samples, run, reference, counter.add)
    with counter.phase(GRAPH_STEPS):
        compiled = compile_model(model)
        graph = to_onnx(compiled.model, batch)
        bench = Bench(graph, chosen_target, form, model, tuple(good), flows)
    jury = Jury((*good, *others), decision)
    with counter.phase(steps["search"]):
        outcomes = _choose(bench, asked, jury, contract, tell, counter)
    made = []
    for outcome in outcomes:
        settled = Settled(calibration.scores, calibration.part_scores, decision, FP32)
        if outcome.losses:
            own = _own_scores(run, calibration, outcome, jury, data)
            extremes = [loss.extremes for loss in outcome.losses]
            settled = settle(own, calibration.parts, extremes, decision, false_alarm_rate)
        made.append(Made(outcome, settled))
    return Prepared(
        run=run,
        model=model,
        calibration=calibration,
        batch=batch,
        asked=asked,
        passes=compiled.passes,
        bench=bench,
        contract=contract,
        made=tuple(made),
        goldens=goldens,
        good=tuple(good),
        paths=tuple(paths),
        defects=len(samples),
    )


def _steps(asked: Asked, good: int, defects: int, target: m.Target) -> dict[str, int]:
    """The phases and their shares of the progress, in images."""
    engines, jury = len(judges(target)), good + synthetic_count() + defects
    search, graphs = {"fp32": 0, "auto": SEARCH_STEPS}.get(asked, engines * jury), 1
    if target == "tensorrt":
        search, graphs = len(WANTED[asked]) * (engines + 1) * jury, len(WANTED[asked]) + 1
    return {
        "judge": good if asked == "fp32" else jury,
        "graph": GRAPH_STEPS,
        "search": search,
        "verify": graphs * engines * (good + m.MIN_GOLDENS),
    }


def _choose(
    bench: Bench, asked: Asked, jury: Jury, contract: Contract, tell: Tell, counter: Counter
) -> tuple[Outcome, ...]:
    if bench.target == "tensorrt":
        return recipe(bench, asked, jury, contract, tell=tell, step=counter.add)
    if asked == "fp32":
        return (Outcome(bench.uniform("fp32"), (), ()),)
    with Search(bench, jury, contract, tell=tell, step=counter.add) as search:
        if asked == "auto":
            return (search.best(bf16=bench.target == "openvino" and has_bf16()),)
        return (search.fixed(asked),)


def _own_scores(
    run: Run, calibration: Calibration, outcome: Outcome, jury: Jury, data: Path | None
) -> list[dict[str, float]]:
    """Per engine the graph's own score of every calibration image, by name."""
    held = {part.name for part in jury.parts if part.kind == "calibration"}
    rest = [image for image in calibration.images if image.path not in held]
    files = find_images(run, rest, data)
    found = []
    for name, loss in zip(outcome.candidate.judges, outcome.losses, strict=True):
        scores = {
            part.name: score
            for part, score in zip(jury.parts, loss.scores, strict=True)
            if part.kind == "calibration"
        }
        if rest:
            with outcome.candidate.open(name) as engine:
                images = (load_good(run, *pair) for pair in zip(rest, files, strict=True))
                judged = (score for score, _ in outputs(engine, images))
                scores |= zip((image.path for image in rest), judged, strict=True)
        found.append(scores)
    return found


def _write(prepared: Prepared, out: Path, force: bool, counter: Counter) -> Bundle:
    """Write, replay and report; ParityError leaves what was at `out` as it was."""
    judged = {pixel_sha256(part.image): (part.score, part.map) for part in prepared.good}
    form = draft(
        prepared.run,
        prepared.model,
        prepared.calibration,
        prepared.made,
        prepared.goldens,
        {key: score for key, (score, _) in judged.items()},
        prepared.batch,
    )
    contents = {**prepared.goldens.contents(), m.REPORT: PAGE_HEAD.encode()}
    for made in prepared.made:
        contents |= made.outcome.candidate.files
    with staged_bundle(out, form, contents, force=force) as staged:
        with counter.phase(counter.left):
            last = 0

            def step(done: int, total: int) -> None:
                nonlocal last
                counter.add(done - last)
                last = done

            found = verify(
                staged,
                data=prepared.paths,
                reference=lambda image: judged[pixel_sha256(image)],
                progress=step,
            )
        if not found.passed:
            raise ParityError(f"{out}: no bundle was written: {found.text()}")
        accepted = accept(staged) if prepared.nvidia else ()
        speeds = measure_speed(prepared, staged)
        with_report(staged, page(prepared, staged, found, speeds, accepted).encode())
    return Bundle.open(out)
