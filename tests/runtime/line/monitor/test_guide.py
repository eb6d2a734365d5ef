"""docs/monitor.md says what there is: its options, its addresses, its metrics."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sanflow.runtime.line.monitor.drift import SIGNALS
from sanflow.runtime.line.monitor.options import MonitorOptions, load_monitor

from ..outputs.conftest import a_result, a_state
from .kit import ask, metrics, monitor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).parents[4] / "docs" / "monitor.md").read_text("utf-8")


def first_cells(header: str) -> list[str]:
    """The words in code of the first column of the table with this header."""
    (table,) = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    cells = [line.split("|")[1] for line in table.splitlines()]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_every_option_is_shown_with_its_default() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.S | re.M)
    table = tomllib.loads(example)["monitor"]
    assert load_monitor(table) == MonitorOptions()
    assert list(table) == list(vars(MonitorOptions()))


def test_every_address_and_every_metric_is_there_and_no_other(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        made.meet(lambda: {"csv": {"waiting": 1}})
        made.announce(a_state())
        made.emit(a_result(), None)
        found = metrics(port)
        for address in first_cells("| address | what |"):
            assert ask(port, address)[0] == 200
    told = {
        re.sub(r"_(bucket|sum|count)$", "", name): set(labels) - {"le"}
        for (name, pairs) in found
        if not name.endswith("_created")
        for labels in [dict(pairs)]
    }
    shown = {}
    for word in first_cells("| name | what |"):
        name, _, labels = word.rstrip("}").partition("{")
        shown[name] = set(labels.split(", ")) - {""}
    assert shown == told
    used = set(re.findall(r"sanflow_\w+", PAGE))
    assert used == set(shown)


def test_every_signal_is_explained() -> None:
    assert first_cells("| signal | what it sees | what to do |") == list(SIGNALS)
