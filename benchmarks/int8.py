"""INT8 on a trained run: what it costs in accuracy, and what it saves in time and bytes.

    python benchmarks/int8.py --run RUN [--data FOLDER] [--ablate [NAME ...]] [--wide]

Choices (range method, activation form, how many images, region by region, NNCF: `--ablate`) are
judged on calibration parts that no range was taken from and on synthetic anomalies made from them.
The test images are looked at once, with the graph that the choices gave, for the table of losses.
`--wide` times WRN-50 with random weights. Writes benchmarks/results/int8.json, keeping the sections
that were not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import openvino
import torch
from numpy.typing import NDArray
from timing import RESULTS, in_onnxruntime, in_openvino, interleaved, machine

from sanflow.bundle import Decision
from sanflow.calibration.calibrate import load_calibration
from sanflow.calibration.ranges import Histograms, Method, Ranges, derive, histograms
from sanflow.calibration.representative import choose
from sanflow.calibration.rounding import round_layers
from sanflow.calibration.threshold import usual_rate
from sanflow.data.layout import open_dataset
from sanflow.data.synthetic import Synthesiser
from sanflow.evaluation.evaluate import evaluate
from sanflow.export.candidate import RANGES
from sanflow.export.graph import to_onnx, trace
from sanflow.export.naive import naive
from sanflow.export.openvino import to_ir
from sanflow.export.plan import Plan
from sanflow.export.quantise import Activation, layers, tensors
from sanflow.export.typed import typed
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.run import Run, open_run
from sanflow.runtime.comparison import rank_correlation
from sanflow.runtime.engine import Engine
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Setting

Image = NDArray[np.uint8]
Judged = tuple[NDArray[np.float64], NDArray[np.float32]]

IMAGES, SHARE = 32, 0.25
"""Images that ranges are taken from, and the share of anomalies among them in the ablation: it did
not help, so the shipped form uses good parts alone."""
METHODS: tuple[tuple[str, Method, float], ...] = (
    ("minmax", "minmax", 1.0),
    ("percentile 99.9", "percentile", 0.999),
    ("percentile 99.99", "percentile", 0.9999),
    ("percentile 99.999", "percentile", 0.99999),
    ("mse", "mse", 1.0),
    ("entropy", "entropy", 1.0),
)


@dataclass(frozen=True)
class Bed:
    """A run with what its graphs are judged on."""

    run: Run
    graph: onnx.ModelProto
    decision: Decision
    good: list[Image]
    """Calibration parts, the representative ones first."""
    made: list[Image]
    """Synthetic anomalies; the last HELD are never ranged over."""
    wanted: Judged
    """The FP32 graph's word on `judged`."""

    @property
    def judged(self) -> list[Image]:
        return judged_parts(self.good, self.made)

    def sample(self, count: int, share: float) -> list[Image]:
        """Images for ranges: good parts, then a share of anomalies."""
        strange = round(count * share)
        return self.good[: count - strange] + self.made[:strange]

    def compare(self, found: Judged) -> dict[str, Any]:
        """One graph against FP32 on the judged parts."""
        (scores, maps), (wanted, heat) = found, self.wanted
        error = np.abs(maps - heat)
        limit = self.decision
        flips = (scores > limit.threshold) != (wanted > limit.threshold)
        outside = flips & ~((wanted >= limit.band_low) & (wanted <= limit.band_high))
        return {
            "rank": round(rank_correlation(wanted, scores) or 0, 5),
            "score_relative_max": round(float(np.abs(scores / wanted - 1).max()), 4),
            "score_shift_good": round(float((scores / wanted - 1)[:-HELD].mean()), 5),
            "score_shift_anomalies": round(float((scores / wanted - 1)[-HELD:].mean()), 5),
            "map_mean": round(float(error.mean()), 4),
            "map_p99": round(float(np.quantile(error, 0.99)), 4),
            "flips": int(flips.sum()),
            "flips_outside": int(outside.sum()),
        }


HELD = 72
"""Anomalies kept for judging."""


def judged_parts(good: list[Image], made: list[Image]) -> list[Image]:
    """The least representative half of the good parts, and anomalies made from others."""
    return good[len(good) // 2 :] + made[-HELD:]


def main() -> None:
    """Measure what was asked for and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ablate", nargs="*", choices=ABLATIONS, help="all, or those named")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    path = RESULTS / "int8.json"

    def keep(name: str, value: Any) -> None:
        print(name, json.dumps(value), flush=True)
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        found.update({name: value, "machine": machine()})
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    bed = lay(open_run(given.run), given.data)
    keep("images", {"calibration": len(bed.good), "judged": len(bed.judged)})
    if given.ablate is not None:
        for name in given.ablate or ABLATIONS:
            keep(name, ablation(bed, name))
    else:
        keep("losses", losses(bed, given.data))
        keep("latency", latency(bed.run.model(), forms(bed), given.seconds))
    if given.wide:
        keep("latency_wide", wide(given.seconds))


def lay(run: Run, data: Path | None) -> Bed:
    """Load the calibration parts, order them, make anomalies, and judge them in FP32."""
    root = data or Path(run.record.data.root)
    root = root.parent if root.is_file() else root
    good = [run.pixel_path.load(root / name) for name, _ in run.record.data.roles["calibrate"]]
    model = run.model()
    order = choose(features(model, good), len(good))
    good = [good[i] for i in order]
    height, width = good[0].shape[:2]
    config = dataclasses.replace(run.config.synth, enabled=True, quotas=(1, 2, 2, 2))
    synthesiser = Synthesiser(config, height, width, seed=0)
    made: list[Image] = []
    for step in range(0, len(good) - 6, 6):
        images, _ = synthesiser.batch(good[step : step + 7], good, epoch=0, step=step)
        made.extend(images[1:])
    graph = to_onnx(model)
    wanted = judge(in_ov(graph), judged_parts(good, made))
    calibration = load_calibration(run)
    decision = calibration.decision(usual_rate(len(calibration.part_scores)))
    return Bed(run, graph, decision, good, made, wanted)


def features(model: SANFlow, images: Sequence[Image]) -> NDArray[np.float64]:
    """Each image as the mean of its features over all positions."""
    rows = []
    with torch.inference_mode():
        for image in images:
            maps = model.observe(torch.from_numpy(image)[None]).features
            rows.append(torch.cat([m.mean(dim=(2, 3))[0] for m in maps]).numpy())
    return np.stack(rows).astype(np.float64)


def judge(engine: Engine, images: Iterable[Image]) -> Judged:
    """Scores (n,) and maps (n, H, W)."""
    found = [engine.infer(image[None]) for image in images]
    scores = np.array([float(f.score[0]) for f in found])
    return scores, np.stack([np.array(f.map[0]) for f in found])


def in_ov(graph: onnx.ModelProto) -> Engine:
    """As the runtime opens an openvino bundle."""
    return open_ir(to_ir(graph))


def open_ir(files: tuple[bytes, bytes]) -> Engine:
    """An xml and a bin in OpenVINO, one thread."""
    named = dict(zip(("model.xml", "model.bin"), files, strict=True))
    return open_graph(named, Setting("openvino", 1))


ABLATIONS = ("methods", "rounding", "clipping", "regions", "regions_joined", "counts", "nncf")


def ablation(bed: Bed, name: str) -> dict[str, Any]:
    """One choice alone, from the default ones."""
    if name == "rounding":
        return rounding(bed)
    if name == "clipping":
        return clipping(bed)
    if name == "nncf":
        return nncf_forms(bed)
    plan = Plan.uniform(bed.graph, "int8")
    names = tensors(bed.graph, plan)

    def score(ranges: Ranges, chosen: Plan = plan, form: Any = "uint8") -> dict[str, Any]:
        return bed.compare(judge(in_ov(typed(bed.graph, chosen, ranges, form)), bed.judged))

    if name == "counts":
        counts = {}
        for count in (4, 8, 16, 32, 64):
            for share in (0.0, SHARE):
                found = histograms(bed.graph, bed.sample(count, share), names)
                ranges = derive(found, "mse")
                growth = round(ranges.growth, 4)
                counts[f"{count} images, {share:.0%} anomalies"] = {
                    **score(ranges),
                    "growth": growth,
                }
        return counts
    seen = histograms(bed.graph, bed.sample(IMAGES, SHARE), names)
    if name == "methods":
        return {
            f"{method}, {form}": score(derive(seen, kind, percentile), plan, form)
            for method, kind, percentile in METHODS
            for form in ("int8", "uint8")
        }
    best = derive(seen, "mse")
    low = [region for region, precision in plan.regions.items() if precision == "int8"]
    if name == "regions":
        return {region: score(best, only(plan, [region])) for region in low}
    flow = [region for region in low if region.startswith("level")]
    return {
        "all": score(best),
        "flow": score(best, only(plan, flow)),
        "extractor and head": score(best, only(plan, [r for r in low if r not in flow])),
    }


def only(plan: Plan, regions: Sequence[str]) -> Plan:
    """Int8 in these regions alone."""
    return Plan({name: "int8" if name in regions else "fp32" for name in plan.regions})


def nncf_forms(bed: Bed) -> dict[str, Any]:
    """NNCF's post-training quantisation of the same graph, with the same images."""
    import nncf

    ours = in_ov(forms(bed)["int8"])
    found: dict[str, Any] = {"ours": bed.compare(judge(ours, bed.judged))}
    images = bed.sample(IMAGES, 0)
    for preset in (nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED):
        for name, pattern in (("tail", "/likelihood.*"), ("tail and couplings", COUPLINGS)):
            model = openvino.Core().read_model(bed.graph.SerializeToString())
            own = [op.get_friendly_name() for op in model.get_ops()]
            kept = nncf.IgnoredScope(patterns=[pattern], validate=False)
            made = nncf.quantize(
                model,
                nncf.Dataset([image[None] for image in images]),
                preset=preset,
                subset_size=len(images),
                ignored_scope=kept,
            )
            engine = open_ir(saved(made))
            row = bed.compare(judge(engine, bed.judged))
            times = interleaved({"nncf": calls(engine), "ours": calls(ours)}, 10)
            found[f"{preset.value}, {name} ignored"] = {
                **row,
                "nodes": len(own),
                "times_as_fast_as_ours": round(
                    times["ours"]["cpu_ms"] / times["nncf"]["cpu_ms"], 3
                ),
            }
    return found


COUPLINGS = r"(/likelihood.*|/levels\.\d+/(blocks\.\d+/)?(?!.*(first|last)/).*)"


def saved(model: openvino.Model) -> tuple[bytes, bytes]:
    """A model as IR, in memory."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def calls(engine: Engine) -> Callable[[], object]:
    """One inference on a fixed random image."""
    image = np.random.default_rng(0).integers(0, 256, engine.inputs[0].shape, np.uint8)
    return lambda: engine.infer(image)


def rounding(bed: Bed) -> dict[str, Any]:
    """Weights to the nearest step, and rounded for what the layers read, from good parts alone."""
    plan, sample = Plan.uniform(bed.graph, "int8"), bed.sample(IMAGES, 0)
    seen = histograms(bed.graph, sample, tensors(bed.graph, plan))
    found = {}
    for name, rounded in (
        ("nearest", {}),
        ("rounded", round_layers(bed.graph, sample, layers(bed.graph, plan))),
    ):
        for form in get_args(Activation):
            ranges = derive(seen, RANGES[form])
            graph = typed(bed.graph, plan, ranges, form, rounded=rounded)
            found[f"{name}, {form}"] = bed.compare(judge(in_ov(graph), bed.judged))
    return found


def clipping(bed: Bed) -> dict[str, Any]:
    """Ranges that hold all that good parts reach, and those of the least error; rounded weights."""
    plan, sample = Plan.uniform(bed.graph, "int8"), bed.sample(IMAGES, 0)
    seen = histograms(bed.graph, sample, tensors(bed.graph, plan))
    rounded = round_layers(bed.graph, sample, layers(bed.graph, plan))
    found = {}
    for form in get_args(Activation):
        for method in RANGES.values():
            graph = typed(bed.graph, plan, derive(seen, method), form, rounded=rounded)
            found[f"{method}, {form}"] = bed.compare(judge(in_ov(graph), bed.judged))
    return found


def forms(bed: Bed) -> dict[str, onnx.ModelProto]:
    """The graph in each precision, as export makes it."""
    plan = Plan.uniform(bed.graph, "int8")
    sample = bed.sample(IMAGES, 0)
    seen = histograms(bed.graph, sample, tensors(bed.graph, plan))
    return precisions(bed.graph, seen, round_layers(bed.graph, sample, layers(bed.graph, plan)))


def precisions(
    graph: onnx.ModelProto, seen: Histograms, rounded: dict[str, NDArray[np.int8]]
) -> dict[str, onnx.ModelProto]:
    """FP32, FP16, INT8 for CPUs, and INT8 as TensorRT takes it."""
    plan = Plan.uniform(graph, "int8")
    ranges = {form: derive(seen, method) for form, method in RANGES.items()}
    return {
        "fp32": graph,
        "fp16": typed(graph, Plan.uniform(graph, "fp16"), None, "int8"),
        "int8": typed(graph, plan, ranges["uint8"], "uint8", rounded=rounded),
        "int8 symmetric": typed(graph, plan, ranges["int8"], "int8", rounded=rounded),
    }


def losses(bed: Bed, data: Path | None) -> dict[str, Any]:
    """Accuracy on the test images, size, and flips on calibration parts, per form and engine."""
    root = data or Path(bed.run.record.data.root)
    dataset = open_dataset(root, bed.run.config.data)
    table: dict[str, Any] = {}
    for form, graph in forms(bed).items():
        for name in ("onnxruntime", "openvino"):
            data_bytes = graph.SerializeToString()
            if name == "onnxruntime":
                engine = open_graph({"model.onnx": data_bytes}, Setting(name, 1))
            else:
                engine = in_ov(graph)
            row = on_test(engine, dataset.test, bed)
            size = len(data_bytes) if name == "onnxruntime" else sum(map(len, to_ir(graph)))
            table[f"{form}, {name}"] = {
                **row,
                "mb": round(size / 1e6, 2),
                **bed.compare(judge(engine, bed.judged)),
            }
            first = table["fp32, onnxruntime"]
            for metric in ("image_auroc", "aupro"):
                table[f"{form}, {name}"][f"{metric}_loss_points"] = round(
                    100 * (first[metric] - row[metric]), 3
                )
            print(form, name, table[f"{form}, {name}"], flush=True)
    return table


def on_test(engine: Engine, test: Sequence[Any], bed: Bed) -> dict[str, float]:
    """Image AUROC, pixel AUROC and AUPRO on the test images."""

    def score(path: Path) -> tuple[float, NDArray[np.float32]]:
        found = engine.infer(bed.run.pixel_path.load(path)[None])
        return float(found.score[0]), np.array(found.map[0])

    result = evaluate(test, score, bed.run.pixel_path, resamples=10)
    values = {
        "image_auroc": result.auroc,
        "pixel_auroc": result.pixel_auroc,
        "aupro": result.aupro,
    }
    return {name: round(e.value, 5) for name, e in values.items() if e is not None}


def latency(model: SANFlow, graphs: dict[str, onnx.ModelProto], seconds: float) -> dict[str, Any]:
    """All forms on both engines in turns, beside the naive trace."""
    first = trace(naive(model).float()).SerializeToString()
    turns = {"naive fp32, openvino": in_openvino(first, 1)}
    turns["naive fp32, onnxruntime"] = in_onnxruntime(first, 1)
    for name, graph in graphs.items():
        turns[f"{name}, openvino"] = in_openvino(graph.SerializeToString(), 1)
        turns[f"{name}, onnxruntime"] = in_onnxruntime(graph.SerializeToString(), 1)
    found = interleaved(turns, seconds)
    base = {e: found[f"naive fp32, {e}"]["cpu_ms"] for e in ("openvino", "onnxruntime")}
    return {
        name: {**row, "times_faster": round(base[name.rpartition(", ")[2]] / row["cpu_ms"], 2)}
        for name, row in found.items()
    }


def wide(seconds: float) -> dict[str, Any]:
    """WRN-50, D = 512, 256 px, random weights: speed does not ask what the weights are."""
    model = SANFlow(SanflowConfig(), seed=0).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (model.config.height, model.config.width, 3)).astype(np.uint8)
    graph = to_onnx(model)
    plan = Plan.uniform(graph, "int8")
    seen = histograms(graph, [image], tensors(graph, plan))
    return latency(model, precisions(graph, seen, {}), seconds)


if __name__ == "__main__":
    main()
