"""Where results go: which kinds of output there are, and making those that line.toml asks for.

An output's library is imported in its own file only, and that file only when it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .... import schema
from ....errors import ConfigError, InputError
from ..output import Output, OutputError
from .options import ArchiveOptions, FilesOptions, ModbusOptions, OutputOptions

SECRETS = ("password_file", "token_file", "secret_file")
"""Fields that name a file with a secret; other files are certificates and their keys."""


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

        Raises InputError as `file` does, and for what is not one line of text: a header or a
        login would be refused with it, in words that show it.
        """
        path = self.file(name)
        if path is None:
            return ""
        try:
            found = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            found = ""
        if not found or not found.isprintable():
            raise InputError(f"{path}: expected one line of text, the secret and nothing else")
        return found

    def file(self, name: str) -> str | None:
        """A file of the user's; None without a name, InputError if it is not there to be read."""
        if not name:
            return None
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if not os.access(path, os.R_OK):
            raise InputError(f"{path}: this user may not read it")
        return str(path)


@dataclass(frozen=True)
class OutputKind:
    """One entry of the registry."""

    module: str
    factory: str
    fast: bool = False
    """Told in the emitter's thread; the others live in the slow process."""
    library: str = ""
    """The package it needs, where it needs one; the extra of the output's kind installs it."""
    forwards: bool = False
    """Sends from the archive, so that nothing is lost while the other end is away."""
    triggers: bool = False
    """Can ask the station for a part."""


OUTPUTS: dict[str, OutputKind] = {
    "jsonl": OutputKind("files", "LinesOutput"),
    "csv": OutputKind("files", "TableOutput"),
    "mqtt": OutputKind("mqtt", "MqttOutput", library="paho", forwards=True),
    "webhook": OutputKind("webhook", "WebhookOutput", forwards=True),
    "modbus": OutputKind("modbus", "ModbusOutput", fast=True, triggers=True),
    "dio": OutputKind("dio", "DioOutput", fast=True),
    "opcua": OutputKind("opcua", "OpcuaOutput", library="asyncua"),
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
    names = [options.name for options in found.output]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two outputs to the same place, {name}; leave one out")
    if found.archive is None and any(OUTPUTS[o.kind].forwards for o in found.output):
        return OutputsConfig(found.output, ArchiveOptions())
    return found


def check_outputs(config: OutputsConfig, site: Site) -> None:
    """Whether all can be made on this machine, without loading a library of theirs.

    Raises OutputError if a library is missing or a folder can never be written, InputError if a
    file or a recipe is missing, or a file holds no secret where it should.
    """
    for name, folder in _folders(config):
        _require_writable(name, site.folder / folder)
    for options in config.output:
        library = OUTPUTS[options.kind].library
        if library and importlib.util.find_spec(library) is None:
            raise OutputError(
                f"{options.kind}: {library} is not installed; pip install 'sanflow[{options.kind}]'"
            )
        for field in fields(options):
            if field.name in SECRETS:
                site.secret(getattr(options, field.name))
            elif field.name.endswith("_file"):
                site.file(getattr(options, field.name))
        if isinstance(options, ModbusOptions):
            for number, recipe in enumerate(options.recipes, start=1):
                if not os.path.isdir(site.folder / recipe):
                    raise InputError(
                        f"{options.name}: recipes: number {number}, {site.folder / recipe}: no "
                        "such folder; give the folder of a bundle"
                    )


def _folders(config: OutputsConfig) -> Iterator[tuple[str, str]]:
    if config.archive is not None:
        yield "archive", config.archive.folder
    for options in config.output:
        if isinstance(options, FilesOptions):
            yield options.name, options.folder


def _require_writable(name: str, folder: Path) -> None:
    """A disk that is full empties again, and the output waits; this does not mend itself."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is no folder" if not there.is_dir() else "cannot be written to"
        raise OutputError(f"{name}: {folder}: {there} {why}; give another folder")


def make_outputs(config: OutputsConfig, site: Site, *, fast: bool) -> list[Output]:
    """The outputs of the fast or of the slow side, not opened yet; the archive comes first.

    Raises OutputError or InputError as `check_outputs` does. A certificate that is none is said by
    its output's `open`, and holds up no other one.
    """
    check_outputs(config, site)
    if config.archive is not None:
        site = Site(site.folder, site.station, site.folder / config.archive.folder)
    wanted = [options for options in config.output if OUTPUTS[options.kind].fast == fast]
    made = [_make(OUTPUTS[options.kind], options, site) for options in wanted]
    if config.archive is not None and site.archive is not None and not fast:
        from .archive import ArchiveOutput

        forwarders = [options.name for options in wanted if OUTPUTS[options.kind].forwards]
        made.insert(0, ArchiveOutput(config.archive, site.archive, forwarders))
    return made


def _make(kind: OutputKind, options: OutputOptions, site: Site) -> Output:
    module = importlib.import_module(f".{kind.module}", __name__)
    made: Output = getattr(module, kind.factory)(options, site)
    return made
