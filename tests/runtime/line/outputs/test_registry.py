"""[[output]] and [archive]: what is asked for is made, what is wrong is said in one sentence."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sanflow.errors import ConfigError, InputError
from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs import OUTPUTS, Site, check_outputs, load_options, make_outputs
from sanflow.runtime.line.outputs.options import ArchiveOptions, OutputOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES: dict[str, dict[str, Any]] = {
    "jsonl": {},
    "csv": {},
    "mqtt": {"host": "broker"},
    "webhook": {"url": "http://mes/results"},
    "modbus": {"port": 1502},
    "dio": {"device": "modbus://io", "ok": 0},
    "opcua": {},
}


def names(tables: list[dict[str, Any]], folder: Path, fast: bool, **archive: Any) -> list[str]:
    found = load_options(tables, archive or None)
    return [output.name for output in make_outputs(found, Site(folder), fast=fast)]


def test_every_kind_has_options_and_a_table_here() -> None:
    assert set(TABLES) == set(OUTPUTS)
    kinds = [k for option in OutputOptions.__args__ for k in _kinds(option)]
    assert sorted(kinds) == sorted(OUTPUTS)


def _kinds(option: Any) -> tuple[str, ...]:
    import typing

    return typing.get_args(typing.get_type_hints(option)["kind"])


@pytest.mark.parametrize("kind", OUTPUTS)
def test_each_is_made_on_its_own_side(kind: str, tmp_path: Path) -> None:
    if OUTPUTS[kind].library:
        pytest.importorskip(OUTPUTS[kind].library)
    found = load_options([{"kind": kind, **TABLES[kind]}], {})
    fast, slow = (make_outputs(found, Site(tmp_path), fast=side) for side in (True, False))
    (made,) = fast if OUTPUTS[kind].fast else slow[1:]
    assert made.name.startswith(kind)
    assert type(made).fast == OUTPUTS[kind].fast
    assert slow[0].name == "archive"


def test_what_forwards_brings_an_archive_and_nothing_else_does(tmp_path: Path) -> None:
    hook = {"kind": "webhook", "url": "http://mes/results"}
    assert names([{"kind": "csv"}], tmp_path, fast=False) == ["csv:results"]
    assert names([hook], tmp_path, fast=False) == ["archive", "webhook:mes/results"]
    assert load_options([hook], {"quota_mb": 5}).archive == ArchiveOptions(quota_mb=5)
    assert names([], tmp_path, fast=False) == []


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([{"kind": "mqt", "host": "x"}], r"output\[0\]\.kind: unknown name 'mqt'; .*'mqtt'"),
        ([{"host": "x"}], r"output\[0\]: missing field 'kind', one of jsonl, csv, mqtt"),
        ([{"kind": "mqtt", "hots": "x"}], r"unknown field 'hots'; did you mean 'host'"),
        ([{"kind": "mqtt"}], "missing field 'host'"),
        ([{"kind": "mqtt", "host": "mqtt://x"}], "name or address alone"),
        ([{"kind": "mqtt", "host": "x", "ca_file": "a"}], "need tls = true"),
        ([{"kind": "mqtt", "host": "x", "prefix": "a/#"}], "without"),
        ([{"kind": "csv", "keep_days": 0}], "keep_days is 0, expected at least 1"),
        ([{"kind": "modbus", "port": 70000}], "no such port"),
        ([{"kind": "dio", "device": "modbus://io", "ok": 1, "ng": 1}], "each its own"),
        ([{"kind": "dio", "device": "modbus://io:99999", "ok": 1}], "device: its port is none"),
        ([{"kind": "dio", "device": "modbus://io:coil", "ok": 1}], "device: its port is none"),
        ([{"kind": "dio", "device": "modbus://io", "ok": 70000}], "coils 0 to 65535"),
        ([{"kind": "mqtt", "host": "x", "port": 99999}], "port 99999: no such port"),
        ([{"kind": "webhook", "url": "http://m:99999/x"}], "url: its port is none"),
        ([{"kind": "opcua", "username": "x"}], "belong together"),
        ([{"kind": "webhook", "url": "http://m", "batch": 0}], "at least 1"),
    ],
)
def test_what_is_wrong_in_a_table_is_said(tables: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_options(tables, None, "line.toml")


def test_wrong_archive_table() -> None:
    with pytest.raises(ConfigError, match=r"line\.archive: unknown field 'quota'"):
        load_options([], {"quota": 3})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"kind": "csv"}, {"kind": "csv", "folder": "b"}),
        ({"kind": "csv"}, {"kind": "jsonl"}),
        ({"kind": "mqtt", "host": "a"}, {"kind": "mqtt", "host": "a", "prefix": "b"}),
        ({"kind": "webhook", "url": "http://a/b"}, {"kind": "webhook", "url": "http://a/c"}),
    ],
)
def test_two_outputs_to_one_place_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    load_options([one, other], None)
    with pytest.raises(ConfigError, match=f"two outputs to the same place, {one['kind']}:"):
        load_options([one, other, {**one}], None)


@pytest.mark.parametrize("kind", [kind for kind, entry in OUTPUTS.items() if entry.library])
def test_a_missing_library_names_the_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = OUTPUTS[kind].library
    found = load_options([{"kind": kind, **TABLES[kind]}], None)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == library else real(name)
    )
    words = rf"{kind}: {library} is not installed; pip install 'sanflow\[{kind}\]'"
    for check in (check_outputs, lambda *given: make_outputs(*given, fast=OUTPUTS[kind].fast)):
        with pytest.raises(OutputError, match=words):
            check(found, Site(tmp_path))


def test_the_extras_are_there_for_every_library() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    for kind, entry in OUTPUTS.items():
        if entry.library:
            assert any(entry.library in need for need in extras[kind])


def test_a_file_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    table = {"kind": "webhook", "url": "https://mes/x", "ca_file": "ca"}
    with pytest.raises(InputError, match="ca: no such file"):
        check_outputs(load_options([table], None), Site(tmp_path))
    (tmp_path / "ca").write_bytes(b"\x30\x82\xff")  # as a certificate may be, not text
    check_outputs(load_options([table], None), Site(tmp_path))


def test_a_recipe_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "lid").mkdir()
    found = load_options([{"kind": "modbus", "recipes": ["lid", "bundles/base"]}], None)
    with pytest.raises(InputError, match=r"number 2, .*bundles/base: no such folder"):
        check_outputs(found, Site(tmp_path))
    (tmp_path / "bundles" / "base").mkdir(parents=True)
    check_outputs(found, Site(tmp_path))


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\x30\x82\xff", b"s3cret\n# made in May\n", b"s3cret\x00"],
    ids=["empty", "empty line", "binary", "two lines", "zero"],
)
@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"kind": "webhook", "url": "http://mes/x"}, "token_file"),
        ({"kind": "webhook", "url": "http://mes/x"}, "secret_file"),
        ({"kind": "mqtt", "host": "b", "username": "u"}, "password_file"),
    ],
)
def test_a_secret_that_is_no_line_of_text_is_said_before_anything_starts_and_not_shown(
    table: dict[str, Any], field: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "word").write_bytes(content)
    found = load_options([{**table, field: "word"}], None)
    with pytest.raises(InputError, match="word: expected one line of text") as raised:
        check_outputs(found, Site(tmp_path))
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("table", ["archive", "jsonl", "csv"])
def test_a_folder_that_can_never_be_written_is_said_before_anything_starts(
    table: str, tmp_path: Path
) -> None:
    (tmp_path / "letter").write_text("mine")
    place = {"folder": "letter/deep/er"}
    archive = place if table == "archive" else None
    found = load_options([] if archive else [{"kind": table, **place}], archive)
    words = rf"{table}.*letter/deep/er: {tmp_path}/letter is no folder; give another folder"
    with pytest.raises(OutputError, match=words):
        check_outputs(found, Site(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    found = load_options([], {"folder": "closed/archive"})
    with pytest.raises(OutputError, match="closed cannot be written to; give another folder"):
        check_outputs(found, Site(tmp_path))


def test_a_library_is_loaded_only_when_its_output_is_asked_for() -> None:
    code = """
import sys
from pathlib import Path
from sanflow.runtime.line.outputs import Site, load_options, make_outputs
found = load_options([{"kind": "modbus"}, {"kind": "csv"}], None)
make_outputs(found, Site(Path(".")), fast=False)
print([n for n in ("paho", "pymodbus", "asyncua", "sqlite3", "gpiod") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("pass word \n")
    site = Site(tmp_path, "cell")
    assert site.secret("word") == "pass word "
    assert site.secret("") == ""
    with pytest.raises(InputError, match="none: no such file"):
        site.secret("none")
    assert Site(tmp_path).name
