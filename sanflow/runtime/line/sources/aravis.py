"""GigE Vision and USB3 Vision cameras of any maker, through Aravis, without the maker's driver.

    aravis:                                 the only camera there is
    aravis:192.168.1.20?ExposureTime=800    by address, serial number or name
    aravis:Fake_1                           one that Aravis simulates

Aravis comes from the system (gir1.2-aravis-0.8), its Python binding from the extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gi

from ..source import SourceError
from .machine import MachineCamera, Shot, choose, number
from .pixels import picture
from .uri import Address, options, parse, split_features

BUFFERS = 8
RECEIVE = 4 << 20
"""Bytes of the socket's buffer: with the system's default, most packets of a frame are lost."""


@dataclass(frozen=True)
class AravisOptions:
    """What an aravis: URI can ask for, beside the camera's own settings."""

    packet: int = 0
    """Bytes of a GigE Vision packet; 0 finds out what the network carries."""


class AravisSource(MachineCamera):
    """See the module."""

    def __init__(self, address: Address, asked: AravisOptions, features: Mapping[str, str]) -> None:
        super().__init__(address, features)
        self._wanted, self._asked_packet = address.place, asked.packet
        self._aravis: Any = None
        self._camera: Any = None
        self._device: Any = None
        self._stream: Any = None
        self._gone = False

    def _connect(self) -> None:
        self._aravis = aravis = _library(self.name)
        if self._wanted.startswith("Fake_"):
            aravis.enable_interface("Fake")
        aravis.update_device_list()
        names = [
            [
                aravis.get_device_id(n),
                aravis.get_device_serial_nbr(n),
                aravis.get_device_address(n),
                aravis.get_device_model(n),
            ]
            for n in range(aravis.get_n_devices())
        ]
        chosen = choose(self.name, self._wanted, names)
        self._gone = False
        self._camera = aravis.Camera.new(names[chosen][0])
        self._device = self._camera.get_device()
        self._device.connect("control-lost", self._control_lost)
        is_gige = self._camera.is_gv_device()
        # The simulated one numbers its frames like one with GigE Vision.
        self.gige = is_gige or self._wanted.startswith("Fake_")
        if is_gige:
            # A packet socket is what a privileged user gets, and it sees nothing of some networks.
            self._camera.gv_set_stream_options(aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
            if self._asked_packet:
                self._camera.gv_set_packet_size(self._asked_packet)
            else:
                self._camera.gv_auto_packet_size()

    def _control_lost(self, device: Any) -> None:
        self._gone = True

    def _has(self, name: str) -> bool:
        return self._device.get_feature(name) is not None

    def _set(self, name: str, value: str) -> None:
        node = self._device.get_feature(name)
        if isinstance(node, self._aravis.GcCommand):
            node.execute()
            return
        if isinstance(node, (self._aravis.GcIntegerNode, self._aravis.GcFloatNode)):
            number(value)
        node.set_value_from_string(value)

    def _start(self) -> None:
        aravis, camera = self._aravis, self._camera
        camera.set_acquisition_mode(aravis.AcquisitionMode.CONTINUOUS)
        self._stream = stream = camera.create_stream(None, None)
        if camera.is_gv_device():
            stream.set_property("socket-buffer", aravis.GvStreamSocketBuffer.FIXED)
            stream.set_property("socket-buffer-size", RECEIVE)
        payload = camera.get_payload()
        for _ in range(BUFFERS):
            stream.push_buffer(aravis.Buffer.new_allocate(payload))
        camera.start_acquisition()

    def _fire(self) -> None:
        self._camera.software_trigger()

    def _grab(self, timeout: float) -> Shot | None:
        if self._gone:
            raise SourceError(f"{self.name}: the camera no longer answers")
        buffer = self._stream.timeout_pop_buffer(max(1, round(1e6 * timeout)))
        if buffer is None:
            return None
        try:
            known = buffer.get_frame_id(), buffer.get_timestamp() / 1e9 or None
            status = buffer.get_status()
            if status != self._aravis.BufferStatus.SUCCESS:
                return Shot(None, f"the frame is incomplete: {status.value_nick}", *known)
            pixels = picture(
                buffer.get_image_pixel_format(),
                buffer.get_data(),
                buffer.get_image_height(),
                buffer.get_image_width(),
            )
            return Shot(pixels, "", *known)
        finally:
            self._stream.push_buffer(buffer)

    def _disconnect(self) -> None:
        camera, self._camera = self._camera, None
        self._device = self._stream = None
        if camera is not None:
            camera.stop_acquisition()


def aravis_source(uri: str) -> AravisSource:
    """The source that an aravis: URI describes; ConfigError says what is wrong with it."""
    address, features = split_features(parse(uri))
    return AravisSource(address, options(AravisOptions, address), features)


def _library(name: str) -> Any:
    try:
        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis
    except (ValueError, ImportError):
        raise SourceError(
            f"{name}: Aravis 0.8 is not installed; on Debian: apt install gir1.2-aravis-0.8"
        ) from None
    return Aravis
