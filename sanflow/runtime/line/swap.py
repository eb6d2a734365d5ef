"""Who judges: a bundle opened in an engine, warmed up and proven on its golden samples.

Nothing judges parts before it gave PyTorch's answers on this machine, at the start as at every
swap. A swap proves the new one beside the old one, which goes on judging until it is replaced.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...bundle import Bundle
from ...bundle.folder import Golden
from ...errors import ParityError
from ..engine import Engine, Output
from ..parity import replay_goldens
from ..registry import open_engine
from ..setting import Gpu
from .turns import Turns


class Judge:
    """A proven engine, for any number of threads that take turns at it."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """Prove the engine on the bundle's golden samples; ParityError if it fails."""
        self.bundle, self.engine = bundle, engine
        self.decision = engine.graph.decision
        self.digest = bundle.manifest.digest
        note = f" ({engine.note})" if engine.note else ""
        self.name = f"{engine.name} {engine.version} {engine.graph.precision}{note}"
        self.turns = Turns(engine.in_flight)
        """To be held by whoever calls the engine."""
        # The first inferences allocate and are slow: the replay warms the engine up, too.
        found = replay_goldens(engine, bundle)
        if not found.passed:
            raise ParityError(
                f"{bundle.path}: {found.engine} {found.version} does not give PyTorch's results "
                f"here: {'; '.join(found.failures)}. It judges no parts; see: sanflow doctor BUNDLE"
            )
        self._goldens: Iterator[Golden] = itertools.cycle(bundle.goldens())
        self._checking = threading.Lock()
        self._served = time.monotonic()
        self.fastest = math.inf
        """Seconds of the quickest inference so far."""

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The engine's input array of up to `engine.batch` model inputs (H, W, 3)."""
        if self.engine.batch == 1:
            return inputs[0][None]
        return self.engine.filled(inputs)

    def infer(self, batch: NDArray[np.uint8]) -> Output:
        """As Engine.infer; to be called within `turns`."""
        begin = time.monotonic()
        output = self.engine.infer(batch)
        self.fastest = min(self.fastest, time.monotonic() - begin)
        return output

    def served(self) -> None:
        """A part was told in time what the engine said of it, be it an error."""
        self._served = time.monotonic()

    def rested(self, seconds: float) -> bool:
        """Whether no part was served, and no golden sample begun, for so long; True only once.

        An engine whose every answer comes too late counts as resting: its heart, too, is to beat.
        """
        with self._checking:
            now = time.monotonic()
            if now - self._served < seconds:
                return False
            self._served = now
            return True

    def check(self) -> str:
        """Replay one golden sample; empty if the answer is right, else what is wrong."""
        with self._checking:
            golden = next(self._goldens)
        try:
            with self.turns:
                score = float(self.infer(self.batch([golden.image])).score[0])
        except Exception as error:  # whatever it is, this engine is not to be trusted
            return f"the self-test failed: {error}"
        tolerance = self.engine.graph.tolerances.score_relative
        if abs(score - golden.score) <= tolerance * max(abs(golden.score), 0.01):
            return ""
        return f"the self-test gave {score:.6g} on a golden sample, expected {golden.score:.6g}"

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def prove(
    path: str | os.PathLike[str],
    engine: str | None = None,
    threads: int | None = None,
    *,
    precision: str | None = None,
    gpu: Gpu | None = None,
) -> Judge:
    """Open a bundle and an engine, and prove it; the choices are those of `open_engine`.

    Raises BundleError, EngineError, InputError, or ParityError if a golden sample comes out wrong.
    """
    bundle = Bundle.open(path)
    opened = open_engine(bundle, engine, threads, precision=precision, gpu=gpu)
    try:
        return Judge(bundle, opened)
    except BaseException:
        opened.close()
        raise


class Swapper:
    """Proves a new judge in a thread of its own while another one judges."""

    def __init__(
        self,
        open_judge: Callable[[str], Judge],
        done: Callable[[Judge, str], None],
        failed: Callable[[str, str], None],
    ) -> None:
        """`done` is given the proven judge and its path, `failed` the path and what is wrong."""
        self._open, self._done, self._failed = open_judge, done, failed
        self._wanted: deque[str] = deque(maxlen=1)
        self._thread: threading.Thread | None = None

    def ask(self, path: str) -> None:
        """Swap to this bundle as soon as it is proven; of several requests the last one counts."""
        self._wanted.append(path)

    def look(self) -> None:
        """Begin with what was asked for, unless one is being proven."""
        if self._proving or not self._wanted:
            return
        path = self._wanted.popleft()
        self._thread = threading.Thread(
            target=self._run, args=(path,), name="sanflow-swap", daemon=True
        )
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a judge is being proven, or asked for."""
        return self._proving or bool(self._wanted)

    @property
    def _proving(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, path: str) -> None:
        try:
            judge = self._open(path)
        except Exception as error:  # whatever is wrong with it, the old one goes on
            self._failed(path, str(error) or repr(error))
        else:
            self._done(judge, path)
