"""What may be asked of an export: which targets there are, and what belongs to each of them."""

from __future__ import annotations

from typing import Literal, cast, get_args

from ..bundle.manifest import Target
from ..errors import EngineError, InputError
from ..runtime.machine import describe
from .quantise import Activation
from .typed import ACTIVATIONS

Asked = Literal["fp32", "fp16", "bf16", "int8", "auto"]
USUAL: dict[Target, Asked] = {"onnx": "fp32", "openvino": "fp32", "tensorrt": "fp16"}
"""The precision that a target gets unless another is asked for."""


def known_target(target: str) -> Target:
    """The target of this name; InputError if there is none."""
    if target not in ACTIVATIONS:
        raise InputError(f"target {target!r} is not one of {', '.join(ACTIVATIONS)}")
    return target


def known_precision(precision: str | None, target: Target) -> Asked:
    """The precision that is asked for, the target's usual one if none is.

    Raises InputError for one that the target has not, EngineError for BF16 on a machine that
    cannot judge it.
    """
    if precision is None:
        return USUAL[target]
    if precision not in get_args(Asked):
        raise InputError(f"precision {precision!r} is not one of {', '.join(get_args(Asked))}")
    if precision == "bf16" and target != "openvino":
        raise InputError(f"bf16 needs the target openvino, not {target}; use fp16, int8 or auto")
    if precision == "bf16" and not has_bf16():
        raise EngineError(
            "bf16: this processor has no BF16 products, so the bundle could not be judged here; "
            "export on one that has (AVX512-BF16, AMX), or use int8 or auto"
        )
    return cast(Asked, precision)


def known_activation(activation: Activation | None, target: Target) -> Activation:
    """The form of int8 activations; InputError for one that the target does not read."""
    if activation == "uint8" and target == "tensorrt":
        raise InputError("activation uint8: TensorRT knows int8 activations only; leave it out")
    return activation or ACTIVATIONS[target]


def check_lowering(asked: Asked, activation: Activation | None, defects: bool) -> None:
    """InputError for what only a lowered graph has, where none is lowered.

    Ignored, labelled defects would look like a gate that the bundle has passed.
    """
    if defects and asked == "fp32":
        raise InputError(
            "--defects: they are for the gate of a lower precision, which fp32 does not pass; "
            "leave them out, or give --precision, such as auto"
        )
    if activation is not None and asked not in ("int8", "auto"):
        raise InputError(
            f"--activation {activation}: {asked} stores no activations in 8 bits; leave it out, or "
            "give --precision int8 or auto"
        )


def check_flows(flows: bool, target: Target) -> None:
    """InputError where lowering the flows' products is no choice of its own."""
    if flows and target != "tensorrt":
        raise InputError(
            f"flows: int8 and bf16 lower the flows' products for {target} anyway, fp16 never does; "
            "leave it out, or use the target tensorrt"
        )


def has_bf16() -> bool:
    """Whether this processor multiplies BF16."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(describe().isa))
