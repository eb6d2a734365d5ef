"""Basler's cameras, through pylon. Without a camera, PYLON_CAMEMU=2 in the environment gives two.

pylon:                                          the only camera there is
pylon:40012345?ExposureTime=800&PixelFormat=Mono8
pylon:Lid-Station?settings=/etc/sanflow/lid.pfs  by its user-defined name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pypylon import pylon

from ..source import SourceError
from .machine import MachineCamera, Shot, choose, number
from .pixels import picture
from .uri import Address, options, parse, split_features

READY = 1000
"""Milliseconds that a camera may need to be ready for a trigger."""


@dataclass(frozen=True)
class Pylon:
    """What a pylon: URI can ask for, beside the camera's own settings."""

    settings: str = ""
    """A file of settings that pylon Viewer saved; settings in the URI come after it."""


class PylonSource(MachineCamera):
    """See the module."""

    def __init__(self, address: Address, asked: Pylon, features: Mapping[str, str]) -> None:
        super().__init__(address, features)
        self._wanted, self._settings = address.place, asked.settings
        self._camera: Any = None
        self._ticks = 0.0

    def _connect(self) -> None:
        factory = pylon.TlFactory.GetInstance()
        found = factory.EnumerateDevices()
        names = [[d.GetSerialNumber(), d.GetUserDefinedName(), d.GetModelName()] for d in found]
        device = found[choose(self.name, self._wanted, names)]
        self._camera = pylon.InstantCamera(factory.CreateDevice(device))
        self._camera.Open()
        self.gige = device.GetDeviceClass() == "BaslerGigE"
        if self._settings:
            if not Path(self._settings).is_file():
                raise SourceError(f"{self.name}: there is no file {self._settings}")
            pylon.FeaturePersistence.Load(self._settings, self._camera.GetNodeMap(), True)
        frequency = self._node("GevTimestampTickFrequency")
        self._ticks = float(frequency.GetValue()) if frequency.IsReadable() else 1e9

    def _node(self, name: str) -> Any:
        return self._camera.GetNodeMap().GetNode(name)

    def _has(self, name: str) -> bool:
        return bool(self._node(name).IsValid())

    def _set(self, name: str, value: str) -> None:
        node = self._node(name)
        if isinstance(node, pylon.CommandParameter):
            node.Execute()
            return
        if isinstance(node, (pylon.IntegerParameter, pylon.FloatParameter)):
            number(value)
        node.FromString(value)

    def _start(self) -> None:
        self._camera.StartGrabbing(pylon.GrabStrategy_OneByOne)

    def _fire(self) -> None:
        if not self._camera.WaitForFrameTriggerReady(READY, pylon.TimeoutHandling_Return):
            raise SourceError(f"{self.name}: the camera is not ready for a trigger")
        self._camera.ExecuteSoftwareTrigger()

    def _grab(self, timeout: float) -> Shot | None:
        result = self._camera.RetrieveResult(
            max(1, round(1e3 * timeout)), pylon.TimeoutHandling_Return
        )
        if not result.IsValid():
            if self._camera.IsCameraDeviceRemoved():
                raise SourceError(f"{self.name}: the camera was removed")
            return None
        try:
            known = result.BlockID, result.TimeStamp / self._ticks or None
            if not result.GrabSucceeded():
                return Shot(None, result.ErrorDescription or "the frame is incomplete", *known)
            pixels = picture(
                result.PixelType, result.Buffer, result.Height, result.Width, result.PaddingX
            )
            return Shot(pixels, "", *known)
        finally:
            result.Release()

    def _disconnect(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.Close()
            camera.DestroyDevice()


def pylon_source(uri: str) -> PylonSource:
    """The source that a pylon: URI describes; ConfigError says what is wrong with it."""
    address, features = split_features(parse(uri))
    return PylonSource(address, options(Pylon, address), features)
