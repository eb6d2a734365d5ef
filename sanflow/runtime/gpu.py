"""Whether an NVIDIA GPU answers here, asked of the driver itself, without any package."""

from __future__ import annotations

import ctypes
import sys


def no_gpu() -> str:
    """Why no GPU can be used, in the driver's words; empty if one answers."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return _name(driver, code)
    return "" if count.value else "CUDA_ERROR_NO_DEVICE"


def _name(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"CUDA error {code}"
