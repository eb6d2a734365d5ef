"""Ctrl-C and SIGTERM while something long is made: one clear message, and it ends in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises Interrupted(message()); a second acts as before.

    An exception that this one became on its way out, such as an engine's, leaves as Interrupted.
    Python delivers signals to the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped: Interrupted | None = None
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        restore()
        stopped = Interrupted(f"{signal.Signals(number).name}: {message()}")
        raise stopped

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if stopped is None or error is stopped:
            raise
        raise stopped from error
    finally:
        restore()
