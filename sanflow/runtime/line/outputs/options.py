"""What a user can choose about outputs: the tables [[output]] and [archive] of line.toml.

A folder or file that is not absolute lies in the station's own folder. Secrets are never written
here: a field ending in `_file` names the file that holds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class FilesOptions:
    """One line per result, in a file per day (UTC)."""

    kind: Literal["jsonl", "csv"]
    folder: str = "results"
    keep_days: int = 90
    """Older files are removed."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "keep_days")

    @property
    def name(self) -> str:
        """What messages call this output."""
        return f"{self.kind}:{self.folder}"


@dataclass(frozen=True)
class ArchiveOptions:
    """[archive]: every result in a SQLite file, and pictures of the parts under a quota."""

    folder: str = "archive"
    pictures: Literal["ng", "all", "none"] = "ng"
    quota_mb: int = 2048
    """All pictures together; the oldest give way."""
    keep_days: int = 90
    """Older results and pictures are removed."""
    keep_results: int = 10_000_000
    """Results beyond this number are removed, the oldest first; one takes about 300 bytes."""
    free_mb: int = 512
    """With less free space on the disk no picture is kept."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "quota_mb", "keep_days", "keep_results")
        _at_least(self, 0, "free_mb")


@dataclass(frozen=True)
class MqttOptions:
    """Results and state to an MQTT broker (3.1.1)."""

    kind: Literal["mqtt"]
    host: str
    port: int = 0
    """0 is 1883, or 8883 with TLS."""
    prefix: str = "sanflow"
    """The first part of every topic."""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    """Who signed the broker's certificate; empty takes the system's authorities."""
    certificate_file: str = ""
    key_file: str = ""
    keepalive: int = 10
    """Seconds; after one and a half times of it the broker publishes the will."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "keepalive")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port {self.port}: no such port")
        if not self.host or "/" in self.host or "@" in self.host:
            raise ValueError("host is the broker's name or address alone, for example mqtt.plant")
        if not self.prefix or set(self.prefix) & set("+#\0") or self.prefix.endswith("/"):
            raise ValueError(f"prefix {self.prefix!r}: a topic without + and #, without a last /")
        if self.password_file and not self.username:
            raise ValueError("password_file needs a username")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file belong together")
        if (self.ca_file or self.certificate_file) and not self.tls:
            raise ValueError("ca_file and certificate_file need tls = true")

    @property
    def name(self) -> str:
        """What messages call this output."""
        return f"mqtt:{self.host}:{self.address[1]}/{self.prefix}"

    @property
    def address(self) -> tuple[str, int]:
        """Of the broker."""
        return self.host, self.port or (8883 if self.tls else 1883)


@dataclass(frozen=True)
class WebhookOptions:
    """Results by POST to an HTTP server, several at a time when it lags."""

    kind: Literal["webhook"]
    url: str
    only: Literal["all", "ng"] = "all"
    batch: int = 100
    """Results in one request at most."""
    timeout_s: float = 5.0
    ca_file: str = ""
    """Who signed the server's certificate; empty takes the system's authorities."""
    token_file: str = ""
    """Sent as `Authorization: Bearer`."""
    secret_file: str = ""
    """Key of the HMAC-SHA256 over the body that is sent as `X-Sanflow-Signature`."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "batch")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is no address of an HTTP server, for example https://mes/results")
        _check_port("url", parts)
        if parts.username or parts.password:
            raise ValueError("url holds a user or password; put a token into a token_file")
        if self.ca_file and parts.scheme != "https":
            raise ValueError("ca_file needs a url with https")
        if not 0 < self.timeout_s <= 300:
            raise ValueError(f"timeout_s is {self.timeout_s}, expected up to 300")

    @property
    def name(self) -> str:
        """What messages call this output: what stands behind the path may be a token."""
        parts = urlsplit(self.url)
        return f"webhook:{parts.netloc}{parts.path}"


@dataclass(frozen=True)
class ModbusOptions:
    """A Modbus TCP server that a PLC reads the verdicts from and triggers parts with."""

    kind: Literal["modbus"]
    host: str = "0.0.0.0"
    """The address to listen on."""
    port: int = 502
    recipes: tuple[str, ...] = ()
    """Bundles that the PLC may ask for by their number, 1 for the first."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port}: no such port")

    @property
    def name(self) -> str:
        """What messages call this output."""
        return f"modbus:{self.host}:{self.port}"


@dataclass(frozen=True)
class DioOptions:
    """Digital lines: a pulse per verdict, and a level while the station is ready."""

    kind: Literal["dio"]
    device: str
    """`/dev/gpiochip0`, or `modbus://HOST[:PORT]` for the coils of a remote I/O module."""
    ok: int
    """The line that is pulsed for OK; nothing else ever sets it."""
    ng: int | None = None
    """The line that is pulsed for NG."""
    ready: int | None = None
    """The line that is on while verdicts can be trusted."""
    heartbeat: int | None = None
    """The line that changes with every judged part."""
    pulse_ms: float = 20.0
    gap_ms: float = 5.0
    """Off between two pulses."""
    lag_ms: float = 60.0
    """A pulse that cannot begin so soon after the verdict is left out, which is a reject: late it
    could be taken for the next part's."""

    def __post_init__(self) -> None:
        for name in ("pulse_ms", "gap_ms", "lag_ms"):
            if not 0 < getattr(self, name) <= 10_000:
                raise ValueError(f"{name} is {getattr(self, name)}, expected up to 10000")
        device = urlsplit(self.device)
        if not self.device.startswith("/") and not (device.scheme == "modbus" and device.hostname):
            raise ValueError(f"device {self.device!r}: expected /dev/gpiochip0 or modbus://HOST")
        _check_port("device", device)
        lines = [n for n in (self.ok, self.ng, self.ready, self.heartbeat) if n is not None]
        if min(lines) < 0 or len(set(lines)) < len(lines):
            raise ValueError(f"lines {lines}: each its own, from 0")
        if device.scheme == "modbus" and max(lines) > 65535:
            raise ValueError(f"lines {lines}: Modbus has coils 0 to 65535")

    @property
    def name(self) -> str:
        """What messages call this output."""
        return f"dio:{self.device}"


@dataclass(frozen=True)
class OpcuaOptions:
    """An OPC UA server with the names, types and states of OPC 40100-1."""

    kind: Literal["opcua"]
    host: str = "0.0.0.0"
    port: int = 4840
    keep: int = 100
    """Latest results that a client may ask for by their id."""
    certificate_file: str = ""
    """With certificate and key (DER or PEM) only signed and encrypted connections are taken."""
    key_file: str = ""
    username: str = ""
    """With a name and password nobody connects without them."""
    password_file: str = ""

    def __post_init__(self) -> None:
        _at_least(self, 1, "keep")
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port}: no such port")
        for one, other in (("certificate_file", "key_file"), ("username", "password_file")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise ValueError(f"{one} and {other} belong together")
        if self.username and not self.certificate_file:
            raise ValueError("a password in the clear: username needs a certificate_file")

    @property
    def name(self) -> str:
        """What messages call this output."""
        return f"opcua:{self.host}:{self.port}"


OutputOptions = (
    FilesOptions | MqttOptions | WebhookOptions | ModbusOptions | DioOptions | OpcuaOptions
)


def _check_port(name: str, parts: SplitResult) -> None:
    try:
        found = parts.port
    except ValueError:
        found = 0
    if found == 0:
        raise ValueError(f"{name}: its port is none from 1 to 65535")


def _at_least(options: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(options, name) < least:
            raise ValueError(f"{name} is {getattr(options, name)}, expected at least {least}")
