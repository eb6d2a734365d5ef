"""Stands in for the process of a cell: it takes the cell up, obeys one order, and writes a result.

Imports nothing of sanflow, so that a test of the machinery takes no time.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path


def main(orders: Path, folder: Path) -> int:
    """What the real worker does, without the work."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    with (folder / "attempts.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    (folder / "failed.json").unlink(missing_ok=True)
    print("the fake worker has something to say", flush=True)
    if take(orders / f"{folder.name}.kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if take(orders / f"{folder.name}.exit"):
        return 3
    if take(orders / f"{folder.name}.fail"):
        (folder / "failed.json").write_text('{"error": "no such texture", "created": "now"}')
        return 2
    if take(orders / f"{folder.name}.sleep"):
        time.sleep(60)
    partial = folder / f"{os.getpid()}.partial"
    shutil.copy(orders / "result.json", partial)
    partial.replace(folder / "result.json")
    return 0


def take(order: Path) -> bool:
    """Whether there is such an order; it is obeyed once."""
    there = order.exists()
    order.unlink(missing_ok=True)
    return there


def end_with_parent() -> None:
    """As the real worker does."""
    while os.read(0, 4096):
        pass
    os._exit(71)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
