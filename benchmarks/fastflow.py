"""A trained run beside anomalib's FastFlow of the same extractor and size: accuracy and speed.

    python benchmarks/fastflow.py RUN --peers PEERS/bin/python --weights FILE --work FOLDER
        [--bundle INT8_BUNDLE] [--minutes 40]

FastFlow is trained by peers.py, in an environment of its own, on the very pixels of RUN's train
role, for about as long as RUN took. Both are judged on RUN's test images by the same metrics. Then
the compiled graphs take turns (timing.py), and beside them the bundle that the gate let pass and
what a user of CFLOW runs today: CFLOW's own size for this extractor in PyTorch, fibre loop. Writes
results/fastflow.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from engines import CFLOW, torch_calls
from numpy.typing import NDArray
from real_parts import figures, judge
from timing import RESULTS, Call, in_onnxruntime, in_openvino, interleaved, machine

from sanflow.data.layout import open_dataset
from sanflow.evaluation.subject import run_scorer
from sanflow.export.graph import to_onnx
from sanflow.imaging import PixelPath
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.run import Run, open_run

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


class Peer:
    """FastFlow's graph as a scorer of image files."""

    def __init__(self, graph: Path, pixels: PixelPath) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._pixels = pixels

    def __call__(self, path: Path) -> tuple[float, NDArray[np.float32]]:
        """Score and map (height, width)."""
        scaled = self._pixels.load(path).astype(np.float32) / np.float32(255)
        image = ((scaled - MEAN) / DEVIATION).transpose(2, 0, 1)[None]
        score, heat = self._session.run(["score", "map"], {"image": image})
        return float(score.reshape(-1)[0]), heat.reshape(heat.shape[-2:])


def main() -> None:
    """Train the peer if it is not there, judge both, time all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--peers", required=True, help="python with anomalib")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    run = open_run(given.run)
    graph = given.work / "fastflow.onnx"
    if not graph.exists():
        train(run, graph, given)
    found: dict[str, Any] = {
        "run": given.run.name,
        "machine": machine(),
        "training": (given.work / "training.log").read_text("utf-8").splitlines()[-1],
    }
    root = Path(run.record.data.root)
    dataset = open_dataset(root, run.config.data)
    for name, scorer in (
        ("sanflow", run_scorer(run)),
        ("anomalib FastFlow", Peer(graph, run.pixel_path)),
    ):
        found[name] = figures(judge(run, dataset, scorer))
        print(name, json.dumps(found[name]), flush=True)
    found["times"] = times(run, graph, given.bundle, given.work, given.seconds)
    print(json.dumps(found["times"], indent=1))
    (RESULTS / "fastflow.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(run: Run, graph: Path, given: argparse.Namespace) -> None:
    """Have peers.py train on the pixels of the train role."""
    graph.parent.mkdir(parents=True, exist_ok=True)
    root = Path(run.record.data.root)
    root = root.parent if root.is_file() else root
    names = [name for name, _ in run.record.data.roles["train"]]
    pixels = given.work / "train.npy"
    np.save(pixels, np.stack([run.pixel_path.load(root / name) for name in names]))
    command = [given.peers, Path(__file__).with_name("peers.py"), "--out", given.work]
    command += ["--train", pixels, "--weights", given.weights, "--minutes", str(given.minutes)]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (given.work / "training.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, env=bare)


def times(
    run: Run, fastflow: Path, bundle: Path | None, work: Path, seconds: float
) -> dict[str, Any]:
    """One thread: milliseconds of each, and ratios of processor time."""
    torch.set_num_threads(1)
    model = run.model()
    compiled = work / "sanflow.onnx"
    onnx.save(to_onnx(model), compiled)
    calls: dict[str, Call] = {}
    for name, path in (("sanflow fp32", compiled), ("FastFlow fp32", fastflow)):
        calls[f"{name}, openvino"] = in_openvino(path, 1)
        calls[f"{name}, bf16, openvino"] = in_openvino(path, 1, "bf16")
        calls[f"{name}, onnxruntime"] = in_onnxruntime(path, 1)
    if bundle is not None:
        calls["sanflow gated, openvino"] = in_openvino(bundle / "model.xml", 1)
    plain = SANFlow(SanflowConfig(extractor=run.config.model.extractor))
    calls[CFLOW] = torch_calls(plain.eval().requires_grad_(False))[CFLOW]
    table = interleaved(calls, seconds)
    kinds = [name.partition(", ")[2] for name in calls if name.startswith("FastFlow")]
    pairs = [(f"FastFlow fp32, {kind}", f"sanflow fp32, {kind}") for kind in kinds]
    if bundle is not None:
        pairs.append((CFLOW, "sanflow gated, openvino"))
    return {
        "ms": table,
        "times as fast": {
            f"{fast} / {slow}": round(table[slow]["cpu_ms"] / table[fast]["cpu_ms"], 2)
            for slow, fast in pairs
        },
    }


if __name__ == "__main__":
    main()
