"""A network camera's stream. Options of ours stand behind #, what is behind ? is the camera's.

    rtsp://192.168.0.20/stream?channel=1#login=/etc/sanflow/camera.login&timeout=2

Over TCP only: over UDP a decoder fills lost packets with what was there before, and says nothing.
What a slow network or computer holds back is not taken for new: a picture counts from when it would
have been here, had it come as fast as the fastest ones did.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import av

from ....errors import InputError
from ..frame import Frame
from ..source import Source, SourceError
from .decode import Decoded, has_pictures, pictures
from .delay import Delay
from .uri import Address, options, parse, redacted


@dataclass(frozen=True)
class Rtsp:
    """What an rtsp: URI can ask for, behind #."""

    timeout: float = 3.0
    """Seconds without a picture after which the stream is lost; less than [line] hang."""
    login: str = ""
    """A file with user:password in its first line, so that they stand in no URI."""
    steady: bool = True
    """Whether the camera keeps its rate, so that a gap is a loss; `no` where it saves pictures
    while nothing moves."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 60:
            raise ValueError(f"timeout={self.timeout:g}; expected seconds, at most 60")


class RtspSource(Source):
    """See the module."""

    def __init__(self, address: Address, asked: Rtsp) -> None:
        super().__init__(address.name)
        self._address, self._asked = address, asked
        self._container: Any = None
        self._pictures: Iterator[Decoded] = iter(())
        self._delay = Delay()
        self._count = 0

    def open(self) -> None:
        """Connect and begin to play."""
        url = self._url()
        try:
            self._container = av.open(
                url,
                options={"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"},
                timeout=self._asked.timeout,
            )
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.name}: {self._reason(error)}; check address, login, camera"
            ) from None
        if not has_pictures(self._container):
            raise SourceError(f"{self.name}: there is no video in this stream that can be decoded")
        self._pictures = pictures(self._container, steady=self._asked.steady)
        self._delay = Delay()

    def read(self, timeout: float) -> Frame | None:
        """The next picture; waits for it as long as the stream may be silent."""
        try:
            found = next(self._pictures)
        except StopIteration:
            raise SourceError(f"{self.name}: the camera ended the stream") from None
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{self.name}: {self._reason(error)}") from None
        now = time.monotonic()
        self._count += 1 + found.lost
        return Frame(
            found.image,
            "ok" if found.image is not None else "incomplete",
            now - self._delay(found.time, now),
            sequence=self._count,
            camera_time=found.time,
            detail=found.problem,
        )

    def close(self) -> None:
        """Disconnect."""
        container, self._container = self._container, None
        self._pictures = iter(())
        if container is not None:
            container.close()

    def _url(self) -> str:
        """The address with its login in the one way of writing it that every server knows."""
        place = self._address.place.removeprefix("//")
        user, at, host = place.rpartition("@")
        if self._asked.login:
            path = Path(self._asked.login)
            try:
                user, at = path.read_text(encoding="utf-8").split("\n")[0].strip("\r"), "@"
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise InputError(f"{self.name}: login={path} cannot be read: {reason}") from None
        name, colon, password = (quote(unquote(part), safe="") for part in user.partition(":"))
        login = f"{name}{':' if colon else ''}{password}{at}"
        return f"{self._address.scheme}://{login}{host}"

    def _reason(self, error: OSError | Exception) -> str:
        if isinstance(error, (av.error.ExitError, TimeoutError)):
            return f"nothing came for {self._asked.timeout:g} s"
        return redacted(getattr(error, "strerror", None) or type(error).__name__)


def rtsp_source(uri: str) -> RtspSource:
    """The source that an rtsp: or rtsps: URI describes; ConfigError says what is wrong with it."""
    address = parse(uri, "#")
    # Without // nobody would see where a login ends, and it would be shown.
    if not address.place.startswith("//") or address.place == "//":
        raise SourceError("rtsp: which camera? Give rtsp://HOST/PATH")
    return RtspSource(address, options(Rtsp, address))
