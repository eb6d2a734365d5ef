"""The documentation does what it says: every command in it exists, and every command in it runs."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from sanflow import schema
from sanflow.bundle import Manifest
from sanflow.cli import app
from sanflow.imaging import read, write_png
from sanflow.model.options import METHOD_NAMES
from sanflow.runtime.doctor.jetson import RELEASES
from sanflow.training.presets import PRESETS, preset
from sanflow.training.recipes import ROWS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    """The sanflow and make commands of a page, as words; the shell is not needed for them."""
    text = "".join(blocks(page, "bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def device_commands(page: Path) -> list[list[str]]:
    """The sanflow commands in indented blocks: what needs a device or an installation to run."""
    lines = re.findall(r"^    (?:\S*/)?(sanflow .+)$", page.read_text("utf-8"), re.M)
    return [shlex.split(line) for line in lines]


def test_there_is_something_to_test() -> None:
    """A change of the fences must not make the tests below vacuous."""
    assert {"README.md", "docs/training.md", "docs/deployment.md"} <= set(NAMES)
    every = [command for page in PAGES for command in commands(page) + device_commands(page)]
    found = [command[1] for command in every if command[0] == "sanflow"]
    documented = set(typer.main.get_command(app).commands) - {"demo"}  # type: ignore[attr-defined]
    assert documented <= set(found), f"never shown: {documented - set(found)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_documented_flag_exists(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    for program, name, *rest in commands(page) + device_commands(page):
        if program == "make":
            assert name in targets, f"make {name}"
            continue
        assert program == "sanflow", program
        assert name in group.commands, f"sanflow {name}"
        known = {flag for option in group.commands[name].params for flag in option.opts}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= known, f"sanflow {name}: {given - known}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture
def place(
    tmp_path: Path, parts: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bool], None]:
    """A folder as a page's reader has it: photographs, and a run if the page begins with one."""

    def prepare(with_run: bool) -> None:
        shutil.copytree(parts, tmp_path / "parts")
        shutil.copytree(parts / "test", tmp_path / "new-parts")
        for path in (parts / "test" / "dent").iterdir():
            mine = tmp_path / "my-defects" / "dent" / path.name
            mine.parent.mkdir(parents=True, exist_ok=True)
            write_png(mine, 255 - read(path))
        if with_run:
            shutil.copytree(tiny_run, tmp_path / "run")
        monkeypatch.chdir(tmp_path)

    return prepare


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/training.md",
        "docs/deployment.md",
        "docs/line.md",
        pytest.param("docs/sources.md", marks=pytest.mark.slow),
        pytest.param("docs/precision.md", marks=pytest.mark.slow),
        pytest.param("docs/tensorrt.md", marks=pytest.mark.slow),
    ],
)
def test_every_documented_command_runs(
    name: str, place: Callable[[bool], None], tiny_options: list[str]
) -> None:
    """In order, in one folder, with only sizes and epochs made small by options that win."""
    quick = {
        "train": tiny_options,
        "synth": ["--size", "64"],
        "evaluate": ["--resamples", "20"],
        "bench": ["--seconds", "0.2", "--cold-starts", "1"],
    }
    page = REPOSITORY / name
    place(name not in ("README.md", "docs/training.md"))
    for text in blocks(page, "toml"):
        file, body = text.split("\n", 1)
        Path(file.removeprefix("# ")).write_text(body, "utf-8")
    for program, command, *rest in commands(page):
        if program != "sanflow":
            continue
        line = [command, *rest, *quick.get(command, [])]
        if "fastflow" in rest:  # which has no position code
            at = line.index("model.position_dim=16")
            del line[at - 1 : at + 1]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, f"{' '.join(line)}: {done.stderr}"
        for word, value in itertools.pairwise(rest):
            if word == "--out":
                assert Path(value).exists(), f"{' '.join(line)} left no {value}"
    for code in blocks(page, "python"):
        exec(compile(code, name, "exec"), {})


def test_the_table_of_jetpacks_is_what_the_doctor_knows() -> None:
    rows = [
        f"| {r.jetpack} | {'.'.join(map(str, r.l4t)).removesuffix('.0')} | {r.tensorrt} | {r.cuda} "
        f"| {r.python} | {r.devices} | {'supported' if r.supported else 'too old'} |"
        for r in RELEASES
    ]
    text = (REPOSITORY / "docs" / "tensorrt.md").read_text("utf-8")
    assert "\n".join(rows) in text, "\n".join(rows)


def test_the_bundle_page_names_every_field_of_the_manifest() -> None:
    text = (REPOSITORY / "docs" / "bundle.md").read_text("utf-8")
    assert [name for name in sorted(field_names(Manifest)) if f"`{name}`" not in text] == []


def field_names(kind: Any) -> set[str]:
    """Names of the fields of a dataclass and of every dataclass inside it."""
    if not is_dataclass(kind):
        return {name for inner in typing.get_args(kind) for name in field_names(inner)}
    hints = typing.get_type_hints(kind)
    inner = {name for hint in hints.values() for name in field_names(hint)}
    return inner | {field.name for field in fields(kind)}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_documented_option_exists(page: Path) -> None:
    """`model.blocks` in the text is a field of some method's configuration."""
    configs = [preset(None, name) for name in METHOD_NAMES]
    known = {field for config in configs for field in flatten(schema.dump(config))}
    tables = {name.partition(".")[0] for name in known if "." in name}
    files = r"model(\.(fp32|fp16|int8))?\.(onnx|xml|bin|plan)"
    text = re.sub(files, "", page.read_text("utf-8"))
    assert set(re.findall(rf"(?:{'|'.join(tables)})(?:\.[a-z0-9_]+)+", text)) <= known


def test_sections_cited_in_the_code_exist() -> None:
    """`methods 2.4` in a comment is a heading of docs/method.md, `graph 6` a pass of graph.md."""
    code = "\n".join(f.read_text("utf-8") for f in (REPOSITORY / "sanflow").rglob("*.py"))
    for word, page, number in (
        ("methods", "method.md", r"^#+ (\d+(?:\.\d+)?)"),
        ("graph", "graph.md", r"^\| (\d+) \|"),
    ):
        known = re.findall(number, (REPOSITORY / "docs" / page).read_text("utf-8"), re.M)
        cited = set(re.findall(rf"\b{word} (\d+(?:\.\d+)?)", code))
        assert cited
        assert cited <= set(known), page


def test_the_table_of_presets_is_the_presets() -> None:
    """Every field in which SANFlow's three presets differ, with its value."""
    names = ("sanflow", "official", "edge")
    flat = {name: flatten(schema.dump(preset(name))) for name in names}
    rows = [
        f"| `{field}` | "
        + " | ".join(json.dumps(flat[name][field]).strip('"') for name in flat)
        + " |"
        for field in flat["sanflow"]
        if len({json.dumps(values[field]) for values in flat.values()}) > 1
    ]
    table = "\n".join(
        ["| field | " + " | ".join(flat) + " |", "|---" * (1 + len(flat)) + "|", *rows]
    )
    assert table in (REPOSITORY / "docs" / "method.md").read_text("utf-8"), f"expected\n{table}"


def test_every_method_and_every_row_of_the_ablation_is_documented() -> None:
    guide = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
    notes = (REPOSITORY / "docs" / "method.md").read_text("utf-8")
    assert not [name for name in METHOD_NAMES if f"`{name}`" not in guide]
    for row in ROWS:
        assert f"| {row} |" in notes or f"`{row}`" in notes
    for name in re.findall(r"`((?:cflow|fastflow)-[a-z0-9-]+)`", notes):
        assert name in PRESETS, name


def test_the_rows_of_the_ablation_set_what_is_printed() -> None:
    notes = (REPOSITORY / "docs" / "method.md").read_text("utf-8")
    for row, (model, loss, anomalies) in ROWS.items():
        line = re.search(rf"^\| {row} \|.*\| (.*) \|$", notes, re.M)
        if line is None:
            continue
        sets = [f"model.{k}={v}" for k, v in model.items()] + [
            f"loss.{k}={v:g}" for k, v in loss.items()
        ]
        if not anomalies:
            sets.append("synth.enabled=false")
        assert sorted(line[1].strip("`").split()) == sorted(sets), row


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    inner = (flatten(item, f"{name}.{key}".lstrip(".")) for key, item in value.items())
    return {key: item for part in inner for key, item in part.items()}


def test_the_changelog_knows_the_version_or_says_unreleased() -> None:
    from sanflow import __version__

    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    assert "## Unreleased" in text or f"## {__version__}" in text
