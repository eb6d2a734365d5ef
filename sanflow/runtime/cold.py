"""A cold start, measured from inside: what `bench` runs in fresh processes.

    python -m sanflow.runtime.cold BUNDLE ENGINE THREADS PRECISION

An empty ENGINE, THREADS or PRECISION leaves the choice to the runtime, tuned or not.

Prints one line of JSON: the times of day at which the runtime was imported, the bundle open and
the first golden image judged, and the peak memory after all of them were.
"""

from __future__ import annotations

import json
import sys
import time

from .. import imaging
from .detector import Detector
from .machine import peak_rss_mib


def main(
    bundle: str, engine: str | None, threads: int | None, precision: str | None
) -> dict[str, float | None]:
    """Open, judge, and report."""
    imported = time.time()
    with Detector(bundle, engine, threads, precision=precision) as detector:
        opened = time.time()
        names = [entry.image for entry in detector.bundle.manifest.golden]
        judged = None
        for name in names:
            image = imaging.decode(detector.bundle.read(name), name)
            list(detector.judge_inputs([image]))
            judged = judged or time.time()
    return {"imported": imported, "opened": opened, "judged": judged, "rss_mib": peak_rss_mib()}


if __name__ == "__main__":
    path, engine, threads, precision = sys.argv[1:]
    count = int(threads) if threads else None
    print(json.dumps(main(path, engine or None, count, precision or None)))
