"""The one canonical spelling of a manifest, and the digest over it.

A manifest has exactly one valid spelling: its fields in their order, as ASCII JSON with two spaces
of indentation. A file that differs from its own canonical re-serialisation is refused, so a
duplicate key, a reordered field, `1` for `1.0` or one changed space cannot hide anything.

The digest is integrity, not a signature: it finds damage and careless edits. Whoever can rewrite
every file can also rewrite the digest; keep bundles where only trusted people write.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

from .. import schema
from ..errors import ConfigError
from .coherence import check
from .manifest import SCHEMA, Manifest


def parse(data: bytes) -> Manifest:
    """The manifest that these bytes spell canonically; ConfigError says what is wrong with them."""
    try:
        value = json.loads(
            data.decode("ascii"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise ConfigError(f"manifest: byte {error.start} is not ASCII") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"manifest: not JSON ({error})") from None
    if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(
            f"manifest.schema: {value['schema']!r} is not {SCHEMA!r}, the one this version reads"
        )
    manifest = schema.load(Manifest, value, "manifest")
    check(manifest)
    if serialise(manifest) != data:
        raise ConfigError(
            "manifest: not in canonical form (a default left out, or another field order, "
            "spacing or number spelling)"
        )
    if manifest.digest != digest(manifest):
        raise ConfigError(
            f"manifest.digest: {manifest.digest[:12]}... is not the digest of the other fields "
            f"({digest(manifest)[:12]}...): the manifest was edited or damaged"
        )
    return manifest


def serialise(manifest: Manifest) -> bytes:
    """The one valid spelling of a manifest."""
    return _canonical(_plain(manifest))


def digest(manifest: Manifest) -> str:
    """sha256 of the canonical spelling without the field `digest`."""
    rest = _plain(manifest)
    del rest["digest"]
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _plain(manifest: Manifest) -> dict[str, Any]:
    value: dict[str, Any] = schema.dump(manifest)
    # Tables have no declared order, so theirs is by key; fields keep the declared one.
    for table in ("references", "files"):
        value[table] = dict(sorted(value[table].items()))
    for graph in value["graphs"]:
        graph["regions"] = dict(sorted(graph["regions"].items()))
    return value


def _canonical(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"manifest: the key {twice!r} appears twice")
    return table


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"manifest: {name} is not a finite number")
