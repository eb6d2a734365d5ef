"""Inside a child process of the doctor: `python -m sanflow.runtime.doctor.look WHAT [NAME]`.

Prints one JSON document; an error's message goes to standard error, with a code other than 0.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from ...errors import EngineError
from ..setting import CudaChoice
from ..trt.api import Product, load
from ..trt.cuda import device
from ..trt.messages import explain

LIBCUDA = "libcuda.so.1"


def driver() -> dict[str, Any]:
    """Where the CUDA driver's library lies."""
    ctypes.CDLL(LIBCUDA)
    maps = Path("/proc/self/maps").read_text("utf-8", "replace")
    found = re.search(r"\s(/\S*libcuda\.so\S*)$", maps, re.MULTILINE)
    return {"path": found[1] if found else LIBCUDA}


def gpu(package: str) -> dict[str, Any]:
    """The first GPU, through this CUDA package."""
    return asdict(device(cast(CudaChoice, package)))


def tensorrt(product: str) -> dict[str, Any]:
    """TensorRT's version and place, once a builder and a runtime could be made."""
    api = load(cast(Product, product))
    said: list[str] = []

    def heard(severity: str, text: str) -> None:
        if severity == "error":
            said.append(text)

    logger = api.logger(heard)
    try:
        # Without a driver, or with one too old, these are where TensorRT says so.
        builder, runtime = api.trt.Builder(logger), api.trt.Runtime(logger)
    except (TypeError, RuntimeError) as error:
        raise EngineError(explain(" ".join([*said, str(error)]))) from error
    del builder, runtime
    return {"version": api.version, "path": str(Path(api.trt.__file__).parent)}


LOOKS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "driver": driver,
    "gpu": gpu,
    "tensorrt": tensorrt,
}


def main(what: str, *name: str) -> None:
    """Look, and print what was seen."""
    print(json.dumps(LOOKS[what](*name)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (EngineError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
