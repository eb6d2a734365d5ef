"""The compiled graph beside the naive trace, what a CFLOW user runs today, and peers' graphs.

    python benchmarks/engines.py [--quick] [--peers FOLDER] [--extractor NAME ...] [--seconds S]
        [--memory]

SANFlow's `sanflow` preset (D = 512, taps 8/16/32, 256 px, batch 1, random weights) on three
extractors. Calls that are compared take turns in one process (timing.py), group by group to bound
memory; ratios are between their medians. `--peers` is the folder that peers.py filled. Writes
results/engines.json, with memory and cold start of fresh processes, which hold nothing but NumPy
and one engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from freia_form import FreiaSANFlow, cflow
from onnx import numpy_helper
from timing import RESULTS, Call, Timing, in_onnxruntime, in_openvino, interleaved, machine

from sanflow.calibration.ranges import observe
from sanflow.export.fold import fold
from sanflow.export.graph import to_onnx
from sanflow.export.openvino import to_ir
from sanflow.export.plan import Plan
from sanflow.export.quantise import quantise, tensors
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.runtime.machine import child_environment, usable_cpus

EXTRACTORS = ("wide_resnet50_2", "resnet18", "mobilenet_v3_large")
FIBRE = 256
NAIVE, FP32, BF16, INT8 = "naive trace", "compiled", "compiled, bf16", "compiled, int8"
TODAY, CFLOW = "FrEIA in PyTorch, fibre loop", "CFLOW in PyTorch, fibre loop"


def main() -> None:
    """Measure, print ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, one thread")
    parser.add_argument("--extractor", action="append", choices=EXTRACTORS)
    parser.add_argument("--peers", type=Path, help="folder with EXTRACTOR/NAME.onnx")
    parser.add_argument("--seconds", type=float, default=60.0, help="per extractor and threads")
    parser.add_argument("--memory", action="store_true", help="memory and cold start alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    given = parser.parse_args()
    seconds = 6.0 if given.quick else given.seconds
    threads = (1,) if given.quick else tuple(sorted({1, min(2, usable_cpus())}))
    found: dict[str, Any] = {"machine": machine(), "command": "engines.py", "extractors": {}}
    if given.memory:
        found = json.loads(given.out.read_text(encoding="utf-8"))
    for name in given.extractor or EXTRACTORS:
        peers = sorted((given.peers / name).glob("*.onnx")) if given.peers else []
        made = memory(name) if given.memory else measure(name, threads, seconds, peers)
        found["extractors"].setdefault(name, {}).update(made)
        report(name, made)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def memory(name: str) -> dict[str, Any]:
    """Fresh processes alone, beside what was measured before."""
    model = SANFlow(SanflowConfig(extractor=name)).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        found = fresh(saved(model, Path(folder)))
    return {"fresh process": found, "machine of the fresh process": machine()}


def measure(
    name: str, threads: tuple[int, ...], seconds: float, peers: list[Path]
) -> dict[str, Any]:
    """Everything about one extractor."""
    model = SANFlow(SanflowConfig(extractor=name)).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        graphs = saved(model, Path(folder))
        found: dict[str, Any] = {"mib": {k: mib(p) for k, p in graphs.items()}}
        for count in threads:
            torch.set_num_threads(count)
            made = groups(model, graphs, peers, count)
            tables = [interleaved(build(), seconds / len(made)) for build in made]
            found[f"{count} threads"] = [
                {"ms": t, "ratios": ratios(t, "ms"), "processor_ratios": ratios(t, "cpu_ms")}
                for t in tables
            ]
        found["fresh process"] = fresh(graphs)
    return found


def saved(model: SANFlow, folder: Path) -> dict[str, Path]:
    """Every graph of the model, in files: a process that holds them all would run out of memory."""
    naive_trace(model, folder / "naive.onnx")
    graph = to_onnx(model)
    onnx.save(graph, folder / "fp32.onnx")
    found = {NAIVE: folder / "naive.onnx", FP32: folder / "fp32.onnx"}
    for kind, made in int8_graphs(graph.SerializeToString()).items():
        found[kind] = folder / f"{len(found)}.onnx"
        found[kind].write_bytes(made)
    return found


def groups(
    model: SANFlow, graphs: dict[str, Path], peers: list[Path], threads: int
) -> list[Callable[[], dict[str, Call]]]:
    """Calls that are compared, and so take turns; one group is in memory at a time."""
    low = {name: path for name, path in graphs.items() if name.startswith(INT8)}

    def ours_openvino() -> dict[str, Call]:
        calls = {f"{n}, openvino": in_openvino(p, threads) for n, p in graphs.items()}
        return {**calls, f"{BF16}, openvino": in_openvino(graphs[FP32], threads, "bf16")}

    def ours_onnxruntime() -> dict[str, Call]:
        return {f"{n}, onnxruntime": in_onnxruntime(p, threads) for n, p in graphs.items()}

    def today() -> dict[str, Call]:
        calls = {f"{n}, openvino": in_openvino(p, threads) for n, p in low.items()}
        return calls | torch_calls(model)

    def beside(peer: Path) -> dict[str, Call]:
        calls: dict[str, Call] = {}
        for name, path in ((FP32, graphs[FP32]), (f"anomalib {peer.stem}", peer)):
            calls[f"{name}, openvino"] = in_openvino(path, threads)
            calls[f"{name}, bf16, openvino"] = in_openvino(path, threads, "bf16")
            calls[f"{name}, onnxruntime"] = in_onnxruntime(path, threads)
        return calls

    pairs = [lambda peer=peer: beside(peer) for peer in peers]
    return [ours_openvino, ours_onnxruntime, today, *pairs]


def naive_trace(model: SANFlow, path: Path) -> None:
    """FrEIA's form, all positions at once, as the tracing exporter writes it, constants folded."""
    naive = FreiaSANFlow(model)
    image = torch.randint(0, 256, (1, model.config.height, model.config.width, 3)).to(torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(naive(image)[1], model(image)[1], rtol=1e-3, atol=1e-4)
        torch.onnx.export(
            naive,
            (image,),
            str(path),
            input_names=["image"],
            output_names=["score", "map"],
            opset_version=17,
            dynamo=False,
        )
    del naive
    onnx.save(fold(onnx.load(path)), path)


def int8_graphs(graph: bytes) -> dict[str, bytes]:
    """Every region that may be int8 is; ranges of two random images, which no speed depends on."""
    model = onnx.load_from_string(graph)
    plan = Plan.uniform(model, "int8")
    rng = np.random.default_rng(0)
    height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(2)]
    ranges = observe(model, images, tensors(model, plan), "minmax")
    return {
        f"{INT8} ({kind})": quantise(model, plan, ranges, kind).SerializeToString()
        for kind in ("int8", "uint8")
    }


def torch_calls(model: SANFlow) -> dict[str, Call]:
    """What runs today: the released codes' loop, for this model and for CFLOW's own size."""
    fibre = FreiaSANFlow(model, FIBRE).requires_grad_(False)
    decoders, codes = cflow(model), [torch.randn(h * w, 128) for h, w in model.sizes]
    image = torch.zeros(1, model.config.height, model.config.width, 3, dtype=torch.uint8)

    @torch.no_grad()
    def loop() -> None:
        fibre(image)

    @torch.no_grad()
    def smaller() -> None:
        features = model.features(model.normalise(image))
        for decoder, v, code in zip(decoders, features, codes, strict=True):
            rows = v.permute(0, 2, 3, 1).reshape(-1, v.shape[1])
            for start in range(0, rows.shape[0], FIBRE):
                part = slice(start, start + FIBRE)
                decoder(rows[part], [code[part]])

    return {TODAY: loop, CFLOW: smaller}


def ratios(timings: dict[str, Timing], by: str) -> dict[str, float]:
    """How many times as fast the second of a pair is, for every pair of the group that is asked."""
    pairs = []
    for name in timings:
        engine = name.rpartition(", ")[2]
        if f"{NAIVE}, {engine}" in timings and not name.startswith(NAIVE):
            pairs.append((f"{NAIVE}, {engine}", name))
        if TODAY in timings and name.startswith(INT8):
            pairs += [(TODAY, name), (CFLOW, name)]
        if name.startswith("anomalib"):
            pairs.append((name, ", ".join([FP32, *name.split(", ")[1:]])))
    if {f"{FP32}, openvino", f"{BF16}, openvino"} <= set(timings):
        pairs.append((f"{FP32}, openvino", f"{BF16}, openvino"))
    return {
        f"{fast} / {slow}": round(timings[slow][by] / timings[fast][by], 3) for slow, fast in pairs
    }


CHILD = """
import json, re, sys, threading, time
from pathlib import Path
from sanflow.runtime.heap import lean_heap
from sanflow.runtime.machine import peak_rss_mib
from sanflow.runtime.{module} import {kind}
import numpy as np
def held(name):
    found = re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024
own, done = [], threading.Event()
def watch():
    while not done.wait(0.002):
        own.append(held("RssAnon"))
imported, before, own_before = time.time(), peak_rss_mib(), held("RssAnon")
watching = threading.Thread(target=watch)
watching.start()
files = [Path(name) for name in sys.argv[2:]]
with lean_heap():
    engine = {kind}({files}, 1)
opened, then = time.time(), held("VmRSS")
engine.infer(np.zeros(engine.inputs[0].shape, np.uint8))
judged, after = time.time(), held("VmRSS")
done.set()
watching.join()
print(json.dumps(dict(
    import_s=imported - began, open_s=opened - imported, first_s=judged - opened,
    total_s=judged - began, engine_mib=before, peak_mib=peak_rss_mib(),
    own_mib=max(own) - own_before, activations_mib=after - then)))
""".replace("began", "float(sys.argv[1])")


def fresh(graphs: dict[str, Path]) -> dict[str, Any]:
    """Peak memory and seconds to the first verdict of each graph in a process of its own.

    `own` is what no file backs; `activations` what the first inference adds.
    """
    found: dict[str, Any] = {}
    engines = {
        "openvino": ("ov", "OvEngine", "files"),
        "onnxruntime": ("ort", "OrtEngine", "*files"),
    }
    for name, path in graphs.items():
        for engine, (module, kind, given) in engines.items():
            code = CHILD
            for key, value in (("module", module), ("kind", kind), ("files", given)):
                code = code.replace("{" + key + "}", value)
            files = shipped(path) if engine == "openvino" else [path]
            words = [sys.executable, "-c", code, str(time.time()), *map(str, files)]
            done = subprocess.run(
                words, env=child_environment(), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name} in {engine}: {done.stderr[-2000:]}")
            result = json.loads(done.stdout.splitlines()[-1])
            result = {k: round(v, 2) for k, v in result.items()}
            weights = constants_mib(path, summed=engine == "onnxruntime")
            result["file_mib"], result["weights_mib"] = mib(path), weights
            for key, held in (
                ("peak", result["peak_mib"] - result["engine_mib"]),
                ("own", result["own_mib"]),
            ):
                over = (held - result["activations_mib"]) / result["weights_mib"]
                result[f"{key}_over_weights"] = round(over, 2)
            found[f"{name}, {engine}"] = result
    return found


def constants_mib(path: Path, *, summed: bool) -> float:
    """Weights as an engine holds them: ONNX Runtime sums a position's row and column to a map."""
    graph = onnx.load(path).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if summed and node.op_type == "Add" and all(name in held for name in node.input):
            held[node.output[0]] = np.add(*(held.pop(name) for name in node.input))
    return round(sum(value.nbytes for value in held.values()) / 2**20, 1)


def shipped(graph: Path) -> list[Path]:
    """The graph as `--target openvino` writes it, beside it."""
    files = [graph.with_suffix(suffix) for suffix in (".xml", ".bin")]
    for file, data in zip(files, to_ir(onnx.load(graph)), strict=True):
        file.write_bytes(data)
    return files


def mib(path: Path) -> float:
    """Size in MiB."""
    return round(path.stat().st_size / 2**20, 1)


def report(name: str, found: dict[str, Any]) -> None:
    """A table per number of threads, and one of fresh processes."""
    for key, value in found.items():
        if not key.endswith("threads"):
            continue
        for group in value:
            print(f"\n{name}, {key}: median ms, processor ms, best ms")
            for call, t in group["ms"].items():
                print(f"{call:44} {t['ms']:9.1f} {t['cpu_ms']:9.1f} {t['best_ms']:9.1f}")
            print("times as fast, by the clock and by processor time")
            for pair, ratio in group["ratios"].items():
                print(f"{pair:76} {ratio:6.2f} {group['processor_ratios'][pair]:6.2f}")
    print(
        f"\n{name}, fresh process: file, weights, peak, own, activations in MiB; peak and own less"
    )
    print("activations over weights; seconds to the first verdict")
    keys = ("file_mib", "weights_mib", "peak_mib", "own_mib", "activations_mib")
    for call, f in found["fresh process"].items():
        cells = " ".join(f"{f[key]:7.0f}" for key in keys)
        cells += f" {f['peak_over_weights']:6.2f} {f['own_over_weights']:6.2f} {f['total_s']:6.2f}"
        print(f"{call:44} {cells}", flush=True)


if __name__ == "__main__":
    main()
