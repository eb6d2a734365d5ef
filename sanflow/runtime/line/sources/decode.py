"""Pictures out of a compressed stream, and which of them may be believed.

A decoder conceals damage: it fills a hole from the picture before, says nothing, and every picture
up to the next key picture builds on it. So here it is told to stop at damage, and what builds on it
is not believed either. Damage that is still valid syntax nobody can see: a file has no checksums,
a network must be one that corrects its errors (TCP).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode+careful+aggressive"}


@dataclass(frozen=True)
class Decoded:
    """One picture, or why there is none."""

    image: NDArray[np.uint8] | None
    time: float | None
    """Seconds of the stream's clock."""
    problem: str = ""
    lost: int = 0
    """Pictures before it that never came."""


class Pace:
    """How many pictures are missing, in a stream of equal intervals; what is usual is learnt."""

    def __init__(self) -> None:
        self._intervals: deque[float] = deque(maxlen=25)
        self._before: float | None = None

    def __call__(self, time: float | None) -> int:
        """Pictures that are missing between the one before and this one."""
        before, self._before = self._before, time
        if before is None or time is None or time <= before:
            return 0
        usual = median(self._intervals) if len(self._intervals) >= 5 else time - before
        self._intervals.append(time - before)
        return max(0, round((time - before) / usual) - 1)


def has_pictures(container: Any) -> bool:
    """Whether an open container has a video stream, in a format that can be decoded."""
    streams = container.streams.video
    return bool(streams) and streams[0].codec_context is not None


def pictures(container: Any, *, steady: bool = False) -> Iterator[Decoded]:
    """The pictures of an open container, from its first key picture on.

    Where the stream is steady, a gap is a loss. Raises what the demultiplexer does when the
    container is lost.
    """
    stream = container.streams.video[0]
    # Decoding whole pictures in parallel would hold each back until the next ones came.
    stream.thread_type = "SLICE"
    stream.codec_context.options = _STRICT
    begun, problem, pace = False, "", Pace()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            problem = "the picture is damaged"
            if begun:
                time = None if packet.pts is None else float(packet.pts * packet.time_base)
                yield Decoded(None, time, problem, pace(time) if steady else 0)
            continue
        for frame in frames:
            begun = begun or frame.key_frame
            if not begun:
                continue
            lost = pace(frame.time) if steady else 0
            if lost:
                problem = "pictures were lost on the way"
            if frame.is_corrupt:
                problem = "the picture is damaged"
            elif frame.key_frame:
                problem = ""
            if problem:
                yield Decoded(None, frame.time, f"{problem}; this one builds on it", lost)
            else:
                yield Decoded(frame.to_ndarray(format="rgb24"), frame.time, "", lost)
