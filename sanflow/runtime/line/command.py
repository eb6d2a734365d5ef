"""`sanflow run`: from the configuration to a running station, and from signals to what it does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...bundle.folder import require_outside
from ...errors import ConfigError, InputError
from ..setting import Gpu
from . import config as line_config
from .monitor import reference
from .monitor.options import load_monitor
from .output import StationState
from .outputs import OUTPUTS, OutputsConfig, Site, check_outputs, load_options, make_outputs
from .sources import open_source
from .station import Station
from .swap import Judge, prove
from .tally import Tally


def run_station(
    bundle: str | os.PathLike[str],
    *,
    source: str | None = None,
    deadline: str | None = None,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "station",
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    gpu: Gpu | None = None,
    told: Callable[[StationState], None] = lambda state: None,
) -> Tally:
    """Judge parts until SIGTERM, SIGINT, or the end of a source that has one.

    The flags replace what the file `config` says. SIGHUP opens `bundle` again (a link that was
    switched, say), proves it and swaps. Raises ConfigError or InputError for what cannot be used,
    and whatever Station.run raises.
    """
    if deadline is not None:
        try:
            line_config.seconds(deadline)
        except ValueError as error:  # said here, where the file is not to blame for it
            raise InputError(f"--deadline: {error}") from None
    path = Path(config) if config is not None else None
    found = line_config.load(path, source__uri=source, line__deadline=deadline)
    _require_source_and_deadline(found)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected the station's folder")
    require_outside(bundle, folder)
    make_source = partial(open_source, found.source.uri, found.source.trigger)
    make_source()  # what is wrong with the URI is said before engines are loaded
    wanted = load_options(found.output, found.archive, str(config or "line"))
    if found.source.trigger == "software":
        _require_trigger(wanted, str(config))
    site = Site(folder, found.line.name)
    check_outputs(wanted, site)  # the slow process could only say it too late
    monitor = load_monitor(found.monitor, str(config or "line"))
    slow = wanted.archive is not None or any(not OUTPUTS[o.kind].fast for o in wanted.output)

    def proven(path: str) -> Judge:
        judge = prove(path, engine, threads, precision=precision, gpu=gpu)
        if monitor is not None:
            reference.keep(folder, judge)
        return judge

    station = Station(
        bundle,
        found,
        folder,
        prove=proven,
        make_source=make_source,
        outputs=make_outputs(wanted, site, fast=True),
        slow=slow or monitor is not None,
        told=told,
    )
    with _signals(station, os.fspath(bundle)):
        return station.run()


def stuck() -> bool:
    """Whether a thread never came back from a driver or an engine.

    The usual end of a process, with such a thread in it, is a crash.
    """
    kinds = ("sanflow-grab", "sanflow-worker", "sanflow-swap")
    return any(thread.name.startswith(kinds) for thread in threading.enumerate())


def _require_source_and_deadline(found: line_config.LineConfig) -> None:
    if not found.source.uri:
        raise InputError("no source: give --source URI, or [source] uri in --config")
    if not found.line.deadline:
        raise InputError(
            "no deadline: give --deadline, or [line] deadline in --config: how long after its "
            "trigger a part's verdict must be there, for example 50ms"
        )


def _require_trigger(wanted: OutputsConfig, where: str) -> None:
    """Where the station triggers the camera, an output has to say when."""
    if not any(OUTPUTS[options.kind].triggers for options in wanted.output):
        able = " or ".join(kind for kind, entry in OUTPUTS.items() if entry.triggers)
        raise ConfigError(
            f'{where}: [source] trigger = "software", but no output asks for parts; add an '
            f'[[output]] of kind {able}, or set trigger = "free" or "external"'
        )


@contextmanager
def _signals(station: Station, bundle: str) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        station.stop()

    def swap(number: int, frame: Any) -> None:
        station.swap(bundle)

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        wanted[signal.SIGHUP] = swap
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
