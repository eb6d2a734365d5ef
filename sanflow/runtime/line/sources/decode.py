"""Pictures out of a compressed stream, and which of them may be believed.

A decoder conceals damage: it fills a hole from the picture before, says nothing, and every picture
up to the next key picture builds on it. So here it is told to stop at damage, and what builds on it
is not believed either. Damage that is still valid syntax nobody can see: a file has no checksums,
a network must be one that corrects its errors (TCP).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


def pictures(container: Any, longest_gap: float | None = None) -> Iterator[Decoded]:
    """The pictures of an open container, from its first key picture on.

    With `longest_gap` (in intervals of the stream's rate), a longer one is a loss. Raises what the
    demultiplexer does when the container is lost.
    """
    stream = container.streams.video[0]
    # Decoding whole pictures in parallel would hold each back until the next ones came.
    stream.thread_type = "SLICE"
    stream.codec_context.options = _STRICT
    rate = stream.average_rate or stream.guessed_rate
    limit = longest_gap / float(rate) if longest_gap and rate else None
    begun, problem, before = False, "", None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            problem = "the picture is damaged"
            if begun:
                time = None if packet.pts is None else float(packet.pts * packet.time_base)
                yield Decoded(None, time, problem)
                before = time
            continue
        for frame in frames:
            begun = begun or frame.key_frame
            if not begun:
                continue
            if limit and before is not None and frame.time is not None:
                lost = not 0 < frame.time - before < limit
                problem = "pictures were lost on the way" if lost else problem
            before = frame.time
            if frame.is_corrupt:
                problem = "the picture is damaged"
            elif frame.key_frame:
                problem = ""
            if problem:
                yield Decoded(None, frame.time, f"{problem}; so is what builds on it")
            else:
                yield Decoded(frame.to_ndarray(format="rgb24"), frame.time)
