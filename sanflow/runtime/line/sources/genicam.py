"""Any camera with a GenTL producer, the .cti file that comes with its maker's driver.

    genicam:/opt/vendor/producer.cti
    genicam:/opt/vendor/producer.cti?camera=SERIAL&ExposureTime=800
    genicam:                             producers in the environment's GENICAM_GENTL64_PATH

A producer does not tell that a camera was unplugged; frames only cease: set [source] silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genicam import genapi, gentl
from harvesters.core import Harvester

from ..source import SourceError
from .machine import MachineCamera, Shot, choose, number
from .pixels import CODES, picture
from .uri import Address, options, parse, split_features

PATH = "GENICAM_GENTL64_PATH"


@dataclass(frozen=True)
class Genicam:
    """What a genicam: URI can ask for, beside the camera's own settings."""

    camera: str = ""
    """Its serial number, its id, or the name its user gave it; needed where there are several."""


class GenicamSource(MachineCamera):
    """See the module."""

    def __init__(self, address: Address, asked: Genicam, features: Mapping[str, str]) -> None:
        super().__init__(address, features)
        self._producer, self._wanted = address.place, asked.camera
        self._harvester: Any = None
        self._camera: Any = None

    def _connect(self) -> None:
        self._harvester = Harvester()
        for path in self._producers():
            self._harvester.add_file(str(path))
        self._harvester.update()
        found = self._harvester.device_info_list
        told = [info.property_dict for info in found]
        keys = ("serial_number", "id_", "user_defined_name", "model")
        names = [[str(one.get(key) or "") for key in keys] for one in told]
        index = choose(self.name, self._wanted, names)
        self.gige = told[index].get("tl_type") == "GEV"
        self._camera = self._harvester.create(index)

    def _producers(self) -> list[Path]:
        if self._producer:
            if not Path(self._producer).is_file():
                raise SourceError(
                    f"{self.name}: there is no file {self._producer}; the camera maker's driver "
                    "brings a .cti file"
                )
            return [Path(self._producer)]
        folders = [Path(p) for p in os.environ.get(PATH, "").split(os.pathsep) if p]
        found = [path for folder in folders for path in sorted(folder.glob("*.cti"))]
        if not found:
            raise SourceError(
                f"{self.name}: no GenTL producer; give genicam:/path/to/producer.cti, or set {PATH}"
            )
        return found

    def _has(self, name: str) -> bool:
        return bool(self._camera.remote_device.node_map.has_node(name))

    def _set(self, name: str, value: str) -> None:
        node = self._camera.remote_device.node_map.get_node(name)
        if isinstance(node, genapi.ICommand):
            node.execute()
            return
        if isinstance(node, (genapi.IInteger, genapi.IFloat)):
            number(value)
        node.from_string(value)

    def _start(self) -> None:
        self._camera.start()

    def _fire(self) -> None:
        self._camera.remote_device.node_map.TriggerSoftware.execute()

    def _grab(self, timeout: float) -> Shot | None:
        try:
            buffer = self._camera.fetch(timeout=timeout)
        except gentl.TimeoutException:
            return None
        try:
            told = buffer.module
            known = told.frame_id, _seconds(told)
            if not told.is_complete():
                return Shot(None, "parts of the frame are missing", *known)
            part = buffer.payload.components[0]
            code = CODES.get(part.data_format, told.pixel_format)
            pixels = picture(code, part.data, part.height, part.width, part.x_padding)
            return Shot(pixels, "", *known)
        finally:
            buffer.queue()

    def _disconnect(self) -> None:
        camera, self._camera = self._camera, None
        harvester, self._harvester = self._harvester, None
        try:
            if camera is not None:
                camera.destroy()
        finally:
            if harvester is not None:
                harvester.reset()


def genicam_source(uri: str) -> GenicamSource:
    """The source that a genicam: URI describes; ConfigError says what is wrong with it."""
    address, features = split_features(parse(uri))
    return GenicamSource(address, options(Genicam, address), features)


def _seconds(buffer: Any) -> float | None:
    try:
        return float(buffer.timestamp_ns) / 1e9
    except gentl.GenericException:  # many producers have none
        return None
