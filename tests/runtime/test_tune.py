"""Tuning changes the time and no bit; a tuning that is not this machine's is ignored and said."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sanflow import schema
from sanflow.bundle import Bundle
from sanflow.errors import ConfigError, EngineError, InputError, ParityError
from sanflow.runtime import Detector, available_engines, open_engine
from sanflow.runtime import tune as module
from sanflow.runtime.bench import bench
from sanflow.runtime.doctor.bundle import Asked, checks
from sanflow.runtime.setting import Setting
from sanflow.runtime.tune import knobs, shapes, tune
from sanflow.runtime.tuned import Tuned, location, read, this_device, write

from .conftest import MakeBundle, noise


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tuned(setting: Setting, **changes: Any) -> Tuned:
    return dataclasses.replace(
        Tuned("sanflow.tune/1", this_device("onnx"), "latency", setting, 1.5), **changes
    )


SETTINGS = [
    Setting("onnxruntime", 1),
    Setting("onnxruntime", 2, spinning=True),
    Setting("onnxruntime", 2, parallel=True),
    Setting("onnxruntime", 4, in_flight=2),
    Setting("openvino", 2),
    Setting("openvino", 2, pinned=True),
    Setting("openvino", 2, hyper_threading=False, cores="performance"),
    Setting("openvino", 4, in_flight=4),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_setting_changes_a_bit(bundle: Bundle, setting: Setting) -> None:
    images = list(noise(9, seed=3))
    with Detector(bundle, open_engine(bundle, setting.engine, 1)) as plain:
        expected = list(plain.judge_inputs(images))
    with open_engine(bundle, setting=setting) as engine:
        assert (engine.name, engine.in_flight) == (setting.engine, setting.in_flight)
        assert engine.threads == setting.threads
        found = list(Detector(bundle, engine).judge_inputs(images))
    assert [r.score for r in found] == [r.score for r in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.map, other.map)


@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_the_winner_is_stored_and_used(bundle: Bundle, cache: Path, goal: Any) -> None:
    ticks: list[tuple[int, int]] = []
    report = tune(bundle.path, goal=goal, seconds=0.4, progress=lambda *t: ticks.append(t))
    assert report.goal == goal
    first = report.trials[0]
    assert first.ratio == 1.0
    assert first.setting.engine == "onnxruntime"
    assert {t.setting.engine for t in report.trials} == set(available_engines("onnx"))
    assert not [t for t in report.trials if t.refused]
    assert len({t.setting for t in report.trials}) == len(report.trials)
    assert all(done <= total for done, total in ticks)
    chosen = next(t for t in report.trials if t.setting == report.winner)
    assert chosen.ratio == report.ratio
    better = [t for t in report.trials if (t.ratio or 0) >= module.LEAST_GAIN and (t.low or 0) > 1]
    assert chosen is (max(better, key=lambda t: t.ratio or 0) if better else first)
    stored = cache / "sanflow" / bundle.manifest.digest / "tune.json"
    assert report.stored == str(stored)
    assert read(bundle) == (
        Tuned("sanflow.tune/1", this_device("onnx"), goal, report.winner, report.ratio),
        "",
    )
    with open_engine(bundle) as engine:
        assert (engine.name, engine.threads) == (report.winner.engine, report.winner.threads)
    # One table for a person, and the same as JSON.
    assert len(report.rows()) == len(report.trials)
    assert len(report.columns()) == len(report.rows()[0])
    assert str(stored) in report.text()
    assert json.loads(json.dumps(schema.dump(report), allow_nan=False))["goal"] == goal


def test_other_bits_are_refused_and_never_win(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanflow.runtime.ov import OvEngine

    run, calls = OvEngine._run, []

    def altered(self: Any, images: Any) -> Any:
        found = run(self, images)
        if self.in_flight > 1:
            calls.append(1)
            found["map"] = np.nextafter(found["map"], np.float32(np.inf))
        return found

    monkeypatch.setattr(OvEngine, "_run", altered)
    wanted = [Setting("openvino", 1), Setting("openvino", 2, in_flight=2)]
    monkeypatch.setattr(module, "shapes", lambda engine, goal: wanted)
    monkeypatch.setattr(module, "knobs", lambda setting: [])
    report = tune(bundle, engine="openvino", goal="throughput", seconds=0.1)
    refused = next(t for t in report.trials if t.setting.in_flight == 2)
    assert calls
    assert refused.refused == "refused: other bits than the default's"
    assert refused.ratio is refused.call_ms is None
    assert report.winner.in_flight == 1
    assert "refused: other bits" in str(report.rows()[-1])


def test_an_engine_that_fails_the_goldens_is_no_choice(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanflow.runtime.ov import OvEngine

    bundle = make_bundle()
    run = OvEngine._run

    def shifted(self: Any, images: Any) -> Any:
        found = run(self, images)
        return {**found, "score": found["score"] * np.float32(1.01)}

    monkeypatch.setattr(OvEngine, "_run", shifted)
    report = tune(bundle, seconds=0.1)
    other = [t for t in report.trials if t.setting.engine == "openvino"]
    assert other
    assert all("golden samples" in t.refused for t in other)
    assert report.winner.engine == "onnxruntime"
    with pytest.raises(ParityError, match="golden samples"):
        tune(bundle, engine="openvino", seconds=0.1)


def test_a_setting_that_cannot_be_opened_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *_: Any, **options: Any) -> None:
        raise RuntimeError("no such option")

    monkeypatch.setattr("sanflow.runtime.ov.OvEngine.__init__", fail)
    report = tune(bundle, seconds=0.1)
    refused = [t.refused for t in report.trials if t.setting.engine == "openvino"]
    assert refused
    assert all("no such option" in why for why in refused)


def test_a_gain_in_half_the_turns_is_noise(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(*ratios: float) -> Any:
        def compare(self: Any, mine: Any, seconds: float) -> Any:
            mine.take(1)
            return iter(ratios * 2)

        monkeypatch.setattr(module._Search, "_compare", compare)
        return tune(bundle, engine="openvino", seconds=0.1)

    monkeypatch.setattr(module, "knobs", lambda setting: [{"pinned": True}])
    monkeypatch.setattr(module, "shapes", lambda engine, goal: [])
    assert pretend(0.9, 1.2, 0.95, 1.3).ratio == 1
    assert pretend(1.01, 1.02, 1.02, 1.01).ratio == 1
    won = pretend(1.1, 1.2, 1.3, 0.99, 1.2)
    assert won.winner.pinned
    assert won.ratio == 1.2


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_time_must_be_positive(bundle: Bundle, seconds: float) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        tune(bundle, seconds=seconds)


def test_an_explicit_choice_wins_over_the_tuning(bundle: Bundle) -> None:
    write(bundle, tuned(Setting("openvino", 4, in_flight=2)))
    with open_engine(bundle) as engine:
        assert (engine.name, engine.threads, engine.in_flight) == ("openvino", 4, 2)
    with open_engine(bundle, threads=1) as engine:
        assert (engine.name, engine.threads, engine.in_flight) == ("onnxruntime", 1, 1)
    with open_engine(bundle, "openvino") as engine:
        assert engine.in_flight == 1


def test_another_bundle_has_another_tuning(make_bundle: MakeBundle) -> None:
    write(make_bundle("a"), tuned(Setting("openvino", 1)))
    with open_engine(make_bundle("b", target="openvino")) as engine:
        assert engine.name == "openvino"
    assert read(make_bundle("c", sanflow="0.2.0")) == (None, "")


DEVICE = dataclasses.asdict(this_device("onnx"))
GOOD = schema.dump(tuned(Setting("openvino", 1)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a tuning of this version"),
        (b"\xff\xfe{}", "not a tuning of this version"),
        (b"[" * 20000, "not a tuning of this version"),
        (b"null", "expected a table"),
        ({**GOOD, "schema": "sanflow.tune/2"}, "is not one of"),
        ({**GOOD, "command": "rm"}, "unknown field 'command'"),
        ({**GOOD, "setting": {**GOOD["setting"], "threads": 0}}, "expected at least 1"),
        ({**GOOD, "setting": {**GOOD["setting"], "in_flight": 3}}, "expected a divisor"),
        ({**GOOD, "setting": {**GOOD["setting"], "threads": "2"}}, "expected int"),
        ({**GOOD, "device": {**DEVICE, "cpu": "another"}}, "another machine"),
        ({**GOOD, "device": {**DEVICE, "cpus": 4096}}, "another machine"),
        ({**GOOD, "device": {**DEVICE, "gpu": "Orin"}}, "another GPU"),
        ({**GOOD, "device": {**DEVICE, "engines": {}}}, "other engines"),
        (b"x" * 2**17, "not a small regular file"),
    ],
)
def test_what_is_not_this_machines_tuning_is_ignored_with_a_message(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, content: Any, said: str
) -> None:
    path = location(bundle)
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with caplog.at_level(logging.WARNING, "sanflow"), open_engine(bundle) as engine:
        assert engine.name == "onnxruntime"
    (record,) = caplog.records
    assert said in record.getMessage()
    assert str(path) in record.getMessage()
    assert "--tune" in record.getMessage()


@pytest.mark.parametrize(
    "name", ["onnxruntime_gpu", "tensorrt", "tensorrt_cu12", "tensorrt_cu13", "tensorrt_rtx_cu13"]
)
def test_whatever_brings_an_engine_has_its_version_in_a_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / f"{name}-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert this_device("onnx").engines[name.replace("_", "-")] == "0.0.1"


def test_only_the_users_own_plain_file_is_read(bundle: Bundle, tmp_path: Path) -> None:
    path = write(bundle, tuned(Setting("openvino", 1)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["tune.json"]
    path.chmod(0o666)
    assert "others may write" in read(bundle)[1]
    path.chmod(0o600)
    other = tmp_path / "elsewhere.json"
    path.rename(other)
    path.symlink_to(other)
    assert read(bundle)[0] is None
    path.unlink()
    os.mkfifo(path)
    assert "not a small regular file" in read(bundle)[1]


def test_a_tuning_that_cannot_be_stored_is_still_told(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file lies where the folder should")
    report = tune(bundle, engine="onnxruntime", seconds=0.1)
    assert report.stored is None
    assert "not stored: " in report.text()
    assert "set XDG_CACHE_HOME" in report.text()


def test_a_relative_cache_is_ignored_and_no_home_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert location(bundle).is_relative_to(tmp_path / ".cache" / "sanflow")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert read(bundle) == (None, "")
    with pytest.raises(OSError, match="no home folder"):
        write(bundle, tuned(Setting("openvino", 1)))


def test_doctor_shows_the_tuning(bundle: Bundle) -> None:
    def check() -> Any:
        return next(c for c in checks(bundle.path, Asked()) if c.name == "tuning")

    assert (check().status, check().fix) == ("missing", "sanflow bench BUNDLE --tune")
    path = write(bundle, tuned(Setting("openvino", 2, pinned=True)))
    assert (
        "openvino, 2 threads, pinned; 1.50 times as fast as the default (latency)" in check().detail
    )
    path.write_text("{}")
    assert check().status == "failed"


def test_bench_measures_what_is_tuned(bundle: Bundle) -> None:
    write(bundle, tuned(Setting("openvino", 2, in_flight=2)))
    report = bench(bundle, runs=5, warmup=1, cold_starts=1)
    assert (report.engine.split()[0], report.threads, report.in_flight) == ("openvino", 2, 2)
    assert report.images_per_second > 0
    assert "2 in flight" in dict(report.rows())["engine version"]


@pytest.mark.parametrize("goal", ["latency", "throughput"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_candidates_fit_the_machine(
    monkeypatch: pytest.MonkeyPatch, goal: Any, engine: str
) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 8)
    monkeypatch.setattr(module, "default_threads", lambda: 4)
    found = shapes(engine, goal)
    assert len(set(found)) == len(found)
    assert {s.threads for s in found} == ({1, 2, 4, 8} if goal == "latency" else {4, 8})
    assert {s.in_flight for s in found} == ({1} if goal == "latency" else {1, 2, 4, 8})
    for setting in found:
        for change in knobs(setting):
            assert dataclasses.replace(setting, **change) != setting
    keys = {key for change in knobs(found[-1]) for key in change}
    if engine == "openvino":
        assert {"pinned", "hyper_threading"} <= keys
    else:
        assert keys <= {"spinning", "parallel"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"threads": 0}, "at least 1"), ({"threads": 4, "in_flight": 3}, "divisor of 4 threads")],
)
def test_a_setting_is_checked(bad: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Setting("openvino", **bad)
    with pytest.raises(ConfigError, match=said):
        schema.load(Setting, {"engine": "openvino", **bad})


def test_an_error_of_one_batch_in_flight_is_that_batch_alone(bundle: Bundle) -> None:
    images = list(noise(6))
    with open_engine(bundle, setting=Setting("openvino", 2, in_flight=2)) as engine:
        infer = engine.infer

        def fails_once(batch: Any) -> Any:
            if np.array_equal(batch[0], images[3]):
                raise EngineError("device lost")
            return infer(batch)

        engine.infer = fails_once  # type: ignore[method-assign]
        found = [r.reason for r in Detector(bundle, engine).judge_inputs(images)]
    assert found == ["score"] * 3 + ["engine_error"] + ["score"] * 2
