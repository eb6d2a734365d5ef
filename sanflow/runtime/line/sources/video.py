"""A video file: each picture of it is a part.

video:/data/belt.mp4
video:/data/belt.mp4?every=5
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from ..frame import Frame
from ..source import EndOfSource, Source, SourceError
from .decode import Decoded, has_pictures, pictures
from .uri import Address, options, parse


@dataclass(frozen=True)
class Video:
    """What a video: URI can ask for."""

    every: int = 1
    """One picture of so many is a part."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}; expected at least 1")


class VideoSource(Source):
    """See the module."""

    live = False

    def __init__(self, address: Address, asked: Video) -> None:
        super().__init__(address.name)
        self._path, self._asked = address.place, asked
        self._container: Any = None
        self._pictures: Iterator[tuple[int, Decoded]] = iter(())

    def open(self) -> None:
        """Open the file."""
        try:
            self._container = av.open(self._path)
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{self.name}: cannot be read: {error.strerror}") from None
        if not has_pictures(self._container):
            raise SourceError(f"{self.name}: there is no video in this file that can be decoded")
        self._pictures = enumerate(pictures(self._container))

    def read(self, timeout: float) -> Frame | None:
        """The next picture."""
        try:
            index, found = next(p for p in self._pictures if p[0] % self._asked.every == 0)
        except StopIteration:
            raise EndOfSource from None
        except av.error.FFmpegError as error:
            raise SourceError(f"{self.name}: cannot be read on: {error.strerror}") from None
        return Frame(
            found.image,
            "ok" if found.image is not None else "incomplete",
            time.monotonic(),
            sequence=index // self._asked.every,
            camera_time=found.time,
            name=f"{index:07d}",
            detail=found.problem,
        )

    def close(self) -> None:
        """Close the file."""
        container, self._container = self._container, None
        self._pictures = iter(())
        if container is not None:
            container.close()


def video_source(uri: str) -> VideoSource:
    """The source that a video: URI describes; ConfigError says what is wrong with it."""
    address = parse(uri)
    if not address.place:
        raise SourceError("video: which file? Give video:PATH")
    return VideoSource(address, options(Video, address))
