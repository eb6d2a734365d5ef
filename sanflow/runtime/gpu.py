"""Whether an NVIDIA GPU answers here, asked of the driver itself, without any package."""

from __future__ import annotations

import ctypes
import sys

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


def no_gpu() -> str:
    """Why no GPU can be used, in the driver's words; empty if one answers."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return str(error)
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return _name(driver, code)
    return "" if count.value else "CUDA_ERROR_NO_DEVICE"


def first_gpu() -> str:
    """The first GPU's name and size; empty if none answers."""
    if no_gpu():
        return ""
    driver, device = ctypes.CDLL(_LIBRARY), ctypes.c_int()
    name, count = ctypes.create_string_buffer(256), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(count), _MULTIPROCESSORS, device)
    return f"{name.value.decode('utf-8', 'replace')}, {count.value} multiprocessors"


def _name(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"CUDA error {code}"
