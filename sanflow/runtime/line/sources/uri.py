"""What a source's URI says, scheme:place?option=value, and what of it may be shown to anybody."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl

from .... import schema
from ....errors import ConfigError

T = TypeVar("T")

_LOGIN = re.compile(r"://.*@", re.DOTALL)
"""Up to the last @: people paste passwords with / and @ in them."""
_SECRET = re.compile(r"([?&#;][^=&#;?]*(?:pass|pwd|token|secret|key|auth)[^=&#;?]*=)[^&]*", re.I)
_WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Address:
    """A URI in its parts."""

    uri: str
    scheme: str
    place: str
    """Between the colon and the question mark, as it was typed: %20 stays %20."""
    values: dict[str, str]
    """What stands behind the question mark, percent-decoded."""

    @property
    def name(self) -> str:
        """The URI without credentials."""
        return redacted(self.uri)


def parse(uri: str, mark: str = "?") -> Address:
    """The parts of a URI that has a scheme; options stand behind the first `mark`."""
    scheme, _, rest = uri.partition(":")
    # A password may hold the mark, too, and would be told as an option that is not known.
    login = rest.rfind("@") + 1 if mark == "#" else 0
    place, _, query = rest[login:].partition(mark)
    place = rest[:login] + place
    return Address(uri, scheme.lower(), place, dict(parse_qsl(query, keep_blank_values=True)))


def redacted(text: str) -> str:
    """A URI, or a sentence with one, without user, password and whatever is called like a secret.

    Rather too much than too little: everything from :// to the last @ goes.
    """
    return _SECRET.sub(r"\1***", _LOGIN.sub("://***@", text))


def options(kind: type[T], address: Address) -> T:
    """The dataclass `kind` of an address's values; ConfigError says which is wrong."""
    hints = typing.get_type_hints(kind)
    found = {k: _plain(address.scheme, k, v, hints.get(k)) for k, v in address.values.items()}
    return schema.load(kind, found, address.scheme)


def split_features(address: Address) -> tuple[Address, dict[str, str]]:
    """The address without the camera's own settings, and those.

    GenICam names begin with a capital letter, options of ours never do.
    """
    features = {k: v for k, v in address.values.items() if k[:1].isupper()}
    ours = {k: v for k, v in address.values.items() if k not in features}
    return Address(address.uri, address.scheme, address.place, ours), features


def _plain(scheme: str, name: str, text: str, kind: object) -> object:
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise ConfigError(f"{scheme}: {name}={text!r} is not a number") from None
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ConfigError(f"{scheme}: {name}={text!r}; expected yes or no")
        return _WORDS[text.lower()]
    return text
