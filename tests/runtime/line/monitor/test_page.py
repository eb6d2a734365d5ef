"""The operator's page, in a real browser: what it shows is what is so now."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sanflow import imaging
from sanflow.runtime.line.monitor import reference
from sanflow.runtime.line.monitor.page import FILES, LATEST, REJECTS, Board, read
from sanflow.runtime.line.monitor.server import POLICY, Answer, Request, Server
from sanflow.runtime.line.output import Picture

from ..outputs.conftest import a_picture, a_result, a_state, rejected
from .kit import ask, monitor
from .test_drift import judge

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def seen(port: int, milliseconds: int = 1500) -> str:
    """The page's document after its scripts ran for so long."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        page = [f"--virtual-time-budget={milliseconds}", "--dump-dom", f"http://127.0.0.1:{port}/"]
        ran = subprocess.run([CHROMIUM, *options, *page], capture_output=True, timeout=120)
    return ran.stdout.decode()


def text(document: str, id: str) -> str:
    """Of the element with this id, without tags."""
    (found,) = re.findall(rf'<(\w+)[^>]*\bid="{id}"[^>]*>(.*?)</\1>', document, re.S)
    return re.sub(r"<[^>]*>", " ", found[1]).strip()


@needs_browser
def test_the_page_shows_state_counts_verdicts_and_the_last_reject(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        made.announce(a_state(state="Running", warning="journal: disk full"))
        made.meet(lambda: {"mqtt:x": {"trouble": "<b>refused</b>"}})
        for number in range(1, 31):
            made.emit(a_result(number), a_picture(number))
        made.emit(rejected(31, detail="<script>document.title='x'</script>"), None)
        made.emit(a_result(33), a_picture(33))
        document = seen(port)
    assert '<body class="good">' in document
    assert text(document, "state") == "RUNNING"
    assert [text(document, i) for i in ("parts", "ok", "ng", "share")] == [
        "32",
        "20",
        "12",
        "37.5 %",
    ]
    assert text(document, "date") == "2026-01-31 UTC"
    assert text(document, "reasons") == "11 score, 1 deadline"
    assert "journal: disk full" in text(document, "notes")
    assert "&lt;b&gt;refused&lt;/b&gt;" in text(document, "notes")
    assert document.count("<tr ") == LATEST
    assert text(document, "latest").split()[:3] == ["1033", "NG", "score"]
    assert text(document, "reject").startswith("part 1033: score, score 2.5000 above 1.0000")
    assert re.search(r'<img id="picture"[^>]*src="reject.png\?run-1-33"', document)
    assert not re.search(r'<img id="picture"[^>]*hidden', document)
    assert "<title>cell-7</title>" in document


@needs_browser
def test_a_station_with_a_fault_is_not_green(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        made.announce(a_state(state="Error", fault="the camera is lost"))
        document = seen(port)
    assert '<body class="bad">' in document
    assert text(document, "state") == "NOT READY"
    assert text(document, "problem") == "the camera is lost"
    assert text(document, "reject") == "none yet"
    assert text(document, "detail") == ""


@needs_browser
def test_why_the_last_reject_could_not_be_judged_stands_on_the_page(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        made.announce(a_state())
        made.emit(rejected(2, reason="incomplete", detail="the picture is <40x30>"), None)
        document = seen(port)
    assert text(document, "reject").startswith("part 1002: incomplete (")
    assert text(document, "detail") == "the picture is &lt;40x30&gt;"


@needs_browser
def test_without_contact_nothing_stays_green(tmp_path: Path) -> None:
    asked = 0
    with monitor(tmp_path) as (made, port):
        made.announce(a_state())
        made.emit(a_result(), None)
        now = json.loads(ask(port, "/now")[1])

    def answer(request: Request) -> Answer:
        nonlocal asked
        asked += 1
        return Answer(json.dumps(now).encode(), "application/json", 200 if asked < 3 else 500)

    files: dict[str, Any] = {
        path: partial(lambda name, kind, request: Answer(read(name), kind), name, kind)
        for path, (name, kind) in FILES.items()
    }
    server = Server("127.0.0.1", 0, {**files, "/now": answer})
    try:
        document = seen(server.port, 4500)
    finally:
        server.close()
    assert asked > 3
    assert text(document, "parts") == "1"  # it was seen once
    assert '<body class="bad">' in document
    assert text(document, "state") == "NO CONTACT"
    assert "old" in text(document, "problem")


def test_the_picture_is_the_reject_with_its_heat(tmp_path: Path) -> None:
    board, picture = Board(tmp_path), a_picture(4)
    assert picture.map is not None
    reference.keep(tmp_path, judge([0.5], "e" * 64, "engine"))
    board.count(a_result(3, bundle="e" * 64, engine="engine"), picture)
    found = board.picture("run-1-3")
    assert found is not None
    drawn = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(drawn, imaging.overlay(picture.image, picture.map, 0.0, 1.0, 1.0))
    assert board.picture("run-1-3") is found  # drawn once
    board.count(a_result(4), a_picture(5))
    assert board.picture("run-1-4") is None  # no reject
    board.count(rejected(6), Picture(picture.image, None))
    plain = board.picture("run-1-6")
    assert plain is not None
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR_RGB), picture.image
    )
    assert board.picture("run-1-3") is not None  # a slow page may still ask for it
    for number in range(9, 9 + 3 * REJECTS, 3):
        board.count(rejected(number), None)
    assert board.picture("run-1-6") is None


def test_the_pages_own_policy_lets_it_have_its_icon() -> None:
    icon = re.search(rb'rel="icon" href="(\w+:)', read("operator.html"))
    images = next(rule.split() for rule in POLICY.split("; ") if rule.startswith("img-src "))
    assert icon is not None
    assert icon[1].decode() in images


def test_a_page_loads_nothing_from_elsewhere_and_nothing_can_be_sent(tmp_path: Path) -> None:
    with monitor(tmp_path) as (_, port):
        for path, (name, kind) in FILES.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                assert answer.read() == read(name)
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert not re.search(rb"https?://", read(name))
        assert ask(port, "/reject.png?x")[0] == 404
        assert ask(port, "/../pyproject.toml")[0] == 404
        post = urllib.request.Request(f"http://127.0.0.1:{port}/now", b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(post, timeout=20)
