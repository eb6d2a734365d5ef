"""Judging a source: one line per image, whatever the images are, and nothing written over."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.bundle import Bundle
from sanflow.errors import BundleError, EngineError, InputError, ParityError
from sanflow.imaging import Roi
from sanflow.runtime import Detector, Engine, open_engine
from sanflow.runtime.ahead import ahead
from sanflow.runtime.infer import OVERLAY_SIDE, infer
from sanflow.runtime.records import Record

from .conftest import HEIGHT, WIDTH, MakeBundle, noise

BROKEN = {"empty.png": b"", "letter.jpg": b"Dear customer,", "sub/cut.png": None}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Six images of odd sizes, and three files that are none."""
    folder = tmp_path / "parts"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(2)
    for index in range(6):
        size = (30 + 7 * index, 25 + 3 * index, 3)
        image = (rng.random(size) * (40 + 40 * index)).astype(np.uint8)
        imaging.write_png(folder / ("sub" if index % 2 else "") / f"{index}.png", image)
    for name, data in BROKEN.items():
        whole = imaging.encode_png(noise(1)[0])
        (folder / name).write_bytes(whole[: len(whole) // 2] if data is None else data)
    return folder


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_image_gets_one_line_in_order(bundle: Bundle, parts: Path, tmp_path: Path) -> None:
    seen: list[Record] = []
    before = hashes(parts)
    summary = infer(bundle, parts, tmp_path / "out", threads=1, progress=seen.append)
    found = lines(tmp_path / "out")
    assert [line["image"] for line in found] == [
        "0.png", "2.png", "4.png", "empty.png", "letter.jpg",
        "sub/1.png", "sub/3.png", "sub/5.png", "sub/cut.png",
    ]  # fmt: skip
    assert found == [dataclasses.asdict(record) for record in seen]
    assert hashes(parts) == before
    with Detector(bundle, threads=1) as detector:
        for line in found:
            result = detector.judge(parts / line["image"])
            assert (line["verdict"], line["score"]) == (result.verdict, result.score)
            assert (line["reason"], line["uncertain"]) == (result.reason, result.uncertain)
    verdicts = [line["verdict"] for line in found]
    assert (summary.images, summary.ok, summary.ng, summary.no_decision) == (
        len(found),
        verdicts.count("OK"),
        verdicts.count("NG"),
        3,
    )
    assert summary.ok
    assert summary.ng
    assert summary.reasons == {"bad_image": 3}


@pytest.mark.skipif(os.name != "posix", reason="named pipes in a folder are POSIX's")
def test_a_named_pipe_among_the_images_is_not_waited_for(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    os.mkfifo(parts / "x.png")
    letting_go = threading.Timer(20, (parts / "x.png").write_bytes, [b""])
    letting_go.daemon = True
    letting_go.start()
    summary = infer(bundle, parts, tmp_path / "out", threads=1)
    letting_go.cancel()
    assert summary.images == 10
    line = lines(tmp_path / "out")[-1]
    assert (line["image"], line["verdict"], line["reason"]) == ("x.png", "NO-DECISION", "bad_image")
    assert "expected a file, it is a folder, a pipe or a device" in line["detail"]


def test_a_line_says_when_how_long_and_by_what(bundle: Bundle, parts: Path, tmp_path: Path) -> None:
    summary = infer(bundle, parts, tmp_path / "out", engine="openvino", threads=1)
    for line in lines(tmp_path / "out"):
        moment = datetime.fromisoformat(line["time"].replace("Z", "+00:00"))
        assert abs(time.time() - moment.timestamp()) < 60
        assert line["decode_ms"] > 0
        assert (line["engine_ms"] > 0) == (line["verdict"] != "NO-DECISION")
        assert line["bundle"] == bundle.manifest.digest == summary.bundle
        assert line["engine"] == summary.engine
        assert line["engine"].startswith("openvino 2")
        assert (line["detail"] != "") == (line["verdict"] == "NO-DECISION")


def test_csv_and_summary_say_the_same(bundle: Bundle, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = infer(bundle, parts, out, threads=1)
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = lines(out)
    assert [list(row) for row in rows] == [list(line) for line in found]
    for row, line in zip(rows, found, strict=True):
        assert row["image"] == line["image"]
        assert row["verdict"] == line["verdict"]
        assert (float(row["score"]) if row["score"] else None) == line["score"]
    assert json.loads((out / "summary.json").read_text()) == dataclasses.asdict(summary)
    assert summary.seconds > 0
    assert summary.threshold == bundle.manifest.graph().decision.threshold


@pytest.mark.parametrize("overlays", ["none", "ng", "all"])
def test_heat_maps_on_request(bundle: Bundle, parts: Path, tmp_path: Path, overlays: Any) -> None:
    out = tmp_path / "out"
    infer(bundle, parts, out, overlays=overlays, threads=1)
    wanted = {"none": (), "ng": ("NG",), "all": ("NG", "OK")}[overlays]
    for line in lines(out):
        if line["verdict"] in wanted:
            assert line["overlay"] == f"overlays/{line['image']}.png"
            heat = imaging.read(out / line["overlay"])
            assert heat.shape == imaging.read(parts / line["image"]).shape
        else:
            assert line["overlay"] is None
    written = len(list(out.rglob("*.png")))
    assert written == sum(line["verdict"] in wanted for line in lines(out))


def test_heat_maps_are_not_laid_among_the_parts(bundle: Bundle, parts: Path) -> None:
    before = sorted(parts.rglob("*"))
    for out in (parts, parts / "verdicts"):
        with pytest.raises(InputError, match="would be taken for parts by the next command"):
            infer(bundle, parts, out, overlays="ng", threads=1)
    assert sorted(parts.rglob("*")) == before


def test_a_heat_map_shows_the_region_of_interest_at_a_sane_size(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 3000, 3)).astype(np.uint8)
    imaging.write_png(tmp_path / "wide.png", image)
    bundle = make_bundle(roi=Roi(500, 10, 2 * OVERLAY_SIDE, 40))
    infer(bundle, tmp_path / "wide.png", tmp_path / "out", overlays="all", threads=1)
    heat = imaging.read(tmp_path / "out" / "overlays" / "wide.png.png")
    assert heat.shape == (20, OVERLAY_SIDE, 3)


def test_a_name_too_long_for_a_heat_map_costs_only_the_heat_map(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    imaging.write_png(tmp_path / "a.png", noise(1)[0])
    os.rename(tmp_path / "a.png", tmp_path / "parts" / f"{'n' * 250}.png")
    summary = infer(bundle, tmp_path / "parts", tmp_path / "out", overlays="all", threads=1)
    (line,) = lines(tmp_path / "out")
    assert summary.no_decision == 0
    assert line["overlay"] is None
    assert line["detail"].startswith("no heat map: ")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_batch_of_four_gives_the_same_bits(
    make_bundle: MakeBundle, parts: Path, tmp_path: Path, name: str
) -> None:
    infer(make_bundle("b1"), parts, tmp_path / "one", engine=name, threads=1)
    infer(make_bundle("b4", batch=4), parts, tmp_path / "four", engine=name, threads=2)
    keys = ("image", "verdict", "score", "reason", "uncertain")
    one, four = (
        [[line[key] for key in keys] for line in lines(tmp_path / out)] for out in ("one", "four")
    )
    assert one == four


def test_each_line_is_on_disk_before_the_next_image(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def check(record: Record) -> None:
        assert lines(out)[-1]["image"] == record.image
        with open(out / "results.csv", newline="") as file:
            assert list(csv.DictReader(file))[-1]["image"] == record.image
        assert not (out / "summary.json").exists()

    infer(bundle, parts, out, threads=1, progress=check)


def test_an_interrupt_leaves_whole_lines_and_no_summary(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    seen = []

    def stop(record: Record) -> None:
        seen.append(record.image)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(bundle, parts, out, threads=1, progress=stop)
    assert [line["image"] for line in lines(out)] == seen
    assert not (out / "summary.json").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("sanflow-ahead")]


def test_an_engine_that_fails_once_does_not_end_the_run(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    goldens = len(bundle.manifest.golden)
    with open_engine(bundle, threads=1) as inner:

        class Flaky(Engine):
            name = "flaky"
            calls = 0

            def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
                self.calls += 1
                if self.calls == goldens + 2:
                    raise RuntimeError("device lost")
                output = inner.infer(images)
                return {"score": output.score, "map": output.map}

            def _release(self) -> None:
                pass

        flaky = Flaky("1.0", 1, inner.inputs, inner.outputs)
        flaky.graph = inner.graph
        summary = infer(bundle, parts, tmp_path / "out", engine=flaky)
    assert summary.reasons == {"bad_image": 3, "engine_error": 1}
    assert summary.ok + summary.ng == 5
    assert "device lost" in lines(tmp_path / "out")[1]["detail"]


def test_an_engine_that_fails_the_goldens_judges_nothing(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    with open_engine(bundle, threads=1) as inner:

        class Off(Engine):
            name = "off"

            def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
                output = inner.infer(images)
                return {"score": output.score * 1.01, "map": output.map}

            def _release(self) -> None:
                pass

        off = Off("1.0", 1, inner.inputs, inner.outputs)
        off.graph = inner.graph
        with pytest.raises(ParityError, match=r"off 1\.0 does not give PyTorch's results here"):
            infer(bundle, parts, tmp_path / "out", engine=off)
    assert not (tmp_path / "out").exists()


def test_a_surprise_in_one_image_does_not_end_the_run(
    bundle: Bundle, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = imaging.decode

    def surprise(data: bytes, name: str = "image") -> NDArray[np.uint8]:
        if name.endswith("parts/2.png"):
            raise MemoryError("800000000 bytes")
        return decode(data, name)

    monkeypatch.setattr(imaging.reading, "decode", surprise)
    infer(bundle, parts, tmp_path / "out", threads=1)
    found = {line["image"]: line for line in lines(tmp_path / "out")}
    assert found["2.png"]["verdict"] == "NO-DECISION"
    assert "MemoryError: 800000000 bytes" in found["2.png"]["detail"]
    assert found["4.png"]["verdict"] in ("OK", "NG")


def test_globs_single_images_and_limits(bundle: Bundle, parts: Path, tmp_path: Path) -> None:
    infer(bundle, str(parts / "**" / "[1-4].png"), tmp_path / "a", threads=1)
    assert [line["image"] for line in lines(tmp_path / "a")] == [
        "2.png", "4.png", "sub/1.png", "sub/3.png",
    ]  # fmt: skip
    infer(bundle, parts / "sub" / "3.png", tmp_path / "b", threads=1)
    assert [line["image"] for line in lines(tmp_path / "b")] == ["3.png"]
    summary = infer(bundle, parts, tmp_path / "c", threads=1, limit=2)
    assert summary.images == len(lines(tmp_path / "c")) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_no_text_is_judged_too(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    name = os.fsencode(folder) + b"/caf\xe9,\n.png"
    with open(name, "wb") as file:
        file.write(imaging.encode_png(noise(1)[0]))
    summary = infer(bundle, folder, tmp_path / "out", threads=1)
    assert summary.no_decision == 0
    assert os.fsencode(lines(tmp_path / "out")[0]["image"]) == b"caf\xe9,\n.png"
    with open(tmp_path / "out" / "results.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_a_name_that_is_a_formula_is_none_in_the_table(bundle: Bundle, tmp_path: Path) -> None:
    folder, out = tmp_path / "parts", tmp_path / "out"
    folder.mkdir()
    imaging.write_png(folder / "=cmd.png", noise(1)[0])
    infer(bundle, folder, out, threads=1)
    assert lines(out)[0]["image"] == "=cmd.png"
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["'=cmd.png"]


class TestNothingIsWrittenOver:
    def test_results_inside_the_source_are_not_judged(self, bundle: Bundle, parts: Path) -> None:
        out = parts / "results"
        first = infer(bundle, parts, out, threads=1)
        imaging.write_png(out / "kept.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        again = infer(bundle, parts, out, threads=1, force=True)
        assert first.images == again.images == 9

    def test_the_images_folder_itself_is_refused(self, bundle: Bundle, parts: Path) -> None:
        for source in (parts, str(parts / "*.png")):
            with pytest.raises(InputError, match="the images lie there; choose another folder"):
                infer(bundle, source, parts, threads=1)

    def test_judging_ones_own_heat_maps_is_refused(
        self, bundle: Bundle, parts: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        infer(bundle, parts, out, overlays="all", threads=1)
        before = hashes(out)
        for source in (out / "overlays", out / "overlays" / "sub"):
            with pytest.raises(InputError, match="the images lie there"):
                infer(bundle, source, out, overlays="all", threads=1, force=True)
        assert hashes(out) == before

    def test_earlier_results_need_force(self, bundle: Bundle, parts: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        infer(bundle, parts, out, overlays="all", threads=1)
        before = hashes(out)
        with pytest.raises(InputError, match=r"results\.jsonl.*with --force"):
            infer(bundle, parts, out, threads=1)
        assert hashes(out) == before
        infer(bundle, parts, out, threads=1, limit=1, force=True)
        assert len(lines(out)) == 1
        assert not (out / "overlays").exists()  # they belonged to the earlier results

    def test_a_folder_called_overlays_that_is_not_ours_is_left_alone(
        self, bundle: Bundle, parts: Path, tmp_path: Path
    ) -> None:
        precious = tmp_path / "out" / "overlays" / "film.png"
        precious.parent.mkdir(parents=True)
        precious.write_bytes(b"x")
        with pytest.raises(InputError, match="not from an earlier run"):
            infer(bundle, parts, tmp_path / "out", threads=1, force=True)
        assert precious.read_bytes() == b"x"

    def test_a_file_is_no_output_folder(self, bundle: Bundle, parts: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("x")
        with pytest.raises(InputError, match="is a file, expected a folder"):
            infer(bundle, parts, tmp_path / "out", threads=1)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"source": "nowhere"}, InputError, "no such file"),
        ({"overlays": "some"}, InputError, "expected none, ng or all"),
        ({"limit": 0}, InputError, "expected at least 1"),
        ({"engine": "tensorrt"}, EngineError, "Python package is not in this environment"),
        ({"bundle": "parts"}, BundleError, "no manifest.json"),
    ],
)
def test_what_is_wrong_from_the_start_is_said_before_anything_is_written(
    bundle: Bundle,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"bundle": bundle, "source": parts, "out": tmp_path / "out"}
    with pytest.raises(error, match=said):
        infer(**{**arguments, **changes})
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images there; a folder may hold \.png"):
        infer(bundle, tmp_path / "empty", tmp_path / "out", threads=1)


def test_reading_ahead_is_bounded_ordered_and_in_other_threads() -> None:
    begun, threads = [], set()

    def work(item: int) -> int:
        threads.add(threading.current_thread().name)
        return item * item

    def items() -> Iterator[int]:
        for item in range(50):
            begun.append(item)
            yield item

    taken = []
    for result in ahead(work, items(), workers=2, depth=5):
        taken.append(result)
        assert len(begun) - len(taken) < 5
    assert taken == [item * item for item in range(50)]
    assert threading.current_thread().name not in threads


def test_memory_does_not_grow_with_the_number_of_images(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    data = imaging.encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for index in range(400):
        (folder / f"{index:04}.png").write_bytes(data)
    peaks = []
    for limit in (5, 40, 400):
        tracemalloc.start()
        infer(bundle, folder, tmp_path / str(limit), threads=1, limit=limit)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Keeping every model input, the smallest thing there is of an image, would take 500 kB.
    assert peaks[2] < peaks[1] + 200_000
