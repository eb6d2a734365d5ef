"""Ctrl-C and SIGTERM become one error with a message; a second signal is not swallowed."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sanflow.errors import EngineError, Interrupted
from sanflow.training.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_with_the_message_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    expected = pytest.raises(Interrupted, match=f"{number.name}: resume it")
    with expected as stopped, interruptible(lambda: "resume it"):
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 130
    assert signal.getsignal(number) is before


def test_what_became_of_it_on_its_way_out_is_still_an_interruption() -> None:
    """Engines' own errors are caught in one place, and a signal may come while they work."""

    def infer() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise EngineError("inference failed") from error

    with pytest.raises(Interrupted, match="SIGTERM: resume it"), interruptible(lambda: "resume it"):
        infer()
    with pytest.raises(EngineError), interruptible(lambda: "resume it"):
        raise EngineError("of its own")


def test_a_second_signal_acts_as_without_us() -> None:
    # A job started in the background is given an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interruptible(lambda: "resume it"):
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_touched() -> None:
    seen: list[object] = []

    def work() -> None:
        with interruptible(lambda: "never"):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
