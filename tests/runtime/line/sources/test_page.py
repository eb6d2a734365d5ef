"""docs/sources.md says what the sources do: its schemes, its options, its examples."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from sanflow.runtime.line.sources import SOURCES, open_source
from sanflow.runtime.line.sources.pixels import FORMATS

PAGE = (Path(__file__).parents[4] / "docs" / "sources.md").read_text("utf-8")
OPTIONS = {
    "folder": "Folder",
    "video": "Video",
    "rtsp": "Rtsp",
    "v4l2": "V4l2",
    "pylon": "Pylon",
    "genicam": "Genicam",
    "aravis": "AravisOptions",
}
EXAMPLES = re.findall(r"^    (\w+:\S+)$", PAGE, re.M)


def table(header: str, text: str) -> list[list[str]]:
    """The cells of the table with this header."""
    (found,) = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    return [[c.strip() for c in line.strip("|").split("|")] for line in found.splitlines()]


def module(scheme: str) -> Any:
    for library in SOURCES[scheme].libraries:
        pytest.importorskip(library)
    return importlib.import_module(f"sanflow.runtime.line.sources.{scheme}")


def test_every_scheme_is_in_the_table() -> None:
    rows = table("| scheme | what | triggers | install |", PAGE)
    shown = {name: row for row in rows for name in re.findall(r"`(\w+):`", row[0])}
    assert set(shown) == set(SOURCES)
    for scheme, row in shown.items():
        extra = SOURCES[scheme].extra or ("folder" if scheme == "folder" else "")
        assert (f"sanflow[{extra}]" in row[3]) == bool(extra)


@pytest.mark.parametrize("scheme", OPTIONS)
def test_every_option_is_in_its_table_with_its_default(scheme: str) -> None:
    fields = {
        f.name: f.default for f in dataclasses.fields(getattr(module(scheme), OPTIONS[scheme]))
    }
    if scheme in ("pylon", "genicam", "aravis"):
        rows = table("| scheme | option | default | meaning |", PAGE)
        shown = [[row[1], row[2]] for row in rows if row[0] == f"`{scheme}`"]
    else:
        section = PAGE.split(f"\n## {scheme}\n")[1].split("\n## ")[0]
        shown = table("| option | default | meaning |", section)
    names = {name: row[1] for row in shown for name in re.findall(r"`(\w+)`", row[0])}
    assert set(names) == set(fields)
    words = {True: "yes", False: "no"}
    for name, said in names.items():
        default = fields[name]
        value = words.get(default, default) if isinstance(default, bool) else default
        if match := re.fullmatch(r"`(.+)`", said):
            assert match[1] == (f"{value:g}" if isinstance(value, float) else str(value))
        else:
            assert not value


@pytest.mark.parametrize("uri", EXAMPLES)
def test_every_example_is_taken(uri: str) -> None:
    scheme = uri.partition(":")[0]
    module(scheme)
    if scheme == "folder":
        pytest.importorskip("watchdog")
    assert open_source(uri).name == uri


def test_every_pixel_format_is_named() -> None:
    (said,) = re.findall(r"\*\*Pixel formats\*\*: (.*?)\.\s+More", PAGE, re.S)
    families = {re.sub(r"\d+$|(?<=Bayer)..\d+$", "", form.name) for form in FORMATS}
    assert families == set(re.findall(r"Mono|Bayer|RGBa|BGRa|RGB|BGR", said))
