"""FP16 as a GPU computes it, on the CPU: against PyTorch's float16, and what ORT would hide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sanflow.export.emulate import emulate, tf32
from sanflow.export.graph import to_onnx
from sanflow.export.half import to_half
from sanflow.export.plan import Plan

from .conftest import noise, small_model

node = helper.make_node
Floats = NDArray[np.float32]
F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def half_graph(
    inner: list[onnx.NodeProto], shape: tuple[int, ...], out: tuple[int, ...], **weights: Floats
) -> onnx.ModelProto:
    """FP32 x -> Cast to FP16 `h` -> the nodes, which end in `r` -> Cast to FP32 y."""
    nodes = [
        node("Cast", ["x"], ["h"], "in", to=F16),
        *inner,
        node("Cast", ["r"], ["y"], "out", to=F32),
    ]
    made = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", F32, shape)],
        [helper.make_tensor_value_info("y", F32, out)],
        [numpy_helper.from_array(v.astype(np.float16), k) for k, v in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, **feeds: NDArray[np.generic]) -> list[Floats]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def values(*shape: int, spread: float = 1.0, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def wide() -> Floats:
    """Numbers of every size that FP16 holds, subnormals and beyond the largest included."""
    size = 10 ** np.random.default_rng(1).uniform(-8, 5, 4096)
    return (size * np.sign(values(4096))).astype(np.float32)


EXACT: dict[str, tuple[list[onnx.NodeProto], Callable[[torch.Tensor], torch.Tensor]]] = {
    "the cast alone": ([node("Relu", ["h"], ["r"], "a")], torch.relu),
    "a product": ([node("Mul", ["h", "h"], ["r"], "a")], lambda h: h * h),
    "a sum": ([node("Add", ["h", "h"], ["r"], "a")], lambda h: h + h),
    "a quotient": ([node("Div", ["c", "h"], ["r"], "a")], lambda h: torch.tensor(3.0).half() / h),
    "a root": (
        [node("Mul", ["h", "h"], ["s"], "a"), node("Sqrt", ["s"], ["r"], "b")],
        lambda h: torch.sqrt(h * h),
    ),
    "three in a row": (
        [
            node("Mul", ["h", "c"], ["s"], "a"),
            node("Add", ["s", "h"], ["t"], "b"),
            node("Mul", ["t", "t"], ["r"], "c"),
        ],
        lambda h: (h * torch.tensor(3.0).half() + h) ** 2,
    ),
    "a difference that cancels": (
        [node("Add", ["h", "c"], ["s"], "a"), node("Sub", ["s", "c"], ["r"], "b")],
        lambda h: (h + torch.tensor(3.0).half()) - torch.tensor(3.0).half(),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_arithmetic_is_pytorchs_float16_to_the_bit(name: str) -> None:
    """Also where it overflows to infinity and where it is subnormal."""
    nodes, by_torch = EXACT[name]
    x = wide()
    model = half_graph(nodes, x.shape, x.shape, c=np.float32(3).reshape(()))
    (found,) = run(emulate(model), x=x)
    wanted = by_torch(torch.from_numpy(x).half()).float().numpy()
    assert found.tobytes() == wanted.tobytes()
    assert (np.abs(found[np.isfinite(found)]) < 6e-5).any()
    if name in ("a product", "three in a row"):
        assert np.isinf(found).any()


CLOSE: dict[
    str, tuple[list[onnx.NodeProto], Callable[[torch.Tensor, torch.Tensor], torch.Tensor], int]
] = {
    "Conv": (
        [node("Conv", ["h", "w"], ["r"], "a", pads=[1, 1, 1, 1])],
        lambda h, w: torch.nn.functional.conv2d(h, w, padding=1),
        6,
    ),
    "Conv and Relu twice": (
        [
            node("Conv", ["h", "w"], ["c"], "a", pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["d"], "b"),
            node("Conv", ["d", "w"], ["r"], "c", pads=[1, 1, 1, 1]),
        ],
        lambda h, w: torch.nn.functional.conv2d(
            torch.relu(torch.nn.functional.conv2d(h, w, padding=1)), w, padding=1
        ),
        6,
    ),
    "Sigmoid": ([node("Sigmoid", ["h"], ["r"], "a")], lambda h, w: torch.sigmoid(h), 6),
    "Tanh": ([node("Tanh", ["h"], ["r"], "a")], lambda h, w: torch.tanh(h), 6),
    "Exp": ([node("Exp", ["h"], ["r"], "a")], lambda h, w: torch.exp(h), 6),
    "AveragePool": (
        [node("AveragePool", ["h"], ["r"], "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        lambda h, w: torch.nn.functional.avg_pool2d(h, 3, 1, 1, count_include_pad=False),
        6,
    ),
    "MaxPool": (
        [node("MaxPool", ["h"], ["r"], "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        lambda h, w: torch.nn.functional.max_pool2d(h, 3, 1, 1),
        6,
    ),
}


@pytest.mark.parametrize("name", CLOSE)
def test_sums_and_functions_are_pytorchs_float16_to_the_last_digit(name: str) -> None:
    """Both add up in FP32 and round once; the order of the sum may move the last digit."""
    nodes, by_torch, channels = CLOSE[name]
    x, w = values(1, channels, 12, 12, spread=2), values(channels, channels, 3, 3, spread=0.2)
    (found,) = run(emulate(half_graph(nodes, x.shape, x.shape, w=w)), x=x)
    wanted = by_torch(torch.from_numpy(x).half(), torch.from_numpy(w).half()).float().numpy()
    digit = np.spacing(np.abs(wanted).astype(np.float16)).astype(np.float32)
    error = np.abs(found - wanted) / np.maximum(digit, np.float32(2.0**-13))
    assert error.max() <= (2 if "twice" in name else 1)
    assert (error == 0).mean() > 0.98
    assert (found.astype(np.float16).astype(np.float32) == found).all()


def test_a_matrix_product_is_pytorchs_float16() -> None:
    x, w = values(7, 64), values(64, 33, seed=1)
    model = half_graph([node("MatMul", ["h", "w"], ["r"], "a")], (7, 64), (7, 33), w=w)
    (found,) = run(emulate(model), x=x)
    wanted = (torch.from_numpy(x).half() @ torch.from_numpy(w).half()).float().numpy()
    assert np.abs(found - wanted).max() <= 2.0**-7
    assert (found == wanted).mean() > 0.98


def test_onnxruntime_alone_hides_what_overflows() -> None:
    """The reason why this exists: its FP16 is FP32 between two operators."""
    x = np.full(8, 300, np.float32)
    nodes = [
        node("Mul", ["h", "h"], ["s"], "a"),
        node("Div", ["s", "c"], ["r"], "b"),
    ]
    model = half_graph(nodes, x.shape, x.shape, c=np.float32(30).reshape(()))
    assert np.isfinite(run(model, x=x)[0]).all()
    assert np.isinf(run(emulate(model), x=x)[0]).all()


def test_tf32_keeps_eleven_bits_and_the_range_of_fp32() -> None:
    x = np.concatenate([wide(), 1e30 * values(512), values(512)])
    bits = x.view(np.uint32)
    nearest = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint32(0x1FFF)).view(np.float32)
    found = tf32(x)
    ties = (bits & 0x1FFF) == 0x1000  # either neighbour is as near
    assert (found[~ties] == nearest[~ties]).all()
    assert (np.abs(found / x - 1) <= 2.0**-11).all()


def test_products_left_in_fp32_are_given_tf32_factors() -> None:
    x, w = values(5, 40), values(40, 9, seed=2)
    made = helper.make_graph(
        [node("MatMul", ["x", "w"], ["a"], "a"), node("MatMul", ["x", "w"], ["b"], "b"),
         node("Add", ["a", "b"], ["y"], "c")],
        "tf32",
        [helper.make_tensor_value_info("x", F32, x.shape)],
        [helper.make_tensor_value_info("y", F32, (5, 9))],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rounded = emulate(model)
    onnx.checker.check_model(rounded, full_check=True)
    assert sum(n.op_type == "Mul" for n in rounded.graph.node) == 1  # one rounding, two readers
    (found,) = run(rounded, x=x)
    wanted = 2 * (tf32(x).astype(np.float64) @ tf32(w).astype(np.float64))
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(run(model, x=x)[0] - wanted).max() > 1e-4


def test_a_whole_graph_is_fp32_with_every_rounding() -> None:
    """No FP16 is left but in the roundings, and the result is near the FP32 graph's."""
    model = small_model()
    plain = to_onnx(model, batch=1)
    half = to_half(plain, Plan.uniform(plain, "fp16"))
    made = emulate(half)
    onnx.checker.check_model(made, full_check=True)
    assert {t.data_type for t in made.graph.initializer} <= {F32, TensorProto.INT64}
    casts = [n for n in made.graph.node if n.op_type == "Cast"]
    assert sum(c.attribute[0].i == F16 for c in casts) > 20
    image = np.asarray(noise(1, model).numpy())
    score, heat = run(made, image=image)
    wanted, by_fp32 = run(plain, image=image)
    assert 1e-6 < abs(score[0] / wanted[0] - 1) < 0.05
    assert 1e-6 < np.abs(heat - by_fp32).max() < 0.05 * np.abs(by_fp32).max() + 0.05
