"""The manifest: one spelling, strict fields, and no field that contradicts another."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sanflow.bundle import Bundle, spelling
from sanflow.errors import BundleError, ConfigError

Table = dict[str, Any]


def sealed(value: Table) -> bytes:
    """These fields as an attacker or a script would write them: canonical, digest recomputed."""
    rest = {key: item for key, item in value.items() if key != "digest"}
    digest = hashlib.sha256((json.dumps(rest, indent=2) + "\n").encode()).hexdigest()
    return (json.dumps({**rest, "digest": digest}, indent=2) + "\n").encode()


def plain(bundle: Bundle) -> Table:
    value: Table = json.loads((bundle.path / "manifest.json").read_bytes())
    return value


def walk(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every node below the root, as (path, value)."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key), item
        yield from walk(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


OPTIONAL = {("pixels", "roi"), ("pixels", "original")}


def structural(value: Table) -> Iterator[tuple[Table, str]]:
    """Mutations of the form alone: every field missing, every table extended, every type wrong."""
    # Their keys are data, not fields.
    free = {("graphs", 0, "regions"), ("references",), ("files",)}
    for path in [(), *(p for p, v in walk(value) if isinstance(v, dict))]:
        if path not in free:
            mutant = copy.deepcopy(value)
            at(mutant, path)["thresold"] = 1.0
            yield mutant, r"manifest.*: unknown field 'thresold'"
    for path, item in walk(value):
        if path == ("digest",):
            continue
        if isinstance(path[-1], str) and path[:-1] not in free:
            mutant = copy.deepcopy(value)
            del at(mutant, path[:-1])[path[-1]]
            missing = rf"manifest.*: missing field '{path[-1]}'"
            yield mutant, "a default left out" if path in OPTIONAL else missing
        mutant = copy.deepcopy(value)
        at(mutant, path[:-1])[path[-1]] = "7" if isinstance(item, (int, float)) else 7
        yield mutant, r"expected|is not one of|is not 'sanflow.bundle/2'"


def put(path: str, item: object) -> Callable[[Table], None]:
    """A mutation that sets one value; numbers in the dotted path index lists."""

    def mutate(value: Table) -> None:
        keys = [int(k) if k.isdigit() else k for k in path.split("/")]
        at(value, tuple(keys[:-1]))[keys[-1]] = item

    return mutate


def rename(old: str, new: str) -> Callable[[Table], None]:
    """A mutation that renames one listed file."""

    def mutate(value: Table) -> None:
        value["files"][new] = value["files"].pop(old)

    return mutate


def add_file(name: str) -> Callable[[Table], None]:
    """A mutation that lists one more file."""

    def mutate(value: Table) -> None:
        value["files"][name] = {"sha256": "0" * 64, "bytes": 1}

    return mutate


def lowered(precision: str) -> Callable[[Table], None]:
    """A mutation that puts the graph in another precision."""

    def mutate(value: Table) -> None:
        value["graphs"][0].update(precision=precision, regions={"head": precision})

    return mutate


MEANING: list[tuple[Callable[[Table], Any], str]] = [
    (put("schema", "sanflow.bundle/1"), "'sanflow.bundle/1' is not 'sanflow.bundle/2'"),
    (put("target", "coreml"), "'coreml' is not one of"),
    (put("target", "openvino"), r"files \('model.onnx',\) of the graph are not \('model.xml'"),
    (put("target", "tensorrt"), r"files \('model.onnx',\) of the graph are not \('model.fp32"),
    (put("graphs/0/files", ["model.xml"]), "of the graph are not"),
    (put("graphs", []), "0 graphs: an onnx bundle holds one"),
    (lambda v: v["graphs"].append(copy.deepcopy(v["graphs"][0])), "2 graphs: an onnx bundle"),
    (put("graphs/0/precision", "fp8"), "'fp8' is not one of"),
    (put("graphs/0/precision", "int8"), "'int8' is not the lowest of the regions, 'fp32'"),
    (put("graphs/0/precision", "fp16"), "'fp16' is not the lowest of the regions, 'fp32'"),
    (put("graphs/0/regions", {}), "must name the graph's regions"),
    (put("graphs/0/regions/head", "fp16"), "'fp32' is not the lowest of the regions, 'fp16'"),
    (put("graphs/0/regions/head", "int4"), "'int4' is not one of"),
    (put("graphs/0/regions/Head", "fp32"), "'Head' is not a region's name"),
    (put("graphs/0/regions/level1.first.x", "fp32"), "is not a region's name"),
    (lowered("bf16"), "need the target openvino"),
    (lowered("int8"), "activation None does not"),
    (put("graphs/0/activation", "int8"), "activation 'int8' does not fit regions in fp32"),
    (put("graphs/0/activation", "int4"), "'int4' is not one of"),
    (put("created", "yesterday"), "not a time"),
    (put("sanflow", ""), "not a version"),
    (put("model/checkpoint_sha256", "abc"), "not a lowercase sha256"),
    (put("model/checkpoint_sha256", "A" * 64), "not a lowercase sha256"),
    (put("model/weights_sha256", "abc"), "not a lowercase sha256"),
    (put("model/weights", "/home/someone/w.pth"), "must be a name without a folder"),
    (put("model/parameters", 0), "needs taps and parameters"),
    (put("model/taps", []), "needs taps and parameters"),
    (put("model/taps", [8]), "2 values for 1 levels"),
    (put("model/pools", [1]), "2 values for 3 levels"),
    (put("model/image_score", "image"), "2 values for 0 levels"),
    (put("data/train", 0), "at least one training image"),
    (put("data/calibrate", 4), "3 scores for 4 images"),
    (put("data/parts", 2), r"part_scores: 3 scores for 2 parts"),
    (put("data/parts", 4), "4 parts in 3 calibration images"),
    (put("data/parts", 0), "0 parts in 3 calibration images"),
    (put("graphs/0/part_scores", [0.25, 0.5, 0.7]), "must be some of the scores, and the largest"),
    (put("graphs/0/part_scores", [0.25, 0.75, 0.5]), "part_scores must be ascending"),
    (put("data/calibrate", -1), "at least one training image"),
    (put("data/fingerprint", ""), "not a lowercase sha256"),
    (put("input/shape", []), r"shape \(\) must be positive"),
    (put("input/shape", [1, 2, 2]), r"is not \(N, H, W, 3\)"),
    (put("input/shape", [0, 2, 2, 3]), "must be positive"),
    (put("input/shape", [1, 3, 2, 3]), "does not fit the pixels 2x2"),
    (put("input/shape", [1, 2, 2, 1]), "does not fit the pixels 2x2"),
    (put("input/shape", [2, 2, 2, 3]), "manifest.outputs"),
    (put("input/dtype", "float32"), "does not fit the pixels"),
    (put("input/name", "images"), "does not fit the pixels"),
    (put("outputs/0/name", "map"), "manifest.outputs"),
    (put("outputs/1/shape", [1, 2, 3]), "manifest.outputs"),
    (put("outputs", []), "manifest.outputs"),
    (put("pixels/height", 3), "does not fit the pixels 3x2"),
    (put("pixels/width", 0), "2x0 is not a size"),
    (put("pixels/roi", {"x": -1, "y": 0, "width": 2, "height": 2}), "must not be negative"),
    (put("pixels/roi", {"x": 0, "y": 0, "width": 0, "height": 2}), "at least 1"),
    (put("pixels/original", [0, 640]), "must be at least 1 x 1"),
    (put("pixels/original", [480]), r"pixels.original"),
    (put("calibration/level_max", [1.0]), "1 values for 2 levels"),
    (put("graphs/0/scores", [0.5, 0.25, 0.75]), "must be ascending"),
    (put("graphs/0/scores", [0.25, 0.5, 0.75, 0.75]), "4 scores for 3 images"),
    (put("graphs/0/scores", [0.25, 0.6, 0.75]), "must be some of the scores"),
    (put("graphs/0/scores/0", 1e999), "not a finite number"),
    (put("graphs/0/decision/threshold", float("nan")), "NaN is not a finite number"),
    (put("graphs/0/decision/threshold", float("inf")), "Infinity is not a finite number"),
    (put("graphs/0/decision/threshold", float("-inf")), "-Infinity is not a finite number"),
    (put("graphs/0/decision/threshold", 0.77), "must be inside its band"),
    (put("graphs/0/decision/band_low", 0.755), "must be inside its band"),
    (put("graphs/0/decision/band_high", 0.1), "must be inside its band"),
    (put("graphs/0/decision/false_alarm_rate", 0.0), r"must be in \(0, 1\)"),
    (put("graphs/0/decision/false_alarm_rate", 1.0), r"must be in \(0, 1\)"),
    (put("graphs/0/decision/false_alarm_rate", -0.5), r"must be in \(0, 1\)"),
    (put("graphs/0/decision/display_low", 1.5), "must be below display_high"),
    (put("graphs/0/tolerances/score_relative", 0.0), "must be positive"),
    (put("graphs/0/tolerances/map_absolute", -1.0), "must be positive"),
    (put("graphs/0/tolerances/band_relative", 0.0), "must be positive"),
    (put("golden", []), "0 samples, expected 8 to 256"),
    (put("golden/0/image", "golden/001.png"), r"golden\[0\].image"),
    (put("golden/7/image", "../000.png"), r"golden\[7\].image"),
    (put("golden/0/kind", "bad"), "is not one of 'good', 'anomaly'"),
    (lambda v: v["golden"].pop(), "7 samples, expected 8"),
    (lambda v: v["golden"].reverse(), r"golden\[0\].image"),
    (lambda v: v["golden"].extend(v["golden"] * 40), "328 samples"),
    (put("references", {"abc": 0.5}), "'abc' is not a lowercase sha256"),
    (put("references", {"A" * 64: 0.5}), "is not a lowercase sha256"),
    (put("references", {"a" * 64: float("nan")}), "NaN is not a finite number"),
    (put("files", {}), "is missing"),
    (put("files/model.onnx/sha256", "0" * 63), "not a lowercase sha256"),
    (put("files/model.onnx/bytes", 0), "must be at least 1"),
    (put("files/model.onnx/bytes", -1), "must be at least 1"),
    (lambda v: v["files"].pop("model.onnx"), "'model.onnx' is missing"),
    (lambda v: v["files"].pop("golden/003.png"), "'golden/003.png' is missing"),
    (lambda v: v["files"].pop("report.html"), "'report.html' is missing"),
    (add_file("Report.html"), "differs from 'report.html' only by case"),
    (add_file("/etc/passwd"), "'/etc/passwd' is an absolute path"),
    (add_file("C:/windows"), "is an absolute path"),
    (add_file("\\\\host\\share"), "is an absolute path"),
    (add_file("../model.onnx"), "leaves the bundle with '..'"),
    (add_file("golden/../../x"), "leaves the bundle with '..'"),
    (add_file("golden\\..\\x"), "leaves the bundle with '..'"),
    (add_file("golden/./000.png"), "is not a plain path"),
    (add_file("golden//000.png"), "is not a plain path"),
    (add_file("golden/"), "is not a plain path"),
    (add_file(""), "is not a plain path"),
    (add_file("model.onnx\n"), "is not a plain path"),
    (add_file("model\u0435.onnx"), "is not a plain path"),
    (add_file("Model.onnx"), "differs from 'model.onnx' only by case"),
    (add_file("golden/000.PNG"), "differs from 'golden/000.png' only by case"),
    (add_file("manifest.json"), "does not belong"),
    (add_file("model.onnx.data"), "does not belong"),
    (add_file("golden/008.png"), "does not belong"),
    (add_file("readme.txt"), "does not belong"),
    (rename("model.onnx", "model.bin"), "does not belong"),
    (rename("golden/maps.npy", "maps.npy"), "does not belong"),
]


def test_two_hundred_mutations_with_a_fresh_digest_are_refused(bundle: Bundle) -> None:
    """Each with the reason that names the field: the digest alone would prove nothing."""
    good = plain(bundle)
    assert sealed(good) == (bundle.path / "manifest.json").read_bytes()
    mutants = list(structural(good))
    for mutate, reason in MEANING:
        mutant = copy.deepcopy(good)
        mutate(mutant)
        mutants.append((mutant, reason))
    spellings = {sealed(mutant) for mutant, _ in mutants}
    assert len(spellings - {sealed(good)}) == len(mutants) >= 200
    for mutant, reason in mutants:
        with pytest.raises(ConfigError) as refusal:
            spelling.parse(sealed(mutant))
        assert re.search(reason, str(refusal.value)), (reason, str(refusal.value))
        assert str(refusal.value).startswith("manifest")


def test_a_refused_manifest_names_folder_file_field_and_remedy(bundle: Bundle) -> None:
    value = plain(bundle)
    decision = value["graphs"][0]["decision"]
    decision["thresold"] = decision.pop("threshold")
    (bundle.path / "manifest.json").write_bytes(sealed(value))
    with pytest.raises(BundleError) as refusal:
        Bundle.open(bundle.path)
    message = str(refusal.value)
    assert str(bundle.path) in message
    assert "manifest.json: manifest.graphs[0].decision: unknown field 'thresold'" in message
    assert "did you mean 'threshold'?" in message
    assert "copy the bundle again" in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: b"", "not JSON"),
        (lambda d: b"[]\n", "expected a table"),
        (lambda d: b"null\n", "expected a table"),
        (lambda d: b"\xef\xbb\xbf" + d, "byte 0 is not ASCII"),
        (lambda d: d.decode().encode("utf-16"), "not ASCII|not JSON"),
        (lambda d: d[:-1], "not in canonical form"),
        (lambda d: d + b"\n", "not in canonical form"),
        (lambda d: d.replace(b"\n", b"\r\n"), "not in canonical form"),
        (lambda d: json.dumps(json.loads(d)).encode(), "not in canonical form"),
        (lambda d: d.replace(b'"fp32"', b'"fp\\u00332"', 1), "not in canonical form"),
        (lambda d: d.replace(b"1.5", b"1.50", 1), "not in canonical form"),
        (lambda d: d.replace(b"1.5", b"15e-1", 1), "not in canonical form"),
        (lambda d: d.replace(b'"pixels"', b'"target": "onnx", "pixels"', 1), "appears twice"),
        (lambda d: d.replace(b'"roi"', b'"height": 2, "roi"', 1), "'height' appears twice"),
        (lambda d: d.replace(b"0.75,", b"0.7501,", 1), "ascending|is not the digest"),
        (lambda d: b"[" * 100000, "not JSON"),
        (lambda d: b'{"schema": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_other_spellings_are_refused(
    bundle: Bundle, change: Callable[[bytes], bytes], reason: str
) -> None:
    data = (bundle.path / "manifest.json").read_bytes()
    assert change(data) != data
    with pytest.raises(ConfigError, match=reason):
        spelling.parse(change(data))


def test_an_integer_for_a_float_and_another_field_order_are_other_spellings(bundle: Bundle) -> None:
    value = plain(bundle)
    value["graphs"][0]["decision"]["display_low"] = 0
    with pytest.raises(ConfigError, match="canonical form"):
        spelling.parse(sealed(value))
    value = plain(bundle)
    reordered = dict(sorted(value.items()))
    with pytest.raises(ConfigError, match="canonical form"):
        spelling.parse(sealed(reordered))


def test_the_digest_is_last_and_covers_the_rest(bundle: Bundle) -> None:
    value = plain(bundle)
    assert list(value)[-1] == "digest"
    assert spelling.parse(spelling.serialise(bundle.manifest)) == bundle.manifest
    assert value["digest"] == spelling.digest(bundle.manifest)
