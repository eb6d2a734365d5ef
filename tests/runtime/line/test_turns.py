"""First come, first served: the thread that has just had its turn does not go before another."""

from __future__ import annotations

import threading
import time

import pytest

from sanflow.runtime.line.turns import Turns


def test_nobody_overtakes() -> None:
    turns, order = Turns(1), []
    begun = [threading.Event() for _ in range(6)]

    def ask(number: int) -> None:
        begun[number].set()
        with turns:
            order.append(number)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            begun[number].wait()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    with turns:  # the one that had its turn asks again, and waits for all of them
        assert order == list(range(6))
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("places", [1, 2, 3])
def test_no_more_than_its_places(places: int) -> None:
    turns, lock, inside, most = Turns(places), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with turns:
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0002)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == 0
    assert most == places
