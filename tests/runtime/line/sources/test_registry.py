"""URIs: what is wrong is said in one sentence, and no sentence has a password in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.source import SourceError
from sanflow.runtime.line.sources import SOURCES, open_source
from sanflow.runtime.line.sources.uri import parse, redacted, split_features

words = st.text("aQ7@:/?&=#%. ", min_size=1, max_size=12).map(lambda text: f"Ж{text}Ж")


@given(words, words, st.sampled_from(["", "?x=1", "/a@b"]))
def test_no_login_is_shown(user: str, password: str, rest: str) -> None:
    uri = f"rtsp://{user}:{password}@camera.local:554/stream{rest}"
    for shown in (parse(uri).name, redacted(f"cannot open {uri!r}")):
        assert user not in shown
        assert password not in shown
        assert "Ж" not in shown


@given(
    st.sampled_from(["password", "pwd", "Token", "client_secret", "apikey", "auth"]),
    st.text(min_size=1).filter(lambda text: not set(text) & set("&@")).map(lambda text: f"Ж{text}"),
)
def test_no_option_that_is_a_secret_is_shown(name: str, secret: str) -> None:
    shown = redacted(f"rtsp://camera/stream?channel=1&{name}={secret}&size=3")
    assert "Ж" not in shown
    assert "channel=1" in shown
    assert shown.endswith("&size=3")


def test_what_is_no_secret_is_shown() -> None:
    uri = "folder:/data/in?watch=poll&done=/data/out"
    assert redacted(uri) == uri


def test_a_cameras_own_settings_begin_with_a_capital() -> None:
    address, features = split_features(parse("pylon:123?ExposureTime=500&settings=a.pfs"))
    assert features == {"ExposureTime": "500"}
    assert address.values == {"settings": "a.pfs"}
    assert address.place == "123"


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("pilon:123", "did you mean pylon:?"),
        ("mqtt://u:secret@host/x", "there are sim:, folder:"),
        ("{0}", "pictures in a folder are folder:{0}"),
        ("{0}/film.mp4", "a video file is video:{0}/film.mp4"),
        ("/dev/video9", "v4l2:/dev/video9"),
        ("nonsense", "give for example folder:PATH"),
        ("", "give for example folder:PATH"),
        (r"C:\parts", "give for example folder:PATH"),
    ],
)
def test_no_such_scheme(uri: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    with pytest.raises(SourceError) as raised:
        open_source(uri.format(tmp_path))
    assert text.format(tmp_path) in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scheme", [name for name, kind in SOURCES.items() if kind.libraries])
def test_a_missing_library_names_its_extra(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing = SOURCES[scheme].libraries[0]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    with pytest.raises(SourceError, match=rf"{missing} is not installed; pip install 'sanflow\["):
        open_source(f"{scheme}:x")


def test_software_triggers_need_a_camera_that_has_them(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no software trigger"):
        open_source(f"folder:{tmp_path}?watch=poll", "software")
    source = open_source("sim:noise", "software")
    assert source.mode == "software"


def test_no_library_is_loaded_before_it_is_asked_for() -> None:
    libraries = sorted({name for kind in SOURCES.values() for name in kind.libraries})
    script = (
        "import sys; from sanflow.runtime.line.sources import open_source; "
        "open_source('sim:noise'); open_source('folder:/?watch=poll'); "
        f"print([n for n in [*{libraries!r}, 'watchdog'] if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
