"""The OPC UA server, browsed, called and listened to by a real client."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asyncua", reason="pip install sanflow[opcua]")
from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

from sanflow import schema
from sanflow.errors import InputError
from sanflow.runtime.line.outputs import Site, opcua
from sanflow.runtime.line.outputs.opcua import WAITING, OpcuaOutput
from sanflow.runtime.line.outputs.options import OpcuaOptions
from sanflow.runtime.line.outputs.vision import OURS, VISION
from sanflow.runtime.line.result import PartResult

from .conftest import a_result, a_state, certificates, eventually, free_port, rejected

pytestmark = pytest.mark.slow  # a server needs seconds to load the types


@pytest.fixture(scope="module")
def output() -> Iterator[OpcuaOutput]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    options = OpcuaOptions("opcua", "127.0.0.1", free_port(), keep=20)
    output = OpcuaOutput(options, Site(Path("."), "cell-7"))
    output.announce(a_state())
    output.open()
    eventually(lambda: output.health()["listening"], 120)
    yield output
    output.close()


class Mes:
    """A client that knows the companion specification, and nothing of the server's insides."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: list[Any] = []

    async def start(self) -> None:
        await self.client.load_data_type_definitions()
        self.vision = await self.client.get_namespace_index(VISION)
        self.ours = await self.client.get_namespace_index(OURS)
        self.system = await self.client.nodes.objects.get_child([f"{self.ours}:cell-7"])

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    async def read(self, *path: str) -> Any:
        names = [name if ":" in name else f"{self.vision}:{name}" for name in path]
        return await (await self.system.get_child(names)).read_value()

    async def latest(self) -> dict[str, Any]:
        return json.loads(await self.read(f"{self.ours}:Latest") or "{}")

    async def call(self, parent: str, method: str, *given: Any) -> Any:
        node = await self.system.get_child([f"{self.vision}:{parent}"])
        return await node.call_method(f"{self.vision}:{method}", *given)

    async def listen(self, node: Any, kind: int) -> None:
        subscription = await self.client.create_subscription(20, self)
        await subscription.subscribe_events(
            node, self.client.get_node(ua.NodeId(kind, self.vision))
        )


@asynccontextmanager
async def mes(output: OpcuaOutput) -> AsyncIterator[Mes]:
    async with Client(f"opc.tcp://127.0.0.1:{output._options.port}/sanflow") as client:
        found = Mes(client)
        await found.start()
        yield found


async def until(what: Any, seconds: float = 20.0) -> Any:
    for _ in range(int(seconds / 0.02)):
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def test_the_state_machines_show_the_station(output: OpcuaOutput) -> None:
    async def check() -> None:
        async with mes(output) as client:
            machine = "VisionStateMachine"
            automatic = (machine, "AutomaticModeStateMachine", "0:CurrentState")
            for state, upper, lower in (
                ("Ready", "Operational", "Ready"),
                ("Running", "Operational", "ContinuousExecution"),
                ("Error", "Error", None),
                ("Initialized", "Operational", "Initialized"),
                ("Preoperational", "Preoperational", None),
            ):
                output.announce(a_state(state=state, fault="x" if state == "Error" else ""))

                async def shown(upper: str = upper, lower: str | None = lower) -> bool:
                    text = (await client.read(machine, "0:CurrentState")).Text
                    try:
                        below = (await client.read(*automatic)).Text
                    except ua.uaerrors.BadStateNotActive:
                        below = None
                    return (text, below) == (upper, lower)

                await until(shown)
                id = await client.read(machine, "0:CurrentState", "0:Id")
                name = await client.client.get_node(id).read_browse_name()
                assert name == ua.QualifiedName(upper, client.vision)

    asyncio.run(check())


def test_a_change_of_state_is_an_event(output: OpcuaOutput) -> None:
    async def check() -> None:
        async with mes(output) as client:
            output.announce(a_state(state="Ready"))
            await until(lambda: client.read("VisionStateMachine", "0:CurrentState"))
            await client.listen(client.system, 1018)
            output.announce(a_state(state="Error", fault="camera lost"))
            await until(lambda: client.events)
            event = client.events[-1]
            assert event.FromState.Text == "Operational Ready"
            assert event.ToState.Text == "Error"
            assert "camera lost" in event.Message.Text
            assert event.Severity == 700

    asyncio.run(check())


@pytest.mark.parametrize("server_object", [False, True])
def test_each_result_is_an_event_with_all_mandatory_fields(
    server_object: bool, output: OpcuaOutput
) -> None:
    async def check() -> None:
        async with mes(output) as client:
            where = client.client.nodes.server if server_object else client.system
            await client.listen(where, 1024)
            run = f"run-events-{server_object}"
            results = [a_result(n, run=run) for n in range(1, 30)] + [rejected(30, run=run)]
            for result in results:
                output.emit(result, None)
            await until(lambda: len(client.events) >= 30)
            events = client.events
            assert [e.PartId.Id for e in events] == [str(r.part) for r in results]
            for event, result in zip(events, results, strict=True):
                assert event.ResultId.Id == f"{run}-{result.result}"
                assert event.JobId.Id == run
                assert event.InternalRecipeId.Id == result.bundle
                assert event.InternalConfigurationId.Id == result.engine
                assert event.IsPartial is False
                assert event.CreationTime.isoformat().startswith(result.created[:19])
                pairs = [content.Value for content in event.ResultContent]
                content = {pair.Key.Name: pair.Value.Value for pair in pairs}
                assert content["verdict"] == result.verdict
                assert content["score"] == result.score
                assert event.ResultState == (3 if result.late else 1)
            assert f"{results[2].part}: NG score" in events[2].Message.Text

    asyncio.run(check())


def test_results_are_read_by_id_and_by_part(output: OpcuaOutput) -> None:
    async def check() -> None:
        async with mes(output) as client:
            for number in range(1, 31):
                output.emit(a_result(number, run="run-read"), None)

            async def last() -> bool:
                latest = await client.latest()
                return (latest.get("run"), latest.get("result")) == ("run-read", 30)

            await until(last)
            latest = await client.read(f"{client.ours}:LatestResult")
            assert latest.PartId.Id == "1030"
            assert schema.load(PartResult, await client.latest()) == a_result(30, run="run-read")
            timeout = ua.Variant(0, ua.VariantType.Int32)
            wanted = ua.ResultIdDataType(Id="run-read-15")
            _, found, error = await client.call(
                "ResultManagement", "GetResultById", wanted, timeout
            )
            assert (found.PartId.Id, error) == ("1015", 0)
            wanted = ua.ResultIdDataType(Id="run-read-2")  # 20 are kept
            _, found, error = await client.call(
                "ResultManagement", "GetResultById", wanted, timeout
            )
            assert (found.ResultState, error) == (0, -1)

            async def listed(part: str = "", most: int = 0, start: int = 0) -> list[Any]:
                u32 = ua.VariantType.UInt32
                return await client.call(
                    "ResultManagement",
                    "GetResultListFiltered",
                    ua.Variant(0, ua.VariantType.Int32),
                    ua.MeasIdDataType(),
                    ua.PartIdDataType(Id=part),
                    ua.RecipeIdExternalDataType(),
                    ua.RecipeIdInternalDataType(),
                    ua.ConfigurationIdDataType(),
                    ua.ConfigurationIdDataType(),
                    ua.ProductIdDataType(),
                    ua.JobIdDataType(Id="run-read"),
                    ua.Variant(most, u32),
                    ua.Variant(start, u32),
                    timeout,
                )

            complete, count, _, results, error = await listed("1020")
            assert (complete, count, error) == (True, 1, 0)
            assert results[0].ResultId.Id == "run-read-20"
            complete, count, _, results, _ = await listed(most=5, start=10)
            assert (complete, count) == (False, 5)
            assert [r.PartId.Id for r in results] == [f"10{n}" for n in range(21, 26)]

    asyncio.run(check())


def test_a_client_can_change_and_control_nothing(output: OpcuaOutput) -> None:
    async def check() -> None:
        url = f"opc.tcp://127.0.0.1:{output._options.port}/sanflow"
        async with mes(output) as client:
            node = await client.system.get_child([f"{client.ours}:Fault"])
            with pytest.raises(ua.UaStatusCodeError):
                await node.write_value("")
            state = await client.system.get_child(
                [f"{client.vision}:VisionStateMachine", "0:CurrentState"]
            )
            with pytest.raises(ua.UaStatusCodeError):
                await state.write_value(ua.LocalizedText("Halted"))
            with pytest.raises(ua.UaStatusCodeError):
                await client.system.add_variable(client.ours, "mine", 1)
            for method in ("Halt", "Reset"):
                with pytest.raises(ua.UaStatusCodeError) as refused:
                    await client.call("VisionStateMachine", method)
                assert refused.value.code == ua.StatusCodes.BadNotExecutable
        admin = Client(url)
        admin.set_user("admin")
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
            async with admin:
                await admin.nodes.objects.add_variable(2, "mine", 1)

    asyncio.run(check())


def test_what_comes_before_the_server_is_up_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    output = OpcuaOutput(OpcuaOptions("opcua", "127.0.0.1", free_port()), Site(tmp_path, "cell-7"))
    for number in range(1, WAITING + 11):
        output.emit(a_result(number), None)
    assert (output.health()["waiting"], output.health()["dropped"]) == (WAITING, 10)
    output.open()
    eventually(lambda: output.health()["told"] == WAITING, 180)
    output.close()


def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcua, "AGAIN", 0.2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        output = OpcuaOutput(OpcuaOptions("opcua", "127.0.0.1", port), Site(tmp_path, "cell-7"))
        output.open()
        eventually(lambda: "another program" in output.health()["error"], 60)
        time.sleep(1.0)
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.getMessage() for r in said] == [
        f"{output.name}: cannot listen at 127.0.0.1:{port}, another program does"
    ]
    eventually(lambda: output.health()["listening"], 60)
    assert output.health()["error"] == ""
    output.close()


def test_with_a_certificate_nothing_is_in_the_clear(tmp_path: Path) -> None:
    _, certificate, key = certificates(tmp_path)
    (tmp_path / "word").write_text("s3cret\n")
    options = OpcuaOptions(
        "opcua",
        "127.0.0.1",
        free_port(),
        certificate_file=str(certificate),
        key_file=str(key),
        username="mes",
        password_file="word",
    )
    output = OpcuaOutput(options, Site(tmp_path, "cell-7"))
    output.open()
    output.announce(a_state())
    eventually(lambda: output.health()["listening"], 120)

    async def connect(word: str | None, secure: bool = True) -> str:
        client = Client(f"opc.tcp://127.0.0.1:{options.port}/sanflow", timeout=10)
        if secure:
            await client.set_security(SecurityPolicyBasic256Sha256, str(certificate), str(key))
        if word is not None:
            client.set_user("mes")
            client.set_password(word)
        async with client:
            found = Mes(client)
            await found.start()
            state = await found.read("VisionStateMachine", "0:CurrentState")
            return str(state.Text)

    assert asyncio.run(connect("s3cret")) == "Operational"
    for word, secure in (("wrong", True), (None, True), ("s3cret", False)):
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError, asyncio.TimeoutError)):
            asyncio.run(connect(word, secure))
    output.close()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    options = OpcuaOptions("opcua", certificate_file="cert.der", key_file="key.pem")
    with pytest.raises(InputError, match=r"cert\.der: no such file"):
        OpcuaOutput(options, Site(tmp_path))
