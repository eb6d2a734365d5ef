"""The station as an OPC 40100-1 vision system: types of the official nodeset, states, results.

What the specification lets a client control (recipes, jobs, modes) is not offered here: a slow side
can stop nothing. Its methods are there, as the types demand, and answer BadNotExecutable.
"""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from datetime import datetime, timedelta
from importlib import resources
from typing import Any

from asyncua import Node, Server, ua

from .... import schema
from ..output import State, StationState
from ..result import PartResult

NODESET = "Opc.Ua.MachineVision.NodeSet2.xml.gz"
"""The OPC Foundation's, unchanged but for the compression; MIT, its licence stands in it."""
VISION = "http://opcfoundation.org/UA/MachineVision"
OURS = "urn:sanflow:station"

SYSTEM, RESULTS, MACHINE, AUTOMATIC = 1003, 1007, 1017, 1021
"""Type ids: vision system, result management, state machine, automatic mode state machine."""
STATE_CHANGED, RESULT_READY = 1018, 1024

COMPLETED, ABORTED, FAILED = 1, 3, 4
"""ResultState: judged; ran out of time; nobody could judge."""
UNKNOWN_RESULT = -1
"""Error of GetResultById, in the range that is left to applications."""

STATES: dict[State, tuple[str, str]] = {
    "Preoperational": ("Preoperational", ""),
    "Halted": ("Halted", ""),
    "Error": ("Error", ""),
    "Initialized": ("Operational", "Initialized"),
    "Ready": ("Operational", "Ready"),
    "Running": ("Operational", "ContinuousExecution"),
}
"""State of the vision state machine, and of the automatic mode below it."""


class Vision:
    """The nodes of one station in one server."""

    def __init__(self, server: Server, keep: int) -> None:
        self._server = server
        self._keep = keep
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._state: State | None = None
        self._variables: dict[str, Node] = {}
        self._events: list[tuple[Any, Any]] = []

    async def build(self, station: str) -> None:
        """Load the types and make the objects; takes seconds."""
        server = self._server
        packed = resources.files(__package__).joinpath(NODESET).read_bytes()
        await server.import_xml(xmlstring=gzip.decompress(packed).decode())
        await server.load_data_type_definitions()
        self._vision = await server.get_namespace_index(VISION)
        self._ours = await server.register_namespace(OURS)
        name = ua.QualifiedName(station, self._ours)
        kind = ua.NodeId(SYSTEM, self._vision)
        self._system = await server.nodes.objects.add_object(
            self._node("system"), name, kind, instantiate_optional=False
        )
        await self._find_states()
        await self._add_results()
        await self._add_variables()
        for emitter in (self._system.nodeid, ua.NodeId(ua.ObjectIds.Server)):
            changed = await server.get_event_generator(self._type(STATE_CHANGED), emitter)
            ready = await server.get_event_generator(self._type(RESULT_READY), emitter)
            self._events.append((changed, ready))
        await self._refuse_methods(self._system)

    async def state(self, state: StationState) -> None:
        """Show the state; tell of it if it is another one."""
        values = {
            "Heartbeat": ua.Variant(state.heartbeat % 2**32, ua.VariantType.UInt32),
            "Fault": ua.Variant(state.fault),
            "Warning": ua.Variant(state.warning),
            "Bundle": ua.Variant(state.bundle),
            "PartsWaiting": ua.Variant(state.queue, ua.VariantType.UInt32),
        }
        for name, value in values.items():
            await self._variables[name].write_value(value)
        if state.state == self._state:
            return
        before, self._state = self._state, state.state
        upper, lower = STATES[state.state]
        await self._show_state(self._machine, upper)
        await self._show_state(self._automatic, lower)
        if before is not None:
            for changed, _ in self._events:
                changed.event.FromState = ua.LocalizedText(" ".join(STATES[before]).strip())
                changed.event.ToState = ua.LocalizedText(" ".join(STATES[state.state]).strip())
                changed.event.Severity = 700 if state.state == "Error" else 100
                await changed.trigger(message=f"{before} to {state.state}. {state.fault}".strip())

    async def result(self, result: PartResult) -> None:
        """Keep it for those who ask, tell those who listen."""
        found = to_vision(result)
        self._results[found.ResultId.Id] = found
        while len(self._results) > self._keep:
            self._results.popitem(last=False)
        await self._variables["LatestResult"].write_value(found)
        line = json.dumps(schema.dump(result), allow_nan=False)
        await self._variables["Latest"].write_value(ua.Variant(line))
        told = {field: ua.Variant(getattr(found, field)) for field in _EVENT_FIELDS}
        told["ResultState"] = ua.Variant(found.ResultState, ua.VariantType.Int32)
        for _, ready in self._events:
            # Without a type of their own asyncua sends the fields of most kinds empty.
            for field, value in told.items():
                setattr(ready.event, field, value)
            ready.event.Severity = 100 if result.verdict == "OK" else 300
            await ready.trigger(message=f"part {result.part}: {result.verdict} {result.reason}")

    def _node(self, name: str) -> ua.NodeId:
        return ua.NodeId(name, self._ours)

    def _type(self, number: int) -> Node:
        return self._server.get_node(ua.NodeId(number, self._vision))

    async def _find_states(self) -> None:
        """The state machines of this station, and the states as their types name them."""
        step = f"{self._vision}:"
        self._machine = await self._system.get_child([f"{step}VisionStateMachine"])
        name = ua.QualifiedName("AutomaticModeStateMachine", self._vision)
        self._automatic = await self._machine.add_object(
            self._node("automatic"), name, ua.NodeId(AUTOMATIC, self._vision), False
        )
        self._ids: dict[str, ua.NodeId] = {}
        for kind, names in ((MACHINE, {u for u, _ in STATES.values()}), (AUTOMATIC, _AUTOMATIC)):
            for name in names:
                self._ids[name] = (await self._type(kind).get_child([f"{step}{name}"])).nodeid

    async def _add_results(self) -> None:
        name = ua.QualifiedName("ResultManagement", self._vision)
        management = await self._system.add_object(
            self._node("results"), name, ua.NodeId(RESULTS, self._vision), False
        )
        for method, call in self._methods().items():
            node = await management.get_child([f"{self._vision}:{method}"])
            self._server.link_method(node, call)

    async def _add_variables(self) -> None:
        kinds = {
            "LatestResult": ua.Variant(_empty()),
            "Latest": ua.Variant(""),
            "Heartbeat": ua.Variant(0, ua.VariantType.UInt32),
            "PartsWaiting": ua.Variant(0, ua.VariantType.UInt32),
            "Fault": ua.Variant(""),
            "Warning": ua.Variant(""),
            "Bundle": ua.Variant(""),
        }
        for name, value in kinds.items():
            kind = ua.NodeId(3006, self._vision) if name == "LatestResult" else None
            self._variables[name] = await self._system.add_variable(
                self._node(name), ua.QualifiedName(name, self._ours), value, datatype=kind
            )

    async def _show_state(self, machine: Node, name: str) -> None:
        """An empty name is a machine that is not active: reading it gives BadStateNotActive."""
        current = await machine.get_child(["0:CurrentState"])
        id = await current.get_child(["0:Id"])
        status = ua.StatusCode(
            ua.UInt32(ua.StatusCodes.Good if name else ua.StatusCodes.BadStateNotActive)
        )
        text = ua.Variant(ua.LocalizedText(name, "en"))
        for node, value in ((current, text), (id, ua.Variant(self._ids.get(name, ua.NodeId())))):
            await node.write_value(ua.DataValue(value, StatusCode=status))

    async def _refuse_methods(self, parent: Node) -> None:
        for node in await parent.get_children():
            if await node.read_node_class() != ua.NodeClass.Method:
                await self._refuse_methods(node)
            elif (await node.read_browse_name()).Name not in self._methods():
                self._server.link_method(node, _refuse)

    async def _get_result(self, _parent: ua.NodeId, id: ua.Variant, _wait: ua.Variant) -> list[Any]:
        """Methods get and give variants: ResultHandle, Result, Error."""
        found = self._results.get(getattr(id.Value, "Id", None) or "")
        error = 0 if found is not None else UNKNOWN_RESULT
        return [
            ua.Variant(0, ua.VariantType.UInt32),
            ua.Variant(found or _empty()),
            ua.Variant(error, ua.VariantType.Int32),
        ]

    async def _list_results(self, _parent: ua.NodeId, *given: ua.Variant) -> list[Any]:
        """The kept results with this state, part, recipe and job, the oldest first; an empty id
        or state 0 is any. IsComplete, ResultCount, ResultHandle, ResultList, Error."""
        state, _, part, _, recipe, _, _, _, job, most, start, _ = (value.Value for value in given)
        wanted = {"PartId": part, "InternalRecipeId": recipe, "JobId": job}
        ids = {name: id.Id for name, id in wanted.items() if getattr(id, "Id", None)}
        found = [
            result
            for result in self._results.values()
            if state in (0, None, result.ResultState)
            and all(getattr(result, name).Id == id for name, id in ids.items())
        ]
        given_out = found[start : start + most] if most else found[start:]
        return [
            ua.Variant(start + len(given_out) >= len(found)),
            ua.Variant(len(given_out), ua.VariantType.UInt32),
            ua.Variant(0, ua.VariantType.UInt32),
            ua.Variant(given_out, ua.VariantType.ExtensionObject, is_array=True),
            ua.Variant(0, ua.VariantType.Int32),
        ]

    def _methods(self) -> dict[str, Any]:
        return {
            "GetResultById": self._get_result,
            "GetResultListFiltered": self._list_results,
        }


def to_vision(result: PartResult) -> Any:
    """The result as OPC 40100-1's ResultDataType; load_data_type_definitions made the type."""
    end = datetime.fromisoformat(result.created.replace("Z", "+00:00"))
    judged = result.score is not None and not result.late
    found = _empty()
    found.ResultId.Id = f"{result.run}-{result.result}"
    found.ResultState = COMPLETED if judged else ABORTED if result.late else FAILED
    found.PartId = ua.PartIdDataType(Id=str(result.part))
    found.InternalRecipeId.Id = result.bundle
    found.InternalConfigurationId.Id = result.engine
    found.JobId.Id = result.run
    found.CreationTime = end
    found.ProcessingTimes = ua.ProcessingTimesDataType(
        StartTime=end - timedelta(milliseconds=result.total_ms),
        EndTime=end,
        ProcessingDuration=result.prepare_ms + result.engine_ms,
    )
    found.ResultContent = [
        _pair(name, getattr(result, name))
        for name in ("verdict", "reason", "score", "threshold", "uncertain", "detail")
    ]
    return found


_AUTOMATIC = sorted({lower for _, lower in STATES.values() if lower})
_EVENT_FIELDS = (
    "ResultId",
    "IsPartial",
    "IsSimulated",
    "PartId",
    "InternalRecipeId",
    "InternalConfigurationId",
    "JobId",
    "CreationTime",
    "ProcessingTimes",
    "ResultContent",
)


def _empty() -> Any:
    return ua.ResultDataType(IsSimulated=False)


def _pair(name: str, value: object) -> Any:
    return ua.Variant(ua.KeyValuePair(ua.QualifiedName(name), ua.Variant(value)))


async def _refuse(_parent: ua.NodeId, *_: ua.Variant) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(ua.StatusCodes.BadNotExecutable))
