"""Where results go: which kinds of output there are, and making those that line.toml asks for.

An output's library is imported in its own file only, and that file only when it is asked for.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .... import schema
from ....errors import ConfigError, InputError
from ..output import Output, OutputError
from .options import ArchiveOptions, OutputOptions


@dataclass(frozen=True)
class Site:
    """What an output may know of the station it belongs to."""

    folder: Path
    """The station's own folder."""
    station: str = ""
    """What other machines call it; empty is the host's name."""
    archive: Path | None = None
    """The archive's folder, where there is one: the store that forwarding outputs send from."""

    @property
    def name(self) -> str:
        """The station's name."""
        return self.station or socket.gethostname()

    def secret(self, name: str) -> str:
        """What stands in a file of the user's, without its last line break; empty without a name.

        Raises InputError if it cannot be read.
        """
        if not name:
            return ""
        try:
            return (self.folder / name).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.folder / name}: the secret cannot be read: {error}") from None

    def file(self, name: str) -> str | None:
        """A file of the user's; None without a name, InputError if there is none."""
        if not name:
            return None
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return str(path)


@dataclass(frozen=True)
class OutputKind:
    """One entry of the registry."""

    module: str
    factory: str
    fast: bool = False
    """Told in the emitter's thread; the others live in the slow process."""
    extra: str = ""
    """What installs its library: pip install sanflow[extra]."""
    forwards: bool = False
    """Sends from the archive, so that nothing is lost while the other end is away."""


OUTPUTS: dict[str, OutputKind] = {
    "jsonl": OutputKind("files", "LinesOutput"),
    "csv": OutputKind("files", "TableOutput"),
    "mqtt": OutputKind("mqtt", "MqttOutput", extra="mqtt", forwards=True),
    "webhook": OutputKind("webhook", "WebhookOutput", forwards=True),
    "modbus": OutputKind("modbus", "ModbusOutput", fast=True),
    "dio": OutputKind("dio", "DioOutput", fast=True),
    "opcua": OutputKind("opcua", "OpcuaOutput", extra="opcua"),
}


@dataclass(frozen=True)
class OutputsConfig:
    """The tables [[output]] and [archive], checked."""

    output: tuple[OutputOptions, ...] = ()
    archive: ArchiveOptions | None = None


def load_options(
    output: Sequence[dict[str, Any]], archive: dict[str, Any] | None, where: str = "line"
) -> OutputsConfig:
    """The tables as line.toml says them; ConfigError for an unknown kind, field or bad value.

    An output that sends from the archive brings one with it if there is no table [archive].
    """
    for number, table in enumerate(output):
        if "kind" not in table:
            raise ConfigError(
                f"{where}.output[{number}]: missing field 'kind', one of {', '.join(OUTPUTS)}"
            )
    values = {"output": list(output), "archive": archive}
    found = schema.load(OutputsConfig, values, where)
    if found.archive is None and any(OUTPUTS[o.kind].forwards for o in found.output):
        return OutputsConfig(found.output, ArchiveOptions())
    return found


def make_outputs(config: OutputsConfig, site: Site, *, fast: bool) -> list[Output]:
    """The outputs of the fast or of the slow side, not opened yet; the archive comes first.

    Raises OutputError if a library is missing, InputError if a file is.
    """
    if config.archive is not None:
        site = Site(site.folder, site.station, site.folder / config.archive.folder)
    wanted = [options for options in config.output if OUTPUTS[options.kind].fast == fast]
    made = [_make(OUTPUTS[options.kind], options, site) for options in wanted]
    if config.archive is not None and site.archive is not None and not fast:
        from .archive import ArchiveOutput

        forwarders = [
            output.name
            for output, options in zip(made, wanted, strict=True)
            if OUTPUTS[options.kind].forwards
        ]
        made.insert(0, ArchiveOutput(config.archive, site.archive, forwarders))
    return _unique(made)


def _make(kind: OutputKind, options: OutputOptions, site: Site) -> Output:
    try:
        module = importlib.import_module(f".{kind.module}", __name__)
    except ModuleNotFoundError as error:
        if not kind.extra or (error.name or "").startswith("sanflow"):
            raise
        raise OutputError(
            f"{options.kind}: {error.name} is not installed; pip install 'sanflow[{kind.extra}]'"
        ) from None
    made: Output = getattr(module, kind.factory)(options, site)
    return made


def _unique(outputs: list[Output]) -> list[Output]:
    """Two outputs of one name would share their place in the archive."""
    names = [output.name for output in outputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: two outputs to the same place; leave one out")
    return outputs
