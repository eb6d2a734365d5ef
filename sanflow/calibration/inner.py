"""The inner values of a graph on one image after the other, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..errors import InputError


class Inner:
    """A graph that gives the values named `tensors`; InputError if it has no such value."""

    def __init__(self, graph: onnx.ModelProto, tensors: Collection[str]) -> None:
        known = {name for node in graph.graph.node for name in node.output}
        known.update(entry.name for entry in graph.graph.input)
        for name in tensors:
            if name not in known:
                raise InputError(f"the graph has no value {name!r} to observe")
        self.tensors = tuple(dict.fromkeys(tensors))
        opened = onnx.ModelProto()
        opened.CopyFrom(graph)
        del opened.graph.output[:]
        opened.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.tensors
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            opened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._batch = self._session.get_inputs()[0].shape[0]

    def __call__(self, image: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        feed = {self._session.get_inputs()[0].name: np.repeat(image[None], self._batch, axis=0)}
        return self._session.run(list(self.tensors), feed) if self.tensors else ()
