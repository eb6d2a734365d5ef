"""Ctrl-C and SIGTERM during training: one clear message, and nothing finished is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises Interrupted(message); a second one acts as before.

    Python delivers signals to the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        raise Interrupted(f"{signal.Signals(number).name}: {message}")

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
