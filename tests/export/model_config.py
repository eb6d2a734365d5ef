"""The fields of Triton's public model_config.proto that we write, so that a parser can judge us.

Names, numbers and kinds are the schema's own; `test_triton` compares them with the classes that
tritonclient generates from it, where that package is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_PACKAGE = "inference"
_KINDS = {"string": 9, "int32": 5, "uint32": 13, "int64": 3, "bool": 8}
_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11},
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}
# message: (field, number, kind); a star means repeated, a kind `map NAME` string -> message.
_MESSAGES = {
    "ModelParameter": ["string_value 1 string"],
    "ModelInput": ["name 1 string", "data_type 2 DataType", "dims 4 int64*"],
    "ModelOutput": ["name 1 string", "data_type 2 DataType", "dims 3 int64*"],
    "ModelInstanceGroup": ["name 1 string", "count 2 int32", "kind 4 ModelInstanceGroup.Kind"],
    "ModelWarmup.Input": ["data_type 1 DataType", "dims 2 int64*", "zero_data 3 bool"],
    "ModelWarmup": ["name 1 string", "batch_size 2 uint32", "inputs 3 map:ModelWarmup.Input"],
    "ModelConfig": [
        "name 1 string",
        "backend 17 string",
        "max_batch_size 4 int32",
        "input 5 ModelInput*",
        "output 6 ModelOutput*",
        "instance_group 7 ModelInstanceGroup*",
        "default_model_filename 8 string",
        "parameters 14 map:ModelParameter",
        "model_warmup 16 ModelWarmup*",
    ],
}


def parse(text: str) -> Any:
    """The configuration that this text spells; ParseError where it spells none."""
    return text_format.Parse(text, _model_config()())


def shape_of(descriptor: Any, only: Any = None) -> dict[str, Any]:
    """Number, kind and inner fields of every field (that `only` has, too), for a comparison."""
    wanted = None if only is None else only.fields_by_name
    fields = {}
    for field in descriptor.fields:
        if wanted is None or field.name in wanted:
            inner: Any = None
            if field.message_type is not None:
                other = None if wanted is None else wanted[field.name].message_type
                inner = shape_of(field.message_type, other)
            elif field.enum_type is not None:
                known = field.enum_type if wanted is None else wanted[field.name].enum_type
                inner = {
                    v.name: v.number
                    for v in field.enum_type.values
                    if v.name in known.values_by_name
                }
            fields[field.name] = (field.number, field.type, inner)
    return fields


def ours() -> Any:
    """The descriptor of our ModelConfig."""
    return _model_config().DESCRIPTOR


def theirs() -> Any:
    """The descriptor of tritonclient's generated ModelConfig; None where it is not installed.

    Its file is loaded alone: the package around it wants a client's dependencies.
    """
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig.DESCRIPTOR


def _model_config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="model_config_subset.proto", package=_PACKAGE, syntax="proto3"
    )
    messages: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, last = name.rpartition(".")
        holder = messages[outer].nested_type if outer else file.message_type
        messages[name] = holder.add(name=last)
    for name, values in _ENUMS.items():
        outer, _, last = name.rpartition(".")
        enum = (messages[outer] if outer else file).enum_type.add(name=last)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, lines in _MESSAGES.items():
        for line in lines:
            _add(messages[name], name, *line.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelConfig"))


def _add(message: Any, owner: str, name: str, number: str, kind: str) -> None:
    repeated = kind.endswith("*") or kind.startswith("map:")
    field = message.field.add(name=name, number=int(number), label=3 if repeated else 1)
    kind = kind.rstrip("*")
    if kind.startswith("map:"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=_KINDS["string"])
        _set(entry.field.add(name="value", number=2, label=1), kind.removeprefix("map:"))
        field.type, field.type_name = 11, f".{_PACKAGE}.{owner}.{entry.name}"
    else:
        _set(field, kind)


def _set(field: Any, kind: str) -> None:
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type, field.type_name = 14 if kind in _ENUMS else 11, f".{_PACKAGE}.{kind}"
