"""How far each region is from the physical floor: its multiplications over this machine's peak.

    python benchmarks/floor.py [--quick] [--extractor NAME ...] [--threads N ...]

The peak of a precision is the best rate that the same engine reaches on any of a few large
convolutions, in one run with the graphs. A region's time is the sum of its nodes in OpenVINO's
profile, medians over runs; its floor is its multiply-accumulates over the peak of its precision.
Regions without products have a share of the time and no floor. Writes results/floor.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from engines import EXTRACTORS, int8_graphs
from onnx import TensorProto, helper, numpy_helper, shape_inference
from timing import RESULTS, compiled, example, in_onnxruntime, machine

from sanflow.export.graph import to_onnx
from sanflow.export.plan import region_of
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.runtime.machine import usable_cpus

SHAPES = ((256, 256, 32, 3), (1024, 1024, 32, 1), (512, 2048, 16, 1), (64, 64, 128, 3))
"""Channels in, channels out, side of the map, side of the kernel."""
GEMM = 1024
"""Side of the square matrix product in ONNX Runtime, whose convolutions are matrix products."""


def main() -> None:
    """Peaks, then regions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few runs, one thread")
    parser.add_argument("--extractor", action="append", choices=EXTRACTORS)
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "floor.json")
    given = parser.parse_args()
    runs = 5 if given.quick else 25
    counts = given.threads or ([1] if given.quick else sorted({1, min(2, usable_cpus())}))
    found: dict[str, Any] = {"machine": machine(), "command": "floor.py", "peaks": {}}
    graphs = {name: both(name) for name in given.extractor or EXTRACTORS}
    for threads in counts:
        peaks = peak_rates(threads, runs)
        found["peaks"][f"{threads} threads"] = peaks
        print(f"{threads} threads, GMAC/s:", json.dumps(peaks))
        for name, pair in graphs.items():
            for precision, hint in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
                graph = pair["int8" if precision == "int8" else "fp32"]
                table = regions(graph, threads, hint, runs, peaks)
                found[f"{name}, {precision}, {threads} threads"] = table
                report(f"{name}, {precision}, {threads} threads", table)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def both(name: str) -> dict[str, bytes]:
    """The compiled graph in FP32 and in INT8."""
    graph = to_onnx(SANFlow(SanflowConfig(extractor=name)).eval()).SerializeToString()
    return {"fp32": graph, "int8": next(iter(int8_graphs(graph).values()))}


def peak_rates(threads: int, runs: int) -> dict[str, float]:
    """GMAC/s per precision, the best of all shapes and runs."""
    found: dict[str, float] = {}
    for shape in SHAPES:
        products = shape[0] * shape[1] * shape[2] ** 2 * shape[3] ** 2
        for precision, hint in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
            graph = convolution(*shape, int8=precision == "int8").SerializeToString()
            model = compiled(graph, threads, hint, profile=True)
            times = node_times(model, runs)
            best = min(sum(t) for t in zip(*convolutions(model, times), strict=True))
            found[precision] = max(found.get(precision, 0.0), round(products / best / 1e6, 1))
    call = in_onnxruntime(product().SerializeToString(), threads)
    call()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    found["fp32, onnxruntime"] = round(GEMM**3 / min(seconds) / 1e9, 1)
    return found


def regions(
    graph: bytes, threads: int, hint: str, runs: int, peaks: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Milliseconds, MACs, floor and ratio of every region."""
    parsed = onnx.load_from_string(graph)
    model = compiled(graph, threads, hint, profile=True)
    names = {node.name for node in parsed.graph.node}
    places = origins(model, names)
    spent: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for (name, kind), times in node_times(model, runs).items():
        region = region_of(places[name]) if name in places else "(between)"
        spent[region] += statistics.median(times)
        kinds[region][kind] += statistics.median(times)
    products = macs(parsed)
    found = {}
    for region in [*products, *(r for r in spent if r not in products)]:
        count = sum(products.get(region, Counter()).values())
        floor = sum(n / peaks[peak_of(p, hint)] / 1e6 for p, n in products.get(region, {}).items())
        found[region] = {
            "ms": round(spent[region], 3),
            "share": round(spent[region] / sum(spent.values()), 4),
            "gmac": round(count / 1e9, 4),
            "floor_ms": round(floor, 3),
            "over_floor": round(spent[region] / floor, 2) if floor else None,
            "kinds": {k: round(v, 3) for k, v in kinds[region].most_common(6) if v > 0.001},
        }
    floor = sum(f["floor_ms"] for f in found.values())
    total = sum(f["ms"] for f in found.values())
    whole = {"ms": round(total, 2), "floor_ms": round(floor, 2)}
    return {**found, "all": {**whole, "over_floor": round(total / floor, 2)}}


def peak_of(precision: str, hint: str) -> str:
    """Which peak a node's products are held against."""
    return "bf16" if precision == "fp32" and hint == "bf16" else precision


def macs(model: onnx.ModelProto) -> dict[str, Counter[str]]:
    """Multiply-accumulates of every region with products, by precision (int8 behind Q/DQ)."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    infos = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
    shapes |= {t.name: list(t.dims) for t in inferred.initializer}
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        left, right = (shapes[name] for name in node.input[:2])
        inner = int(np.prod(right[1:])) if node.op_type == "Conv" else left[-1]
        count = int(np.prod(shapes[node.output[0]])) * inner
        both_int8 = set(node.input[:2]) <= dequantised
        found[region_of(node.name)]["int8" if both_int8 else "fp32"] += count
    return found


def origins(model: openvino.CompiledModel, names: set[str]) -> dict[str, str]:
    """The node of the ONNX graph that each executed node serves: the first that it was made of."""
    found = {}
    for op in model.get_runtime_model().get_ops():
        made_of = str(op.get_rt_info()["originalLayersNames"].astype(str)).split(",")
        known = [n for part in made_of for n in (part, part.removesuffix("/WithoutBiases"))]
        place = next((name for name in known if name in names), None)
        if place is not None:
            found[op.get_friendly_name()] = place
    return found


def node_times(model: openvino.CompiledModel, runs: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each executed node, by name and kind, in every run."""
    request, port = model.create_infer_request(), model.inputs[0]
    value = example(port.get_element_type().to_dtype(), tuple(port.shape))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in range(runs + 2):
        request.infer({0: value}, share_inputs=True)
        if run < 2:
            continue
        for info in request.profiling_info:
            key = info.node_name, info.node_type
            times[key].append(1e3 * info.real_time.total_seconds())
    return times


def convolutions(
    model: openvino.CompiledModel, times: dict[tuple[str, str], list[float]]
) -> list[list[float]]:
    """The times of the one convolution of a graph; not what brings its input into form."""
    found = [t for (_, kind), t in times.items() if kind == "Convolution"]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} convolutions were run, expected one")
    return found


def convolution(channels: int, filters: int, side: int, kernel: int, int8: bool) -> onnx.ModelProto:
    """One convolution on random values, with Q/DQ at both inputs for int8."""
    rng = np.random.default_rng(0)
    shape, pad = (filters, channels, kernel, kernel), kernel // 2
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes, constants = [], []
    weight = rng.normal(size=shape).astype(np.float32)
    if int8:
        coded = np.clip(np.round(weight * 32), -127, 127).astype(np.int8)
        scales = np.full(filters, 1 / 32, np.float32)
        values = {"w8": coded, "ws": scales, "w0": np.zeros(filters, np.int8)}
        values |= {"xs": np.float32(1 / 32), "x0": np.uint8(128)}
        constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
        nodes = [
            node("DequantizeLinear", ["w8", "ws", "w0"], ["w"], axis=0),
            node("QuantizeLinear", ["x", "xs", "x0"], ["xq"]),
            node("DequantizeLinear", ["xq", "xs", "x0"], ["xd"]),
        ]
    else:
        constants = [numpy_helper.from_array(weight, "w")]
    nodes.append(node("Conv", ["xd" if int8 else "x", "w"], ["y"], pads=[pad] * 4))
    graph = helper.make_graph(
        nodes,
        "peak",
        [info("x", TensorProto.FLOAT, [1, channels, side, side])],
        [info("y", TensorProto.FLOAT, [1, filters, side, side])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def product() -> onnx.ModelProto:
    """A square matrix product."""
    info = helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(size=(GEMM, GEMM)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "peak",
        [info("x", TensorProto.FLOAT, [GEMM, GEMM])],
        [info("y", TensorProto.FLOAT, [GEMM, GEMM])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def report(title: str, table: dict[str, dict[str, Any]]) -> None:
    """One line per region."""
    print(f"\n{title}: ms, GMAC, floor ms, over the floor, where the time goes")
    for region, f in table.items():
        over = "" if f["over_floor"] is None else f"{f['over_floor']:.2f}"
        kinds = ", ".join(f"{k} {v:.2f}" for k, v in list(f.get("kinds", {}).items())[:4])
        cells = f"{f['ms']:9.2f} {f.get('gmac', 0):8.3f} {f['floor_ms']:8.2f} {over:>7}"
        print(f"{region:18} {cells}  {kinds}")


if __name__ == "__main__":
    main()
