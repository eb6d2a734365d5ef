"""The process of one cell: `python -m sanflow.sweep.worker FOLDER`.

What kills a cell (no memory, a fault in a library) kills this process and nothing else. It ends as
soon as its standard input does: when whoever started it is gone, however that came, no orphan goes
on with a cell that the next sweep takes up.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

from ..errors import Interrupted, SanflowError
from .folder import CellFolder
from .lock import locked

ORPHANED = 71
_ORPHANS = 60.0
"""Seconds within which an orphan must have seen that it is one."""


def main(path: str) -> int:
    """Do the cell in the folder `path`; the process's exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = CellFolder(Path(path))
    busy = f"{folder.path}: another process is still working on this cell; end it"
    try:
        with locked(folder.path / "cell.lock", busy, _ORPHANS):
            if folder.result is None:
                folder.begin()
                from .cell import run_cell  # here, so that a missing package fails the cell

                run_cell(folder, lambda line: print(line, flush=True))
    except Interrupted as error:
        return error.exit_code
    except SanflowError as error:
        folder.fail(str(error))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        folder.fail(f"unexpected {type(error).__name__}: {error}")
        return 1
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
