"""What a source hands over: one image of one part, or the news that there is none.

Times are host monotonic seconds (`time.monotonic`), so that a stepped wall clock moves no deadline.
A camera's own clock and the encoder are carried along, never compared with the host's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Status = Literal["ok", "incomplete", "no_image"]


@dataclass(frozen=True)
class Frame:
    """One exposure. The image is the receiver's own: no source writes to it again."""

    image: NDArray[Any] | None
    """uint8 or uint16, (H, W) or RGB (H, W, 3); None unless `status` is `ok`."""
    status: Status
    received: float
    """When the last byte was here."""
    triggered: float | None = None
    """When the part was triggered; None in free run, where the deadline counts from `received`."""
    part: int | None = None
    """The part id that the trigger came with; None lets the station number the parts."""
    sequence: int | None = None
    """The source's own frame number, for finding gaps."""
    modulus: int | None = None
    """Where `sequence` wraps: numbers are 0 (or 1) to modulus - 1; None if it never does."""
    skips_zero: bool = False
    """GigE Vision's 16-bit frame ids wrap from 65535 to 1."""
    camera_time: float | None = None
    """Seconds of the camera's clock, where it has one."""
    encoder: int | None = None
    """Encoder counts, where the source has them."""
    name: str = ""
    """What people call this image: a file's name, empty for a camera."""
    detail: str = ""
    """In words, why there is no image."""

    def __post_init__(self) -> None:
        if (self.image is None) == (self.status == "ok"):
            raise ValueError(f"a frame with status {self.status!r} and image {self.image!r:.40}")


def missed(before: Frame, after: Frame) -> int:
    """How many frames the source counted between these two and did not hand over.

    0 where the source does not count, or started anew.
    """
    if before.sequence is None or after.sequence is None:
        return 0
    step = after.sequence - before.sequence
    if after.modulus is not None:
        lowest = 1 if after.skips_zero else 0
        step %= after.modulus - lowest
        # More than half way round is a source that counts from the start again.
        if step > after.modulus // 2:
            return 0
    return max(0, step - 1)
