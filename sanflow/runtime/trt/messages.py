"""What TensorRT and CUDA say when they fail, what it means, and what to do about it.

NVIDIA's messages name the place in its code, seldom the cause; each row here was seen by someone
on a Jetson or a PC. `explain` finds the row of a message; the original always stays beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_APT = "sudo apt install python3-libnvinfer"
_VENV = "python3 -m venv --system-site-packages with the system's own Python"


@dataclass(frozen=True)
class Row:
    """One known failure: how it is recognised, what it means, what to do."""

    name: str
    pattern: str
    says: str
    fix: str


ROWS: tuple[Row, ...] = (
    Row(
        "no tensorrt",
        r"No module named '?(tensorrt|tensorrt_rtx)\b|(tensorrt|tensorrt_rtx).* not installed",
        "TensorRT's Python package is not in this environment",
        f'Jetson: {_APT}, an environment made by {_VENV}, then pip install "sanflow[cuda]"; PC: '
        'pip install "sanflow[tensorrt]", or for a GeForce RTX 20 to 50 pip install '
        '"sanflow[tensorrt-rtx]" and --engine tensorrt-rtx',
    ),
    Row(
        "no cuda binding",
        r"No module named '?(cuda|pycuda)\b|(cuda-python|pycuda).* not installed",
        "no Python package for CUDA memory is in this environment",
        'pip install "sanflow[cuda]" brings cuda-python; pycuda works too where a device has it',
    ),
    Row(
        "library missing",
        r"lib(nvinfer\w*|nvonnxparser|nvdla_compiler|tensorrt\w*)[\w.]*\.so[.\d]*"
        r".*(cannot open|not found|No such file)|undefined symbol.*nvinfer",
        "TensorRT's Python package and its libraries are not of one JetPack or one installation",
        "Jetson: install all of TensorRT from one JetPack (dpkg -l | grep -E 'nvinfer|nvidia-l4t') "
        f"with {_APT}; PC: pip install --force-reinstall tensorrt-cu13; which versions fit is in "
        "docs/tensorrt.md",
    ),
    Row(
        "no driver",
        r"libcuda\.so|nvcuda\.dll|is an NVIDIA driver library|DynamicLibNotFound",
        "there is no NVIDIA driver here",
        "install the driver (a Jetson has it with JetPack); start a container with --gpus all or "
        "--runtime nvidia; without a GPU use --engine onnxruntime",
    ),
    Row(
        "no device",
        r"CUDA_ERROR_NO_DEVICE|no CUDA-capable device|CUDA_ERROR_INVALID_DEVICE",
        "the driver sees no GPU",
        "look at nvidia-smi (Jetson: tegrastats) and at CUDA_VISIBLE_DEVICES; start a container "
        "with --gpus all or --runtime nvidia; on a Jetson the user must be in the group video",
    ),
    Row(
        "driver too old",
        r"factory function returned nullptr|CUDA initialization failure|"
        r"(CUDA|cuda)\w* (lookup |runtime )?(error|failure)\D{0,20}35\b|INSUFFICIENT_DRIVER|"
        r"REQUIRES_NEWER_DRIVER|not supported in the installed CUDA driver|"
        r"insufficient for CUDA runtime|SYSTEM_DRIVER_MISMATCH|"
        r"COMPAT_NOT_SUPPORTED|UNSUPPORTED_PTX_VERSION|STUB_LIBRARY",
        "the NVIDIA driver is absent, or older than this TensorRT needs",
        "update the driver, or install a TensorRT for this driver's CUDA version (nvidia-smi shows "
        "it): tensorrt-cu12 for 12.x, tensorrt-cu13 for 13.x; on a Jetson take the TensorRT of its "
        "JetPack",
    ),
    Row(
        "scale type",
        r"Could not infer output types for operation: ?.*dequantize",
        "this TensorRT cannot type INT8 with FP16 scales on this GPU (seen on Orin with 10.16)",
        "use --precision fp16",
    ),
    Row(
        "no kernel image",
        r"no kernel image is available|NO_BINARY_FOR_GPU|Unsupported SM|"
        r"Target GPU SM \d+ is not supported|not supported by this TensorRT",
        "this TensorRT has no code for this GPU (10.13 has none for Orin)",
        "install a TensorRT that supports the GPU: on Orin JetPack 6.1 or newer, or 7.2 or newer; "
        "which versions fit is in docs/tensorrt.md",
    ),
    Row(
        "no implementation",
        r"Could not find any implementation for node",
        "TensorRT found no kernel for a part of the graph: mostly too little memory to try them, "
        "else one that this version lacks",
        "close what else uses the memory and build again; set --workspace larger if memory is "
        "free; then use --precision fp16 or fp32, or a newer TensorRT",
    ),
    Row(
        "out of memory",
        r"CUDA_ERROR_OUT_OF_MEMORY|out of memory|OutOfMemory|std::bad_alloc|MemoryError|"
        r"Requested amount of GPU memory|NVMAPMEMALLOC|NvMapMemAlloc",
        "the GPU's memory is not enough",
        "close other programs on the GPU (nvidia-smi; on a Jetson the CPU shares its memory: "
        "tegrastats), use fewer inferences at a time, or a smaller --workspace",
    ),
    Row(
        "other device",
        r"expecting compute|incompatible device|generated on an incompatible|"
        r"not compatible with this version|Version tag does not match|"
        r"engine plan file is (not compatible|generated)|Serialization assertion|magicTag",
        "the plan was made by another TensorRT or for another GPU",
        "it is built again; if this repeats, remove the plan's folder",
    ),
    Row(
        "capture refused",
        r"stream is capturing|STREAM_CAPTURE_|cannot be captured|capture CUDA graphs",
        "the work cannot be recorded as a CUDA graph",
        "plain launches are used, which are slower and give the same results",
    ),
    Row(
        "permission",
        r"NvRmMem\w*|/dev/nv\S*.*(Permission denied|Operation not permitted)",
        "this user may not use the GPU's device files",
        "sudo usermod -aG video,render $USER, then log in again; in a container --runtime nvidia",
    ),
    Row(
        "no module for operator",
        r"No importer registered|UNSUPPORTED_NODE|unsupported operator|Plugin not found|"
        r"plugin.* could not be",
        "this TensorRT's parser does not know an operator of the graph",
        "export the run again with --target tensorrt, which writes only operators that every "
        "supported version reads; or update TensorRT",
    ),
)

KILLED = (
    "the build was killed (SIGKILL), which is what the system does when memory runs out",
    "close other programs (on a Jetson also the desktop: sudo systemctl isolate multi-user.target),"
    " add swap, or build with a smaller --workspace",
)


def row(text: str) -> Row | None:
    """The first row whose pattern occurs in what was said; None for an unknown message."""
    for known in ROWS:
        if re.search(known.pattern, text, re.IGNORECASE | re.DOTALL):
            return known
    return None


def explain(text: str) -> str:
    """One line: what it means, what to do, and what NVIDIA said; the text alone if unknown."""
    said = " ".join(text.split())
    known = row(said)
    return f"{known.says}; {known.fix} (said: {said})" if known else said
