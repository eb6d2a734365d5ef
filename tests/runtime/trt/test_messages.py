"""Every failure of the table is recognised by what NVIDIA's software really says."""

from __future__ import annotations

import pytest

from sanflow.runtime.trt.messages import ROWS, explain, row

SAID = {
    "no tensorrt": [
        "No module named 'tensorrt'",
        "No module named 'tensorrt_rtx'",
        "tensorrt not installed",
    ],
    "no cuda binding": ["No module named 'pycuda'", "cuda-python and pycuda: not installed"],
    "library missing": [
        "libnvinfer.so.10: cannot open shared object file: No such file or directory",
        "libnvdla_compiler.so: cannot open shared object file: No such file or directory",
        "libnvonnxparser.so.10: cannot open shared object file: No such file or directory",
    ],
    "no driver": [
        "libcuda.so.1: cannot open shared object file: No such file or directory",
        "DynamicLibNotFoundError: Failure finding libcuda.so",
    ],
    "no device": ["CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"],
    "driver too old": [
        "pybind11::init(): factory function returned nullptr",
        "CUDA initialization failure with error: 35",
        "CUDA driver version is insufficient for CUDA runtime version",
        "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
        "Cuda Runtime (cudaError 36: API call is not supported in the installed CUDA driver)",
    ],
    "scale type": ["Could not infer output types for operation: 65: dequantize: conv1_dq"],
    "no kernel image": [
        "no kernel image is available for execution on the device",
        "Target GPU SM 61 is not supported by this TensorRT release.",
    ],
    "no implementation": [
        "Error Code 10: Internal Error (Could not find any implementation for node {Foreign...})"
    ],
    "out of memory": [
        "CUDA_ERROR_OUT_OF_MEMORY",
        "[defaultAllocator.cpp] Requested amount of GPU memory (15032385536 bytes) could not be",
        "MemoryError: std::bad_alloc",
        "NvMapMemAllocInternalTagged: 1075072515 error 12",
    ],
    "other device": [
        "The engine plan file is generated on an incompatible device, expecting compute 8.6",
        "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does "
        "not match.",
    ],
    "capture refused": [
        "Cuda Runtime (operation not permitted when stream is capturing)",
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        "pycuda 2026.1 cannot capture CUDA graphs; cuda-python can",
    ],
    "permission": ["NvRmMemInitNvmap failed with Permission denied"],
    "no module for operator": ["No importer registered for op: NonZero"],
}  # fmt: skip


def test_every_row_has_something_that_was_said() -> None:
    assert list(SAID) == [known.name for known in ROWS]


@pytest.mark.parametrize(
    ("name", "said"), [(name, said) for name, several in SAID.items() for said in several]
)
def test_it_is_recognised_and_stays_beside_its_meaning(name: str, said: str) -> None:
    found = row(said)
    assert found is not None
    assert found.name == name
    text = explain(f"[TRT] line one\n  {said}")
    assert found.says in text
    assert found.fix in text
    assert said in text
    assert "\n" not in text


def test_what_nobody_knows_is_passed_on_as_it_is() -> None:
    assert row("Assertion failed: 7 == 8") is None
    assert explain("Assertion failed:\n  7 == 8") == "Assertion failed: 7 == 8"


def test_meanings_and_remedies_differ() -> None:
    assert len({known.says for known in ROWS}) == len({known.fix for known in ROWS}) == len(ROWS)
