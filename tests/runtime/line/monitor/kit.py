"""A monitor that is open on a port of its own, and asking it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="pip install sanflow[monitor]")
from prometheus_client.parser import text_string_to_metric_families

from sanflow.runtime.line.monitor.options import MonitorOptions
from sanflow.runtime.line.monitor.output import MonitorOutput
from sanflow.runtime.line.outputs import Site

from ..outputs.conftest import free_port

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def monitor(folder: Path, **options: Any) -> Iterator[tuple[MonitorOutput, int]]:
    """An open monitor and its port."""
    port = free_port()
    made = MonitorOutput(MonitorOptions(port=port, **options), Site(folder, "cell-7"))
    made.open()
    try:
        yield made, port
    finally:
        made.close()


def ask(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def health(port: int) -> tuple[int, dict[str, Any]]:
    """Status and document."""
    status, body = ask(port, "/health")
    return status, json.loads(body)


def metrics(port: int) -> Values:
    """Every sample by name and labels, read by Prometheus's own parser."""
    status, body = ask(port, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    """Of one sample."""
    return values[name, frozenset(labels.items())]
