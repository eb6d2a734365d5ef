"""Both Python packages for CUDA keep one contract, over a driver that finds misuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sanflow.errors import EngineError, InputError
from sanflow.runtime import gpu as driver
from sanflow.runtime.trt import cuda as module
from sanflow.runtime.trt.cuda import CudaBackend, CudaError, device, open_cuda

from .conftest import FakeCuda

SIZE = 1000


@pytest.fixture
def cuda(gpu: FakeCuda, cuda_choice: Any) -> Iterator[CudaBackend]:
    opened = open_cuda(cuda_choice)
    assert opened.package.startswith(cuda_choice)
    yield opened
    opened.close()


def test_it_says_what_the_gpu_is(cuda: CudaBackend, cuda_choice: Any) -> None:
    assert (cuda.name, cuda.sm, cuda.driver, cuda.integrated) == (
        "Fake Orin",
        (8, 7),
        "13.0",
        False,
    )
    facts = device(cuda_choice)
    assert facts.free == facts.total == 2**33
    assert facts.package == cuda.package


def test_whether_memory_is_shared(
    gpu: FakeCuda, cuda_choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "1")
    assert device(cuda_choice).integrated


def test_a_copy_is_done_once_the_stream_is_waited_for(cuda: CudaBackend) -> None:
    with cuda.bind():
        source, target, on_gpu = cuda.pinned(SIZE), cuda.pinned(SIZE), cuda.alloc(SIZE)
        stream = cuda.stream()
        assert source.array is not None
        assert target.array is not None
        source.array[:] = np.arange(SIZE) % 251
        cuda.h2d_async(on_gpu, source, stream)
        cuda.d2h_async(target, on_gpu, stream)
        assert (target.array != source.array).any()
        cuda.sync(stream)
        np.testing.assert_array_equal(target.array, source.array)
        for buffer in (source, target, on_gpu):
            cuda.free(buffer)
        cuda.destroy(stream)


def test_a_recorded_graph_repeats_the_work_with_new_data(cuda: CudaBackend) -> None:
    if cuda.package.startswith("pycuda"):
        pytest.skip("pycuda has no graphs")
    with cuda.bind():
        source, target, stream = cuda.pinned(SIZE), cuda.pinned(SIZE), cuda.stream()
        on_gpu = cuda.alloc(SIZE)
        assert source.array is not None
        assert target.array is not None

        def work() -> None:
            cuda.h2d_async(on_gpu, source, stream)
            cuda.d2h_async(target, on_gpu, stream)

        target.array[:] = 0
        graph = cuda.capture(stream, work)
        cuda.sync(stream)
        assert not target.array.any()  # recorded, not done
        for value in (3, 4):
            source.array[:] = value
            cuda.launch(graph, stream)
            cuda.sync(stream)
            assert (target.array == value).all()
        cuda.destroy(graph)
        for buffer in (source, target, on_gpu):
            cuda.free(buffer)
        cuda.destroy(stream)


def test_a_failed_recording_leaves_a_usable_stream(cuda: CudaBackend) -> None:
    with cuda.bind():
        source, target, stream = cuda.pinned(SIZE), cuda.alloc(SIZE), cuda.stream()

        def fail() -> None:
            cuda.h2d_async(target, source, stream)
            raise EngineError("not while capturing")

        with pytest.raises(EngineError):
            cuda.capture(stream, fail)
        cuda.h2d_async(target, source, stream)
        cuda.sync(stream)
        cuda.free(source)
        cuda.free(target)
        cuda.destroy(stream)


def test_what_cannot_be_recorded_is_said(
    cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKECUDA_NOCAPTURE", "1")
    with cuda.bind():
        stream = cuda.stream()
        with pytest.raises(CudaError):
            cuda.capture(stream, lambda: None)
        cuda.destroy(stream)


def test_a_context_is_current_only_inside_bind_on_any_thread(
    cuda: CudaBackend, gpu: FakeCuda
) -> None:
    depths: list[int] = []

    def use() -> None:
        with cuda.bind():
            with cuda.bind():
                depths.append(gpu.library.fakecuda_depth())
            cuda.mem_info()
        depths.append(gpu.library.fakecuda_depth())

    for _ in range(3):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    use()
    assert depths == [depths[0], 0] * 4
    assert depths[0] >= 1


def test_out_of_memory_is_said_with_what_to_do(
    cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKECUDA_LIMIT", "1024")
    with cuda.bind(), pytest.raises(CudaError, match=r"memory is not enough.*close other programs"):
        cuda.alloc(2048)


@pytest.mark.parametrize("choice", ["cuda-python"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("0", "the driver sees no GPU"),
        ("803", "older than this TensorRT needs"),
        ("9999", "9999 is not a valid CUresult"),  # newer than the package
    ],
)
def test_without_a_usable_gpu_it_says_why(
    fake_driver: FakeCuda, monkeypatch: pytest.MonkeyPatch, choice: Any, code: str, said: str
) -> None:
    monkeypatch.delenv("FAKECUDA", raising=False)
    monkeypatch.setenv("FAKECUDA_INIT", code)
    with pytest.raises(CudaError, match=said):
        open_cuda(choice)
    assert driver.no_gpu().startswith("CUDA_ERROR")
    assert driver.first_gpu() == ""


def test_a_gpu_answers(gpu: FakeCuda) -> None:
    assert driver.no_gpu() == ""
    assert driver.first_gpu() == "Fake Orin, 8 multiprocessors"


def test_without_a_driver_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    assert "libcuda.so.1: cannot open" in driver.no_gpu()


def test_without_a_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'cuda'", name="cuda")

    monkeypatch.setattr(module, "_cuda_python", absent)
    monkeypatch.setattr(module, "_pycuda", absent)
    with pytest.raises(CudaError, match=r'pip install "sanflow\[cuda\]"'):
        open_cuda()
    with pytest.raises(CudaError, match="pycuda: not installed"):
        open_cuda("pycuda")


def test_auto_takes_pycuda_where_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'cuda'", name="cuda")

    found = object()
    monkeypatch.setattr(module, "_cuda_python", absent)
    monkeypatch.setattr(module, "_pycuda", lambda: found)
    assert open_cuda() is found


def test_a_package_that_cannot_be_loaded_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> Any:
        raise ImportError("libcuda.so.1: cannot open shared object file", name="pycuda._driver")

    monkeypatch.setattr(module, "_pycuda", broken)
    with pytest.raises(CudaError, match="no NVIDIA driver here"):
        open_cuda("pycuda")


def test_an_unknown_package_is_an_input_error() -> None:
    with pytest.raises(InputError, match="known: auto, cuda-python, pycuda"):
        open_cuda("cupy")  # type: ignore[arg-type]
